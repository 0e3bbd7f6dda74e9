"""What people do with optimizers, as in fastai's notebook 12_optimizer."""

import copy
from functools import partial

import pytest
import torch
from fastai.callback.core import Callback
from fastai.layers import norm_bias_params
from fastai.optimizer import SGD, Adam, Lamb, Larc, OptimWrapper, QHAdam, RAdam, RMSProp, ranger
from torch import nn

from habits.table import departs, fails_on_stock, only

BUT_RECORD = ("stock", "custom", "transfer", "cached")  # whose optimizer is its recipe's


def weights(learn) -> dict[str, torch.Tensor]:
    return {k: o.detach().clone() for k, o in learn.model.named_parameters()}


def still(learn) -> None:
    "A loss without gradient: what moves is decay."
    learn.loss_func = lambda pred, y: sum((p * 0).sum() for p in learn.model.parameters() if p.requires_grad)
    learn.metrics = None


def moved(learn, before: dict) -> dict[str, float]:
    "By which factor each parameter has become smaller."
    ratios = {k: (o.norm() / before[k].norm()).item() for k, o in learn.model.named_parameters() if before[k].norm()}
    return {k: v for k, v in ratios.items() if v == v}


def exempt(learn) -> set[str]:
    "Names of biases and norms."
    found = {id(p) for p in norm_bias_params(learn.model)}
    return {k for k, p in learn.model.named_parameters() if id(p) in found}


def test_an_optimizer_is_made_at_the_first_fit(learn):
    learn.opt = None
    learn.fit(1)
    assert learn.opt is not None


def test_numbers_of_each_group(learn):
    learn.create_opt()
    assert len(learn.opt.hypers) == len(learn.opt.param_lists) and "lr" in learn.opt.hypers[0]


def test_set_hyper(learn):
    learn.create_opt()
    learn.opt.set_hyper("lr", 0.5)
    assert all(h["lr"] == 0.5 for h in learn.opt.hypers)


def test_set_hypers(learn):
    learn.create_opt()
    learn.opt.set_hypers(lr=0.5, wd=0.1)
    assert all(h["lr"] == 0.5 and h["wd"] == 0.1 for h in learn.opt.hypers)


def test_set_hyper_for_each_group(learn):
    learn.create_opt()
    rates = [0.1 * (i + 1) for i in range(len(learn.opt.param_lists))]
    learn.opt.set_hyper("lr", rates)
    assert [h["lr"] for h in learn.opt.hypers] == rates


def test_set_hyper_by_a_slice(learn):
    learn.create_opt()
    learn.opt.set_hyper("lr", slice(1e-4, 1e-2))
    assert learn.opt.hypers[-1]["lr"] == pytest.approx(1e-2)


def test_set_hyper_of_a_wrong_count(learn):
    learn.create_opt()
    with pytest.raises(AssertionError, match="values for lr"):
        learn.opt.set_hyper("lr", [0.1] * 7)


def test_a_rate_by_hand(learn):
    learn.create_opt()
    for h in learn.opt.hypers:
        h["lr"] = 0.25
    assert [h["lr"] for h in learn.opt.hypers] == [0.25] * len(learn.opt.hypers)


def test_a_rate_by_hand_in_one_group(learn):
    learn.create_opt()
    learn.opt.hypers[-1]["lr"] = 0.25
    assert learn.opt.hypers[-1]["lr"] == 0.25


def test_several_numbers_by_hand(learn):
    learn.create_opt()
    learn.opt.hypers[0].update(lr=0.25, wd=0.5)
    assert (learn.opt.hypers[0]["lr"], learn.opt.hypers[0]["wd"]) == (0.25, 0.5)


@only(*BUT_RECORD)
def test_a_rate_by_hand_counts_in_a_step(learn):
    class Stills(Callback):
        def before_epoch(self):
            for h in self.opt.hypers:
                h["lr"] = 0.0

    before = weights(learn)
    learn.fit(1, 1.0, cbs=Stills())
    assert all(torch.equal(before[k], o) for k, o in weights(learn).items())


def test_a_rate_of_zero(learn):
    learn.fit(1, 0.0)  # a record network's filters are scaled to one size at the first step, whatever the rate
    before = weights(learn)
    learn.fit(1, 0.0)
    for k, o in weights(learn).items():
        torch.testing.assert_close(before[k], o)


def test_freeze_and_unfreeze(learn):
    learn.create_opt()
    learn.freeze()
    assert learn.opt.frozen_idx == len(learn.opt.param_lists) - 1
    learn.unfreeze()
    assert learn.opt.frozen_idx == 0


