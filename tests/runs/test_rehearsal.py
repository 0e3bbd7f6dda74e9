"""Mistakes in an experiment of one's own: said in a line before anything is learnt, and no folder is left."""

from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import AccumMetric, RocAuc, skm_to_fastai
from torch import nn
from torch.nn.functional import cross_entropy

from cifar_fast.baselines import custom
from cifar_fast.errors import InputError, RunError
from cifar_fast.experiment import experiment
from cifar_fast.runs.rehearsal import in_a_line
from cifar_fast.training.learner import fast_learner
from conftest import with_cbs

pytestmark = pytest.mark.usefixtures("no_pictures")
SMALL = {"data": "digits", "images": 100, "test_images": 40, "epochs": 1, "device": "cpu", "quiet": True, "run": "made"}


class Forgetful(nn.Module):
    "Counts on an image of 16 pixels."

    def __init__(self, c: int):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(2 * 16 * 16, c)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


class TwoOutputs(nn.Linear):
    "Says its features, too."

    def forward(self, x):
        return super().forward(x.flatten(1)), x


class Connected(nn.Linear):
    "Speaks as errors of several processes do."

    def forward(self, x):
        raise RuntimeError("the skip connection has 64 channels, not 32")


class Hidden(nn.Module):
    "Its layers are in a plain list."

    def __init__(self, c: int):
        super().__init__()
        self.layers = [nn.Flatten(), nn.Linear(3072, c)]


class Unprepared(Callback):
    "Fails before a batch is there."

    def before_fit(self):
        return self.dls.train_dataset


def dense(n: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, n))


def one_argument(preds):
    return preds.mean()


