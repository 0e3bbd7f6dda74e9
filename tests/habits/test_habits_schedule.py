"""What people do with schedules, as in fastai's notebook 14_callback.schedule."""

from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import (
    LRFinder,
    ParamScheduler,
    SchedCos,
    SchedExp,
    SchedLin,
    SchedNo,
    SchedPoly,
    combine_scheds,
    minimum,
    slide,
    steep,
    valley,
)
from fastai.optimizer import SGD

from habits.table import departs, fails_on_stock, only


def weights(learn) -> list[torch.Tensor]:
    return [o.detach().clone() for o in learn.model.state_dict().values()]


def same(some, others) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_one_cycle_rises_and_falls(learn):
    learn.fit_one_cycle(5, 0.01)
    lrs = learn.recorder.hps["lr"]
    assert lrs[0] == pytest.approx(0.01 / 25) and max(lrs) > 0.009 and lrs[-1] < lrs[0] * 10 and len(lrs) == 10


def test_one_cycle_with_its_own_numbers(learn):
    learn.fit_one_cycle(2, 0.01, div=10, div_final=100, pct_start=0.5)
    assert learn.recorder.hps["lr"] == pytest.approx([0.001, 0.0055, 0.01, 0.00505])


def test_one_cycle_without_a_rate_takes_the_learners(learn):
    learn.lr = 0.02
    learn.fit_one_cycle(2, pct_start=0.5)
    assert max(learn.recorder.hps["lr"]) == pytest.approx(0.02)


def test_one_cycle_over_the_groups(learn):
    learn.fit_one_cycle(1, slice(1e-4, 1e-2))
    lrs = [h["lr"] for h in learn.opt.hypers]
    assert lrs == sorted(lrs)


def test_one_cycle_with_callbacks(learn):
    seen = []
    learn.fit_one_cycle(2, 0.01, cbs=Callback(after_epoch=lambda self: seen.append(self.epoch)))
    assert seen == [0, 1]


def test_one_cycle_after_one_cycle(learn):
    learn.fit_one_cycle(1, 0.01)
    learn.fit_one_cycle(2, 0.02)
    assert len(learn.recorder.hps["lr"]) == 4


def test_one_cycle_goes_on_at_an_epoch(learn):
    learn.fit_one_cycle(3, 0.01, start_epoch=2)
    assert len(learn.recorder.hps["lr"]) == 2


def test_one_cycle_with_other_momenta(learn):
    learn.fit_one_cycle(1, 0.01, moms=(0.9, 0.8, 0.9))
    assert learn.recorder.hps["mom"]


def test_momentum_of_an_adaptive_optimizer_falls_and_rises(learn):
    learn.fit_one_cycle(4, 0.01, pct_start=0.5)
    moms = learn.recorder.hps["mom"]
    assert moms[0] == pytest.approx(0.95) and min(moms) == pytest.approx(0.85)


@only("stock", "custom", "transfer", "cached")
def test_sgd_without_momentum_trains_the_same_in_one_cycle(again):
    opt = {"opt_func": SGD} if again.kind == "stock" else {"opt": "sgd"}
    learn = again(**opt)
    for p in learn.model.parameters():
        p.requires_grad_(True)
    learn.loss_func = lambda pred, y: sum(p.sum() for p in learn.model.parameters())
    learn.metrics = None
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.fit_one_cycle(1, 0.01, wd=0.0)
    moved = sum(learn.recorder.hps["lr"])
    assert all(torch.allclose(a - moved, b, atol=1e-5) for a, b in zip(before, learn.model.parameters()))


def test_flat_cos(learn):
    learn.fit_flat_cos(4, 0.01, pct_start=0.5)
    lrs = learn.recorder.hps["lr"]
    assert lrs[:5] == pytest.approx([0.01] * 5) and lrs[-1] < 0.005


def test_sgdr(learn):
    learn.fit_sgdr(2, 1, 0.01)
    lrs = learn.recorder.hps["lr"]
    assert len(lrs) == 6 and lrs[0] == lrs[2] == pytest.approx(0.01) and lrs[1] < lrs[0]


def test_fine_tune(learn):
    seen = []

    class Looks(Callback):
        def before_train(self):
            seen.append(self.opt.frozen_idx)

    learn.fine_tune(2, cbs=Looks())
    groups = len(learn.opt.param_lists)
    assert seen == [groups - 1, 0, 0]


def test_fine_tune_with_frozen_epochs(learn):
    seen = []
    learn.fine_tune(1, 1e-3, freeze_epochs=2, cbs=Callback(after_epoch=lambda self: seen.append(1)))
    assert len(seen) == 3


def test_fine_tune_trains_the_body_slowly(learn):
    learn.fine_tune(1, 1e-2)
    lrs = [h["lr"] for h in learn.opt.hypers]
    assert len(lrs) == 1 or lrs[0] == pytest.approx(lrs[-1] / 100)


def test_a_schedule_of_ones_own(learn):
    learn.fit(2, cbs=ParamScheduler({"lr": SchedLin(0.01, 0.02)}))
    assert learn.recorder.hps["lr"] == pytest.approx([0.01, 0.0125, 0.015, 0.0175])


def test_a_schedule_of_plain_python(learn):
    learn.fit(1, cbs=ParamScheduler({"lr": lambda pos: 0.1 * (1 - pos)}))
    assert learn.recorder.lrs == pytest.approx([0.1, 0.05])


def test_a_schedule_for_each_group(learn):
    n = len(learn.opt.param_lists) if learn.opt else 0
    learn.create_opt()
    n = len(learn.opt.param_lists)
    learn.fit(1, cbs=ParamScheduler({"lr": lambda pos: np.linspace(1e-4, 1e-3, n) * (1 - pos)}))
    assert len(learn.opt.hypers) == n and learn.opt.hypers[-1]["lr"] == pytest.approx(1e-3 / 2 if n > 1 else 1e-4 / 2)