def test_a_frozen_body_stays(learn):
    learn.create_opt()
    learn.freeze()
    body = [p for group in learn.opt.param_lists[:-1] for p in group if p.ndim > 1]
    before = [p.detach().clone() for p in body]
    learn.fit(1, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, body))


def test_freeze_to(learn):
    learn.create_opt()
    learn.freeze_to(-1)
    last = learn.opt.param_lists[-1]
    assert all(p.requires_grad for p in last)


def test_freezing_all_warns(learn):
    learn.create_opt()
    with pytest.warns(UserWarning, match="whole model is frozen"):
        learn.freeze_to(len(learn.opt.param_lists))


def test_groups_of_parameters(learn):
    learn.create_opt()
    grouped = {id(p) for group in learn.opt.param_lists for p in group}
    assert {id(p) for p in learn.model.parameters() if p.requires_grad} <= grouped


def test_all_params(learn):
    learn.create_opt()
    assert all(isinstance(p, nn.Parameter) for p, *_ in learn.opt.all_params())


def test_zero_grad(learn):
    learn.create_opt()
    xb, yb = learn.dls.one_batch()
    learn.loss_func(learn.model(xb), yb).backward()
    learn.opt.zero_grad()
    assert not any(p.grad is not None and p.grad.any() for p, *_ in learn.opt.all_params())


def test_a_step_by_hand(learn):
    learn.create_opt()
    before = weights(learn)
    xb, yb = learn.dls.one_batch()
    learn.loss_func(learn.model(xb), yb).backward()
    learn.opt.set_hyper("lr", 0.1)
    learn.opt.step()
    assert any(not torch.equal(before[k], o) for k, o in weights(learn).items())


def test_state_goes_out_and_in(learn):
    learn.fit(1)
    state = copy.deepcopy(learn.opt.state_dict())
    learn.create_opt()
    learn.opt.set_hyper("lr", 9.0)
    learn.opt.load_state_dict(state)
    assert learn.opt.hypers[-1]["lr"] == pytest.approx(learn.lr)


def test_clear_state(learn):
    learn.fit(1)
    learn.opt.clear_state()
    learn.fit(1)
    assert len(learn.recorder.losses) == 2


def test_freezing_clears_the_state(learn):
    learn.fit(1)
    learn.freeze()
    learn.unfreeze()
    learn.fit(1)
    assert len(learn.recorder.losses) == 2


@pytest.mark.parametrize(
    "opt", [SGD, partial(SGD, mom=0.9), Adam, RMSProp, RAdam, QHAdam, Larc, Lamb, ranger],
    ids=["SGD", "momentum", "Adam", "RMSProp", "RAdam", "QHAdam", "Larc", "Lamb", "ranger"],
)  # fmt: skip
def test_optimizers_of_fastai(learn, opt):
    learn.opt_func, learn.opt = opt, None
    before = weights(learn)
    learn.fit(1, 0.01)
    assert any(not torch.equal(before[k], o) for k, o in weights(learn).items())


@pytest.mark.parametrize("opt", [torch.optim.AdamW, torch.optim.RMSprop, partial(torch.optim.SGD, momentum=0.9)])
def test_optimizers_of_torch_in_fastais_wrapper(learn, opt):
    learn.opt_func, learn.opt = partial(OptimWrapper, opt=opt), None
    before = weights(learn)
    learn.fit_one_cycle(1, 0.01)
    assert any(not torch.equal(before[k], o) for k, o in weights(learn).items())


def test_a_function_of_ones_own_as_opt_func(learn):
    def mine(params, lr, **kwargs):
        return OptimWrapper(params, torch.optim.SGD, lr=lr, momentum=0.5)

    learn.opt_func, learn.opt = mine, None
    learn.fit(1, 0.01)
    assert learn.opt.hypers[-1]["mom"] == 0.5


def test_a_built_optimizer_of_torch(learn):
    learn.opt_func = OptimWrapper(opt=torch.optim.SGD(learn.model.parameters(), lr=0.1))
    learn.opt = None
    learn.fit(1, 0.01)
    assert learn.opt.hypers[-1]["lr"] == 0.01


def test_momentum_is_a_number_of_the_optimizer(learn):
    learn.opt_func, learn.opt = partial(SGD, mom=0.9), None
    learn.fit(1, 0.01)
    assert learn.opt.hypers[0]["mom"] == 0.9