MISTAKES = {
    "too few outputs": (lambda c: dense(c - 1), {}, r"shape \(8, 9\) for 8 images of 10 classes"),
    "too many outputs": (lambda c: dense(100), {}, r"shape \(8, 100\) for 8 images of 10 classes"),
    "several outputs": (lambda c: TwoOutputs(3072, c), {}, "a tuple for 8 images of 10 classes"),
    "own forward": (Forgetful, {}, r"multiplied.*in test_rehearsal.py, line \d+, forward, in layer fc: Linear"),
    "words of other errors": (lambda c: Connected(3072, c), {}, r"the skip connection .*, in test_rehearsal.py, line"),
    "in a Sequential": (lambda c: nn.Sequential(dense(7), nn.Linear(8, c)), {}, "in layer 1: Linear"),
    "a metric": (dense, {"metrics": [one_argument]}, "TypeError: one_argument.. takes 1 positional argument"),
    "a loss": (dense, {"loss_func": one_argument}, "TypeError: one_argument.. takes 1 positional argument"),
    "probabilities": (lambda c: nn.Sequential(dense(c), nn.Softmax(1)), {}, "probabilities: leave its Softmax out"),
    "a callback at once": (dense, {"cbs": [Unprepared()]}, "no attribute 'train_dataset'"),
    "another accuracy": (dense, {"metrics": [AccumMetric(one_argument, name="accuracy")]}, "a metric called accuracy"),
    "no parameters": (Hidden, {}, "nn.ModuleList"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_training(mistake):
    network, more, said = MISTAKES[mistake]

    @experiment
    def made(dls):
        return fast_learner(dls, network(dls.c), **more)

    with pytest.raises(InputError, match=said) as caught:
        made.run(**SMALL)
    assert "\n" not in str(caught.value) and not list(Path().iterdir())


class OneChannel(Callback):
    "Takes two colours away in training."

    def __init__(self, first: int = 0):
        self.first = first  # epoch

    def before_batch(self):
        if self.training and self.epoch >= self.first:
            self.learn.xb = (self.x[:, :1],)


class TwoTargets(Callback):
    "For a loss that takes a tuple."

    order = -5

    def before_batch(self):
        if self.training:
            self.learn.yb = ((self.y, self.y),)


class Silent(Callback):
    "Refuses to train, without words: an assert of pytest's would have some."

    def before_batch(self):
        if self.training:
            raise AssertionError


class Auxiliary(nn.Module):
    "Gives two outputs in training, as torchvision's GoogLeNet does, of a layer that may not fit."

    def __init__(self, c: int, n: int = 3072):
        super().__init__()
        self.fc, self.aux = dense(c), nn.Linear(n, c)

    def forward(self, x):
        return (self.fc(x), self.aux(x.flatten(1))) if self.training else self.fc(x)


OF_TRAINING = {
    "a callback": (dense, {"cbs": OneChannel()}, {}, "cannot be trained: RuntimeError: mat1 .* in layer 1: Linear"),
    "a loss": (dense, {"loss_func": lambda p, y: cross_entropy(p.detach(), y)}, {}, "in the backward pass of the loss"),
    "a layer": (lambda c: Auxiliary(c, 7), {}, {}, r"in test_rehearsal.py, line \d+, forward, in layer aux: Linear"),
    "outputs": (Auxiliary, {}, {}, "cannot be trained: .*, where the network gives a tuple"),
    "--mixup": (dense, {"cbs": TwoTargets()}, {"mixup": 0.4}, "no attribute 'size', in MixUp, before_batch"),
    "--lr auto": (dense, {"cbs": OneChannel()}, {"lr": "auto"}, "cannot be trained: RuntimeError: mat1"),
    "--bs 1": (dense, {"cbs": OneChannel()}, {"bs": 1}, "cannot be trained: RuntimeError: mat1"),
    "without words": (dense, {"cbs": Silent()}, {}, r"trained: AssertionError, in test_rehearsal.py, line"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", OF_TRAINING)
def test_a_mistake_that_only_training_shows_is_one_line_at_its_first_batch(mistake):
    network, more, options, said = OF_TRAINING[mistake]

    @experiment
    def made(dls):
        return Learner(dls, network(dls.c), **more)

    with pytest.raises(InputError, match=said) as caught:
        made.run(**SMALL, **options)
    assert "\n" not in str(caught.value) and not list(Path().iterdir())


def test_a_mistake_of_a_later_epoch_is_one_line_too_and_keeps_the_users_own():
    @experiment
    def made(dls):
        return Learner(dls, dense(dls.c), cbs=OneChannel(1))

    with pytest.raises(RunError, match=r"made failed in epoch 1: RuntimeError: mat1 .*, in layer 1: Linear"):
        made.run(**SMALL | {"epochs": 2})

    class Late(Callback):
        def after_train(self):
            raise KeyError("late")

    with pytest.raises(KeyError) as caught:
        with_cbs(made, Late()).run(**SMALL | {"run": "own"})
    assert caught.value.__notes__[0].startswith("made failed in epoch 0: KeyError: late, in test_rehearsal.py, line ")


def test_bugs_of_the_package_and_failing_devices_stay_what_they_are(digits_dls):
    @experiment
    def made(dls):
        return Learner(dls, dense(dls.c))

    learn = made(digits_dls)
    for of, error in ((custom, KeyError("a bug")), (made, RuntimeError("CUDA error: x")), (made, OSError("full"))):
        with pytest.raises(type(error)) as caught, in_a_line(of, learn):
            raise error
        assert caught.value is error


def test_metrics_may_ask_for_more_images_than_a_few():
    def of_many(preds, targs):
        if len(targs) < 30:
            raise ValueError("too few")
        return 0.5

    @experiment
    def made(dls):
        return Learner(dls, dense(dls.c), metrics=[RocAuc(), skm_to_fastai(of_many)])

    assert 0 < made.run(**SMALL).accuracy < 1


class LooksAround(Callback):
    "Asks for what a fit has, and refuses what is not a fit's."

    def before_batch(self):
        assert self.epoch < self.n_epoch and 0 <= self.pct_train <= 1


class Counts(Callback):
    "Changes what is learnt in the second epoch that it sees."

    def __init__(self, names: list):
        self.epochs, self.names = 0, names

    def before_epoch(self):
        self.epochs += 1
        self.names.append("one more")

    def before_batch(self):
        if self.training and self.epochs + len(self.names) == 4:
            self.learn.xb = (self.x.flip(-1),)


def with_roc(learn: Learner) -> Learner:
    "Rehearsed on all validation images, as few lack a class."
    learn.metrics = [*learn.metrics, RocAuc()]
    return learn


def test_it_changes_no_result_and_takes_callbacks_that_look_at_the_epoch(monkeypatch):
    small = SMALL | {"width": 2, "dense_width": 8, "precision": "fp32", "epochs": 2, "translate": 1, "mixup": 0.4}
    made = with_cbs(custom, LooksAround())
    made.learner, plain = lambda *args: with_roc(plain(*args)), made.learner
    with_it = with_cbs(made, counts := Counts(names := [])).run(**small)
    assert counts.names is names
    monkeypatch.setattr("cifar_fast.runs.one_seed.try_out", lambda *args: None)
    without = with_cbs(made, Counts([])).run(**small | {"run": "without"})
    assert all(torch.equal(a, b) for a, b in zip(*(o.learn.model.state_dict().values() for o in (with_it, without))))


def test_a_loss_that_is_nan_at_once_is_not_blamed_on_the_rate():
    @experiment
    def made(dls):
        return fast_learner(dls, dense(dls.c), loss_func=lambda pred, y: pred.sum() * float("nan"))

    for seeds in (1, 2):
        with pytest.raises(RunError, match="loss of the first batch is nan: look at the loss"):
            made.run(**SMALL, seeds=seeds)
    assert not list(Path().iterdir())  # so that the same command works when the loss is mended
