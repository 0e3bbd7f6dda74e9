"""Training ideas as options of every experiment: what each does to a Learner, in one table."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper
from torch import Tensor

from cifar_fast.errors import InputError
from cifar_fast.options import SHARED
from cifar_fast.training.callbacks.guards import only_predicts


class Accumulation(GradientAccumulation):
    "fastai's, but each epoch begins without gradients of the one before, so that a run can go on after any epoch."

    def before_train(self):
        "Begin anew."
        self.count = 0
        self.opt.zero_grad()


class WeightAverage(Callback):
    """Validates, saves and exports an exponential moving average of the weights, batch norms' statistics included.

    The fit goes on from the weights themselves; after it the model holds the average. Source: Polyak and Juditsky 1992,
    "Acceleration of stochastic approximation by averaging".
    """

    order, fits = 62, False  # after what measures the validated model, before the checkpoint

    def __init__(
        self,
        decay: float = 0.999,  # weight of the average so far at each step; less in the first steps
    ):
        self.decay, self.n, self.average, self.kept = decay, 0, None, None

    def before_fit(self):
        "Begin with the weights that there are."
        self.fits = not only_predicts(self.learn) and not hasattr(self.learn, "lr_finder")
        if self.fits and self.average is None:
            self.n, self.average = 0, [o.detach().clone() for o in self._tensors()]

    def after_batch(self):
        "Move the average."
        if not (self.fits and self.training):
            return
        self.n += 1
        decay = min(self.decay, (1 + self.n) / (10 + self.n))
        floats = [(a, o.detach()) for a, o in zip(self.average, self._tensors()) if a.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([a for a, _ in floats], [o for _, o in floats], 1 - decay)

    def before_validate(self):
        "Let the average be validated."
        if self.fits:
            self.kept = [o.detach().clone() for o in self._tensors()]
            self._put(self.average)

    def after_validate(self):
        "Go on from the weights."
        self._take_back()

    def after_cancel_validate(self):
        "Go on from the weights."
        self._take_back()

    def after_fit(self):
        "The average is the model."
        if self.fits:
            self._put(self.average)
            self.fits, self.average, self.kept = False, None, None

    def after_failed_fit(self):
        "As after a fit."
        self.after_fit()

    def state_dict(self) -> dict:
        "What a run that goes on must find again."
        return {"n": self.n, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        "Take it."
        self.n = state["n"]
        for mine, kept in zip(self.average, state["average"]):
            mine.copy_(kept)

    def _tensors(self) -> list[Tensor]:
        return [*self.learn.model.parameters(), *self.learn.model.buffers()]

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for o, value in zip(self._tensors(), values):
                o.copy_(value)

    def _take_back(self):
        if self.kept is not None:
            self._put(self.kept)
            self.kept = None


def _loss(learn: Learner, option: str) -> CrossEntropyLossFlat:
    if not isinstance(learn.loss_func, CrossEntropyLossFlat):
        raise InputError(f"--{option} changes cross-entropy, and this experiment has a loss of its own: leave it out")
    return learn.loss_func


def smooth_labels(learn: Learner, share: float) -> None:
    "`share` of each label goes to all classes."
    _loss(learn, "label-smoothing").func.label_smoothing = share


def weigh_classes(learn: Learner, how: str) -> None:
    "Each class counts the same in the loss, however many images it has."
    loss, y = _loss(learn, "class-weights"), learn.dls.train_ds.y
    counts = y.bincount(minlength=len(learn.dls.vocab)).clamp_min(1)
    loss.func.weight = (counts.sum() / (len(counts) * counts)).float()


def with_momentum(learn: Learner, momentum: float) -> None:
    "SGD with momentum."
    func = learn.opt_func
    if not isinstance(func, partial) or func.keywords.get("opt") is not torch.optim.SGD:
        raise InputError("--momentum is SGD's: give --opt sgd too")
    learn.opt_func, learn.opt = partial(OptimWrapper, **func.keywords, momentum=momentum), None


def decay_weights(learn: Learner, wd: float) -> None:
    "Weight decay, decoupled from the gradient as in fastai and AdamW, in all fits."
    func = learn.opt_func
    if isinstance(func, partial) and func.keywords.get("opt") is torch.optim.Adam:
        learn.opt_func, learn.opt = partial(func, decoupled_weight_decay=True), None
    learn.wd = wd


def _added(make: Callable) -> Callable:
    return lambda learn, value: learn.add_cb(make(learn, value))


IDEAS: dict[str, Callable[[Learner, float], None]] = {
    "label_smoothing": smooth_labels,
    "class_weights": weigh_classes,
    "mixup": _added(lambda learn, alpha: MixUp(alpha)),
    "cutmix": _added(lambda learn, alpha: CutMix(alpha)),
    "clip": _added(lambda learn, norm: GradientClip(norm)),
    "accumulate": _added(lambda learn, n: Accumulation(n * learn.dls.train.bs)),
    "ema": _added(lambda learn, decay: WeightAverage(decay)),
    "momentum": with_momentum,
    "wd": decay_weights,
}


def with_ideas(
    learn: Learner,  # of an experiment
    options: SimpleNamespace,  # with a value for each idea, whose default leaves it out
    own: dict,  # the experiment's own options, which it has seen to itself
) -> Learner:
    "`learn`, changed by the ideas that are asked for. Raises `InputError` for those that do not fit."
    for name, apply in IDEAS.items():
        value = getattr(options, name)
        if name not in own and value != SHARED[name].default:
            apply(learn, value)
    return learn
