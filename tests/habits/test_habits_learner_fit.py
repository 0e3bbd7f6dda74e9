"""How people fit and patch a Learner, as in fastai's notebook 13a_learner."""

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.learner import Learner, SkipToEpoch
from fastai.losses import LabelSmoothingCrossEntropyFlat
from torch import nn

from habits.probes import rate, same, weights
from habits.table import departs


def test_a_fit_lowers_the_loss(learn):
    before = learn.validate()[0]
    learn.fit(5, rate(learn))
    assert learn.validate()[0] < before


def test_a_fit_of_no_epochs_changes_nothing(learn):
    before = weights(learn)
    learn.fit(0)
    assert same(before, weights(learn))


def test_the_rate_of_a_fit_is_the_optimizers(learn):
    learn.fit(1, 0.003)
    assert [h["lr"] for h in learn.opt.hypers] == [0.003] * len(learn.opt.hypers)


def test_without_a_rate_the_learners_counts(learn):
    learn.lr = 0.004
    learn.fit(1)
    assert learn.opt.hypers[-1]["lr"] == 0.004


def test_a_slice_of_rates_spreads_over_the_groups(learn):
    learn.fit(1, slice(1e-4, 1e-2))
    lrs = [h["lr"] for h in learn.opt.hypers]
    assert lrs[-1] == pytest.approx(1e-2) and lrs == sorted(lrs)


def test_a_slice_with_an_end_alone_gives_a_tenth_to_the_body(learn):
    learn.fit(1, slice(1e-2))
    *body, head = [h["lr"] for h in learn.opt.hypers]
    assert head == 1e-2 and all(o == pytest.approx(1e-3) for o in body)


def test_callbacks_of_a_fit_are_gone_after_it(learn):
    class Mine(Callback):
        pass

    n = len(learn.cbs)
    learn.fit(1, cbs=Mine())
    assert len(learn.cbs) == n and not hasattr(learn, "mine")


def test_a_callback_may_be_given_as_its_class(learn):
    seen = []

    class Mine(Callback):
        def before_fit(self):
            seen.append(self.n_epoch)

    learn.fit(1, cbs=Mine)
    assert seen == [1]


def test_state_of_the_optimizer_goes_over_into_the_next_fit(learn):
    learn.fit(1)
    opt = learn.opt
    learn.fit(1)
    assert learn.opt is opt


def test_reset_opt_makes_the_optimizer_anew(learn):
    learn.fit(1)
    opt = learn.opt
    learn.fit(1, reset_opt=True)
    assert learn.opt is not opt


def test_start_epoch_skips_epochs(learn):
    seen = []
    learn.fit(3, start_epoch=2, cbs=Callback(before_train=lambda self: seen.append(1)))
    assert len(seen) == 1


def test_skip_to_epoch_as_a_callback(learn):
    before = weights(learn)
    learn.fit(2, cbs=SkipToEpoch(2))
    assert same(before, weights(learn))


def test_training_runs_in_train_mode_and_validation_in_eval_mode(learn):
    modes = []
    learn.fit(1, cbs=Callback(after_pred=lambda self: modes.append((self.training, self.model.training))))
    assert modes == [(True, True)] * 2 + [(False, False)]


def test_counters_of_a_fit(learn):
    learn.fit(2)
    assert (learn.n_epoch, learn.epoch, learn.train_iter) == (2, 1, 4) and learn.pct_train == pytest.approx(1)


def test_after_a_fit_the_last_batch_is_let_go(learn):
    learn.fit(1)
    assert learn.dl is None and learn.xb == (None,) and learn.pred is None and learn.loss is None


def test_gradients_are_zero_after_a_fit(learn):
    learn.fit(1)
    assert not any(p.grad is not None and p.grad.any() for p in learn.model.parameters())


def test_one_batch_by_hand(learn):
    learn.create_opt()
    before = weights(learn)
    learn.opt.set_hypers(lr=rate(learn))
    learn.training, learn.n_iter, learn.n_epoch = True, 1, 1
    with learn.no_logging():
        learn.dl = learn.dls.train
        learn("before_fit")
        learn("before_epoch")
        learn("before_train")
        learn.one_batch(0, learn.dls.one_batch())
    assert not same(before, weights(learn))


