"""Training ideas by name: each does what it says, for anybody's experiment, and goes on after a kill."""

from dataclasses import replace

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from torch import nn

import cifar_fast.training.schedules  # noqa: F401 - patches fit_decay onto Learner
from cifar_fast.baselines import custom
from cifar_fast.data.loaders import image_dls
from cifar_fast.errors import InputError
from cifar_fast.experiment import Experiment
from cifar_fast.runs.one_seed import learner_from_options
from cifar_fast.training import ideas
from cifar_fast.training.callbacks.averages import StochasticAverage, WeightAverage
from cifar_fast.training.learner import fast_learner, transfer_learner
from cifar_fast.training.optimizers import OPTIMIZERS
from cifar_fast.training.turns import TakesTurns
from conftest import with_cbs
from processes import Dying, Killed


def linear(dls):
    return fast_learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, dls.c)), precision="fp32")


MADE = Experiment(linear)
IDEAS = {
    "label_smoothing": 0.2, "class_weights": "balanced", "mixup": 0.4, "cutmix": 0.9, "clip": 0.01, "accumulate": 3,
    "ema": 0.9, "wd": 0.3, "warmup": 1, "momentum": 0.9, "swa": 0.5, "opt": "lion", "erase": 0.9, "color": 0.5,
    "auto_augment": "trivial", "sampling": "balanced",
}  # fmt: skip


@pytest.fixture(scope="module")
def few(digits):
    rare = digits.train_y[:200] != 3
    rare[:40] = True
    idxs = rare.nonzero().flatten()
    return replace(digits.fewer(0, 50), train_x=digits.train_x[idxs], train_y=digits.train_y[idxs])


def options_of(name):
    sgd = {"opt": "sgd"} if name == "momentum" else {}
    return MADE.options(**{name: IDEAS[name], "epochs": 2, "bs": 20}, **sgd)


def fitted(few, options):
    torch.manual_seed(0)
    learn = learner_from_options(MADE, options, few, "test", torch.device("cpu"))
    learn.fit_decay(2, 1e-2, 1e-3, warmup=options.warmup)
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()]), learn


@pytest.mark.parametrize("name", IDEAS)
def test_each_idea_changes_the_training(few, name):
    options = options_of(name)
    plain = MADE.options(epochs=2, bs=20, opt="sgd" if name == "momentum" else "adam")
    assert not torch.equal(fitted(few, options)[0], fitted(few, plain)[0])


TOGETHER = [
    dict(mixup=0.4, label_smoothing=0.2, class_weights="balanced", clip=0.1, ema=0.9, wd=0.3),
    dict(cutmix=0.9, accumulate=3, warmup=1, opt="sgd", momentum=0.9, swa=0.7),
    dict(erase=0.5, color=0.4, auto_augment="rand", sampling="balanced", opt="muon"),
    *(pytest.param(dict(opt=o, auto_augment="augmix"), marks=pytest.mark.slow) for o in ("lion", "ranger")),
]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("asked", TOGETHER)
def test_ideas_go_on_bit_for_bit(asked, tmp_path):
    asked = dict(
        data="digits", images=100, test_images=40, bs=20, epochs=2, device="cpu", precision="fp32", quiet=True, width=4,
        dense_width=8, **asked,
    )  # fmt: skip
    whole = custom.run(**asked, run=str(tmp_path / "whole"))
    with pytest.raises(Killed):
        with_cbs(custom, Dying()).run(**asked, run=str(tmp_path / "killed"))
    again = custom.run(resume=str(tmp_path / "killed"))
    state = whole.learn.model.state_dict()
    assert all(torch.equal(o, state[k]) for k, o in again.learn.model.state_dict().items())


def test_the_average_is_validated_and_kept(few):
    options = MADE.options(ema=0.99, epochs=2)
    torch.manual_seed(0)
    learn = MADE.learner(image_dls(few, bs=20, device="cpu"), options)
    learn.fit(2, 1e-2)
    seen = learn.recorder.values[-1][-2:]
    assert list(learn.validate()) == pytest.approx(seen, abs=1e-6)


