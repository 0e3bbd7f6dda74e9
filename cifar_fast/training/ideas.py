"""Training ideas as options of every experiment: what each does to a Learner, in one table."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import nn

from cifar_fast.errors import InputError
from cifar_fast.options import SHARED
from cifar_fast.training.callbacks.averages import StochasticAverage, WeightAverage
from cifar_fast.training.callbacks.guards import is_own


class Accumulation(GradientAccumulation):
    "fastai's, but each epoch begins without gradients of the one before, so that a run can go on after any epoch."

    def before_train(self):
        "Begin anew."
        self.count = 0
        self.opt.zero_grad()


def _loss(
    learn: Learner,
    option: str,
    part: str,  # of torch's loss, which the option sets
) -> nn.Module:
    loss = learn.loss_func
    if not isinstance(loss, CrossEntropyLossFlat) or is_own(loss):
        raise InputError(f"--{option} changes cross-entropy, and this experiment has a loss of its own: leave it out")
    if isinstance(given := getattr(loss.func, part), torch.Tensor) or given:
        raise InputError(f"--{option} sets the loss's {part}, and this experiment's has one: leave the option out")
    return loss.func


def smooth_labels(learn: Learner, share: float) -> None:
    "`share` of each label goes to all classes."
    _loss(learn, "label-smoothing", "label_smoothing").label_smoothing = share


def weigh_classes(learn: Learner, how: str) -> None:
    "Each class counts the same in the loss, however many images it has."
    loss, y = _loss(learn, "class-weights", "weight"), learn.dls.train_ds.y
    counts = y.bincount(minlength=len(learn.dls.vocab)).clamp_min(1)
    loss.weight = (counts.sum() / (len(counts) * counts)).float()


def with_momentum(learn: Learner, momentum: float) -> None:
    "SGD with momentum."
    func = learn.opt_func
    if not isinstance(func, partial) or func.keywords.get("opt") is not torch.optim.SGD:
        raise InputError("--momentum is SGD's: give --opt sgd too")
    learn.opt_func, learn.opt = partial(func, momentum=momentum), None


IDEAS: dict[str, Callable[[Learner, float], None]] = {
    "label_smoothing": smooth_labels,
    "class_weights": weigh_classes,
    "mixup": lambda learn, alpha: learn.add_cb(MixUp(alpha)),
    "cutmix": lambda learn, alpha: learn.add_cb(CutMix(alpha)),
    "clip": lambda learn, norm: learn.add_cb(GradientClip(norm)),
    "accumulate": lambda learn, n: learn.add_cb(Accumulation(n * learn.dls.train.bs)),
    "ema": lambda learn, decay: learn.add_cb(WeightAverage(decay)),
    "swa": lambda learn, share: learn.add_cb(StochasticAverage(share)),
    "momentum": with_momentum,
    "wd": lambda learn, wd: setattr(learn, "wd", wd),  # in all fits, as the Learner's optimizer does it
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