def test_a_loop_of_torch_over_the_loader(learn):
    opt = torch.optim.SGD(learn.model.parameters(), lr=0.01)
    for xb, yb in learn.dls.train:
        loss = F.cross_entropy(learn.model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert loss.isfinite()


def test_the_learners_loss_by_hand(learn):
    xb, yb = learn.dls.one_batch()
    loss = learn.loss_func(learn.model(xb), yb)
    loss.backward()
    assert any(p.grad is not None for p in learn.model.parameters())


def test_other_losses_by_hand(learn):
    xb, yb = learn.dls.one_batch()
    pred, rows = learn.model(xb), range(len(yb))
    assert F.nll_loss(pred.log_softmax(1), yb).item() == pytest.approx(F.cross_entropy(pred, yb).item())
    assert torch.equal(pred[rows, yb], pred.gather(1, yb[:, None])[:, 0])
    assert F.mse_loss(pred, F.one_hot(yb, 4).float()).isfinite() and pred.argmax(1).eq(yb).shape == yb.shape


def test_do_one_batch_may_be_patched_on_the_object(learn):
    seen = []
    plain = learn._do_one_batch
    learn._do_one_batch = lambda: (seen.append(1), plain())
    learn.fit(1)
    assert len(seen) == 3


def test_do_fit_may_be_patched_on_the_object(learn):
    seen = []
    learn._do_fit = lambda: seen.append(learn.n_epoch)
    learn.fit(4)
    assert seen == [4]


def test_do_epoch_may_be_patched_on_the_object(learn):
    seen = []
    learn._do_epoch = lambda: seen.append(learn.epoch)
    learn.fit(2)
    assert seen == [0, 1]


def test_backward_and_step_may_be_patched_on_the_object(learn):
    seen = []
    back, step = learn._backward, learn._step
    learn._backward = lambda: (seen.append("backward"), back())
    learn._step = lambda: (seen.append("step"), step())
    learn.fit(1)
    assert seen == ["backward", "step"] * 2


def test_call_one_may_be_patched_on_the_object(learn):
    seen = []
    plain = learn._call_one
    learn._call_one = lambda name: (seen.append(name), plain(name))
    learn.fit(1)
    assert seen.count("after_batch") == 3 and seen[0] == "before_fit"


@pytest.mark.parametrize("name", ["_do_fit", "_do_epoch", "_do_one_batch", "_call_one"])
def test_the_class_may_be_patched(learn, monkeypatch, name):
    seen, plain = [], getattr(Learner, name)
    monkeypatch.setattr(Learner, name, lambda self, *args: (seen.append(1), plain(self, *args))[1])
    learn.fit(1)
    assert len(seen) >= 1


def test_another_loss_may_be_put_in_place(learn):
    learn.loss_func = lambda pred, y: (pred * 0).sum() + 7.0
    learn.fit(1)
    assert learn.recorder.values[-1][1] == pytest.approx(7)


def test_a_loss_of_torch(again):
    learn = again()
    learn.loss_func = nn.CrossEntropyLoss()
    learn.fit(1)
    assert len(learn.recorder.values) == 1


def test_label_smoothing_as_the_loss(learn):
    learn.loss_func = LabelSmoothingCrossEntropyFlat(eps=0.1)
    learn.fit(1)
    assert learn.get_preds()[0].sum(1).allclose(torch.ones(8))


@departs("its optimizer is for the groups of its own network", "RecordNet.s 4 groups", of=("record",))
def test_the_model_may_be_replaced(learn):
    learn.model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    learn.model(learn.dls.one_batch()[0])
    learn.opt, learn.splitter = None, lambda m: [list(m.parameters())]
    learn.fit(1, 1e-3)
    assert learn.get_preds()[0].shape == (8, 4)


def test_the_loaders_may_be_replaced(learn, make_dls):
    learn.dls = make_dls(learn.kind, bs=4)
    learn.fit(1)
    assert len(learn.recorder.losses) == 4


def test_the_batch_size_may_be_changed(learn):
    learn.dls.train.bs = 4
    learn.fit(1)
    assert len(learn.recorder.losses) == 4


def test_a_fit_repeats_itself_after_set_seed(again):
    from fastai.torch_core import set_seed

    def run():
        set_seed(3, reproducible=True)
        learn = again()
        learn.fit(1, rate(learn))
        return weights(learn)

    assert same(run(), run())