def test_predictions_within_a_fit_leave_the_average_as_it_is(few):
    class AfterEpoch(Callback):
        order = 70

        def after_epoch(self):
            if not self.learn.lock.locked():
                self.learn.get_preds()

    def averaged(cbs=None):
        set_seed(0)
        learn = MADE.learner(image_dls(few, bs=20, device="cpu"), MADE.options(ema=0.9, epochs=2))
        before = {name: o.clone() for name, o in learn.model.state_dict().items()}
        learn.fit(2, 1e-2, cbs=cbs)
        return learn.model.state_dict(), before

    (whole, _), (looked, before) = averaged(), averaged(AfterEpoch())
    assert all(torch.equal(o, whole[name]) for name, o in looked.items())
    assert not any(torch.equal(o, before[name]) for name, o in looked.items())


def test_an_average_is_of_steps_where_batches_are_added_up(few):
    class Steps(Callback):
        n = 0

        def after_step(self):
            self.n += 1

    learn = MADE.learner(image_dls(few, bs=20, device="cpu"), MADE.options(ema=0.9, accumulate=3, bs=20))
    learn.fit(2, 1e-2, cbs=(steps := Steps()))
    assert 0 < learn.weight_average.n == steps.n < learn.train_iter


def test_the_mean_of_the_last_steps_is_kept_with_batch_norms_of_its_own(few):
    def normed(dls):
        layers = [nn.Flatten(), nn.Linear(3072, 8), nn.BatchNorm1d(8), nn.Linear(8, dls.c)]
        return fast_learner(dls, nn.Sequential(*layers), precision="fp32")

    class Steps(Callback):
        "Keeps the weights of each step."

        order, weights = 61, []

        def after_batch(self):
            if self.training:
                self.weights.append(self.model[1].weight.detach().clone())

    made = Experiment(normed)
    learn = made.learner(image_dls(few, bs=20, device="cpu"), made.options(swa=0.5, epochs=2))
    learn.fit(2, 1e-2, cbs=(steps := Steps()))
    last = torch.stack(steps.weights[len(steps.weights) // 2 :])
    assert len(last) == len(learn.dls.train)
    torch.testing.assert_close(learn.model[1].weight.detach(), last.mean(0))
    seen = learn.recorder.values[-1][1:]
    assert list(learn.validate()) == pytest.approx(seen, abs=1e-6)
    hidden = learn.model[:2](torch.cat([o[0].as_subclass(torch.Tensor) for o in learn.dls.train]))
    torch.testing.assert_close(learn.model[2].running_mean, hidden.mean(0).detach(), rtol=0.05, atol=0.02)


def test_balanced_batches_draw_a_rare_class_as_often(few):
    dls = image_dls(few, bs=20, sampling="balanced", device="cpu")
    y = torch.cat([yb for _ in range(20) for _, yb in dls.train])
    counts, plain = y.bincount(), few.train_y.bincount()
    assert len(y) == 20 * len(few.train_y) and plain.min() < plain.max() / 3
    assert counts.min() > 0.8 * counts.max()
    assert dls.train.new().weights is not None and dls.valid.weights is None


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_every_optimizer_learns(digits, opt):
    lr = {"sgd": 0.1, "lion": 3e-4}.get(opt, 1e-2)
    learn = linear_of(digits, opt)
    learn.fit(2, lr)
    assert learn.recorder.values[-1][-1] > 0.8


def linear_of(images, opt):
    return fast_learner(
        image_dls(images, device="cpu"), nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), opt=opt, precision="fp32"
    )


def test_balanced_classes_weigh_by_their_rarity(few):
    learn = MADE.learner(image_dls(few, bs=20, device="cpu"), options_of("class_weights"))
    weight, counts = learn.loss_func.func.weight, few.train_y.bincount()
    assert (weight * counts).std() < 1e-4 and weight.argmax() == counts.argmin()


def test_warmup_rises_in_a_straight_line_and_then_decays(few):
    learn = fitted(few, options_of("warmup"))[1]
    lrs, n = learn.recorder.lrs, len(learn.dls.train)
    assert lrs[:n] == pytest.approx([1e-2 * (i + 1) / n for i in range(n)])
    assert lrs[n] == pytest.approx(1e-2) and lrs[-1] == pytest.approx(1e-3)


def own_loss(dls):
    return fast_learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3072, dls.c)), loss_func=nn.MultiMarginLoss())