def test_a_splitter_of_ones_own(learn):
    learn.opt_func, learn.opt = Adam, None
    learn.splitter = lambda m: [list(m.parameters())[:1], list(m.parameters())[1:]]
    learn.fit(1, slice(1e-4, 1e-3))
    assert [h["lr"] for h in learn.opt.hypers] == pytest.approx([1e-4, 1e-3])


# Weight decay


@only(*BUT_RECORD)
def test_weight_decay_of_a_fit(learn):
    still(learn)
    learn.unfreeze()
    before = weights(learn)
    learn.fit(1, 0.1, wd=1.0)
    ratios, spared = moved(learn, before), exempt(learn)
    assert all(v == pytest.approx(0.81, abs=1e-3) for k, v in ratios.items() if k not in spared)


@only(*BUT_RECORD)
def test_biases_and_norms_do_not_decay(learn):
    still(learn)
    learn.unfreeze()
    before = weights(learn)
    learn.fit(1, 0.1, wd=1.0)
    ratios, spared = moved(learn, before), exempt(learn)
    assert spared and all(v == pytest.approx(1) for k, v in ratios.items() if k in spared)


@only(*BUT_RECORD)
def test_biases_and_norms_decay_where_asked(again):
    learn = again(wd_bn_bias=True)
    still(learn)
    learn.unfreeze()
    before = weights(learn)
    learn.fit(1, 0.1, wd=1.0)
    assert all(v == pytest.approx(0.81, abs=1e-3) for v in moved(learn, before).values())


@only(*BUT_RECORD)
def test_weight_decay_of_the_learner(again):
    learn = again(wd=1.0)
    still(learn)
    learn.unfreeze()
    before = weights(learn)
    learn.fit(1, 0.1)
    assert min(moved(learn, before).values()) == pytest.approx(0.81, abs=1e-3)


@only(*BUT_RECORD)
def test_weight_decay_in_one_cycle(learn):
    still(learn)
    learn.unfreeze()
    before = weights(learn)
    learn.fit_one_cycle(1, 0.1, wd=1.0)
    wanted = 1.0
    for lr in learn.recorder.hps["lr"]:
        wanted *= 1 - lr
    assert min(moved(learn, before).values()) == pytest.approx(wanted, abs=1e-3)


@only(*BUT_RECORD)
def test_a_frozen_body_does_not_decay(learn):
    learn.create_opt()
    learn.freeze()
    body = [p for group in learn.opt.param_lists[:-1] for p in group if p.ndim > 1]
    before = [p.detach().clone() for p in body]
    learn.fit(1, 0.1, wd=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, body))


@only(*BUT_RECORD)
def test_weight_decay_by_hand(learn):
    still(learn)
    learn.unfreeze()
    learn.create_opt()
    learn.unfreeze()
    for h in learn.opt.hypers:
        h["wd"] = 1.0
    before = weights(learn)
    learn.fit(1, 0.1)
    assert min(moved(learn, before).values()) == pytest.approx(0.81, abs=1e-3)


@departs("its filters are scaled to one size, and do not decay", of=("record",))
def test_weight_decay_of_filters(learn):
    still(learn)
    learn.unfreeze()
    name = next(k for k, p in learn.model.named_parameters() if p.ndim == 4 and p.requires_grad)
    before = weights(learn)
    learn.fit(1, 0.1, wd=1.0)
    decayed = moved(learn, before)[name] == pytest.approx(0.81, abs=1e-3)
    assert decayed == (learn.kind != "record")


@departs("fastai's Adam decays by 0.01 where nothing is said; the default optimizers here are torch's, and do not")
@only(*BUT_RECORD)
def test_decay_without_asking(learn):
    still(learn)
    learn.unfreeze()
    before = weights(learn)
    learn.fit(1, 0.1)
    ratios = moved(learn, before)
    wanted = (1 - 0.1 * 0.01) ** 2 if learn.kind == "stock" else 1.0
    assert min(ratios.values()) == pytest.approx(wanted, abs=1e-4)


@fails_on_stock("what is written into `hypers` of an optimizer of torch is lost")
@only(*BUT_RECORD)
def test_a_rate_by_hand_for_an_optimizer_of_torch(learn):
    if learn.kind == "stock":
        learn.opt_func = partial(OptimWrapper, opt=torch.optim.Adam)
    learn.create_opt()
    learn.opt.hypers[-1]["lr"] = 0.25
    assert learn.opt.hypers[-1]["lr"] == 0.25