@pytest.mark.parametrize("sched", [SchedCos, SchedExp, SchedLin, SchedNo, partial(SchedPoly, power=2)])
def test_schedules_of_fastai(learn, sched):
    learn.fit(1, cbs=ParamScheduler({"lr": sched(0.02, 0.01)}))
    assert learn.recorder.lrs[0] == pytest.approx(0.02)


def test_combined_schedules(learn):
    sched = combine_scheds([0.5, 0.5], [SchedLin(0.0, 1.0), SchedNo(0.5, 0.5)])
    learn.fit(2, cbs=ParamScheduler({"lr": sched}))
    assert learn.recorder.lrs == pytest.approx([0, 0.5, 0.5, 0.5])


def test_a_schedule_of_weight_decay(learn):
    learn.fit(1, cbs=ParamScheduler({"wd": SchedLin(0.1, 0.0)}))
    assert learn.recorder.hps["wd"] == pytest.approx([0.1, 0.05])


def test_two_schedules_at_once(learn):
    learn.fit(1, cbs=[ParamScheduler({"lr": SchedNo(0.01, 0.01)}), ParamScheduler({"mom": SchedNo(0.7, 0.7)})])
    assert learn.recorder.lrs == [0.01, 0.01]


def test_plot_sched(learn):
    learn.fit_one_cycle(1, 0.01)
    learn.recorder.plot_sched()
    learn.recorder.plot_sched("lr")


def test_lr_find_suggests_a_rate(learn):
    assert 1e-7 < learn.lr_find(show_plot=False).valley < 10


@pytest.mark.parametrize("suggest", [minimum, slide, steep, valley], ids=lambda o: o.__name__)
def test_suggestions_of_lr_find(learn, suggest):
    found = learn.lr_find(suggest_funcs=suggest, show_plot=False, stop_div=False)
    assert getattr(found, suggest.__name__) > 0


def test_several_suggestions_at_once(learn):
    found = learn.lr_find(suggest_funcs=(minimum, steep, valley), show_plot=False)
    assert found._fields == ("minimum", "steep", "valley")


def test_lr_find_without_suggestion(learn):
    assert learn.lr_find(suggest_funcs=None, show_plot=False) is None


def test_lr_find_leaves_the_weights(learn):
    before = weights(learn)
    learn.lr_find(show_plot=False)
    assert same(before, weights(learn))


def test_lr_find_leaves_no_files(learn):
    learn.lr_find(show_plot=False)
    assert not list((learn.path / learn.model_dir).iterdir())


@fails_on_stock("`lr_find` moves the random numbers on, and the fit after it is another one")
def test_lr_find_leaves_the_random_numbers(learn):
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    learn.lr_find(show_plot=False)
    assert torch.equal(torch.rand(1), wanted)


@fails_on_stock("`lr_find` moves the random numbers on, and the fit after it is another one")
def test_lr_find_finds_the_same_twice(learn):
    losses = []
    for _ in range(2):
        learn.lr_find(show_plot=False, num_it=10, stop_div=False, suggest_funcs=None)
        losses.append([float(o) for o in learn.recorder.losses])
    assert losses[0] == losses[1]


def test_lr_find_within_limits(learn):
    learn.lr_find(start_lr=1e-4, end_lr=1e-2, num_it=20, show_plot=False, stop_div=False)
    assert learn.recorder.lrs[0] == pytest.approx(1e-4) and max(learn.recorder.lrs) <= 1.01e-2


def test_plot_lr_find(learn):
    learn.lr_find(num_it=20, stop_div=False, suggest_funcs=None)
    learn.recorder.plot_lr_find(skip_end=0)


def test_lr_find_with_its_plot(learn):
    import matplotlib.pyplot as plt

    plt.close("all")
    learn.lr_find(num_it=20, stop_div=False)
    assert plt.gcf().axes[0].get_xlabel() == "Learning Rate"
    plt.close("all")


def test_the_finder_as_a_callback(learn):
    before = weights(learn)
    with learn.no_logging():
        learn.fit(10, cbs=LRFinder(num_it=12, stop_div=False))
    assert same(before, weights(learn)) and len(learn.recorder.lrs) == 12


def test_lr_find_between_freezing_and_unfreezing(learn):
    learn.freeze()
    learn.lr_find(num_it=10, show_plot=False, suggest_funcs=None)
    learn.unfreeze()
    learn.lr_find(num_it=10, show_plot=False, suggest_funcs=None)
    assert all(p.requires_grad for group in learn.opt.param_lists for p in group)


def test_a_fit_after_lr_find(learn):
    learn.lr_find(num_it=10, show_plot=False, suggest_funcs=None)
    learn.fit(1)
    assert len(learn.recorder.values) == 1


@fails_on_stock("an interrupted `lr_find` leaves moved weights and a folder in models/")
def test_an_interrupted_lr_find_gives_the_weights_back(learn):
    class Stops(Callback):
        def after_batch(self):
            if self.train_iter == 3:
                raise KeyboardInterrupt

    before = weights(learn)
    learn.add_cb(Stops())
    with pytest.raises(KeyboardInterrupt):
        learn.lr_find(start_lr=1e-2, show_plot=False)
    assert same(before, weights(learn)) and not list((learn.path / learn.model_dir).iterdir())


@departs("where there are too few losses for a suggestion, a line says so", "no rate can be suggested")
def test_lr_find_of_too_few_batches(learn):
    if learn.kind == "stock":
        with pytest.raises(IndexError):
            learn.lr_find(num_it=1, show_plot=False, stop_div=False)
    else:
        learn.lr_find(num_it=1, show_plot=False, stop_div=False)