@pytest.mark.parametrize(
    "made, asked, message",
    [
        (Experiment(own_loss), dict(label_smoothing=0.1), "loss of its own"),
        (Experiment(own_loss), dict(class_weights="balanced"), "loss of its own"),
        (MADE, dict(momentum=0.9), "is SGD's"),
    ],
)
def test_an_idea_that_does_not_fit_is_named(few, made, asked, message):
    with pytest.raises(InputError, match=message):
        made.learner(image_dls(few, bs=20, device="cpu"), made.options(**asked))
    with pytest.raises(InputError, match="warms up by itself"):
        MADE.options(warmup=1, schedule="one_cycle")
    for pair in ({"mixup": 0.4, "cutmix": 0.9}, {"ema": 0.9, "swa": 0.5}):
        with pytest.raises(InputError, match="give one of them"):
            MADE.options(**pair)


def test_an_average_and_a_saved_model_are_not_both_kept(few):
    learn = MADE.learner(image_dls(few, bs=20, device="cpu"), MADE.options(ema=0.9))
    with pytest.raises(InputError, match="SaveModelCallback"):
        learn.fit(1, cbs=SaveModelCallback(monitor="train_loss"))


@pytest.mark.parametrize("cb", [WeightAverage(0.9), TakesTurns(None)])
def test_an_average_and_trainings_at_once_leave_the_cache_of_a_frozen_body_on(few, cb):
    learn = transfer_learner(image_dls(few, bs=20, device="cpu"), "squeezenet1_1", "none", cbs=cb)
    assert not learn.cached_body.obstacle()


class Doubled(CrossEntropyLossFlat):
    def __call__(self, preds, targs, **kwargs):
        return nn.functional.cross_entropy(preds, targs.long()) * 2


@pytest.mark.parametrize("option, value, loss, said", [
    ("label_smoothing", 0.1, Doubled(), "a loss of its own"),
    ("label_smoothing", 0.1, CrossEntropyLossFlat(label_smoothing=0.2), "label_smoothing, and this"),
    ("class_weights", "balanced", Doubled(), "a loss of its own"),
    ("class_weights", "balanced", CrossEntropyLossFlat(weight=torch.ones(10)), "weight, and this"),
])  # fmt: skip
def test_a_loss_of_the_users_own_is_not_changed_behind_their_back(option, value, loss, said, digits_dls):
    learn = fast_learner(digits_dls, nn.Linear(2, 2), loss_func=loss)
    with pytest.raises(InputError, match=said):
        ideas.IDEAS[option](learn, value)


class Turns(nn.Module):
    "Complex weights, and a count."

    def __init__(self, c):
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(3072, 8, dtype=torch.cfloat) / 50), nn.Linear(8, c)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.count += self.training
        return self.last((x.flatten(1).to(torch.cfloat) @ self.weight).abs())


@pytest.mark.parametrize("average", [WeightAverage(0.5), StochasticAverage(0.5)])
def test_an_average_has_complex_weights_and_whole_numbers_too(average, digits_dls):
    set_seed(0)
    learn = fast_learner(digits_dls, Turns(10), precision="fp32", opt_func=Adam, cbs=average)
    before = learn.model.weight.detach().clone()
    with learn.no_bar():
        learn.fit(2)
    assert learn.model.count == 2 * len(digits_dls.train) and not torch.equal(learn.model.weight, before)
