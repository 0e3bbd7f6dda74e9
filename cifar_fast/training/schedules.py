"""Learning-rate schedules as callbacks, and `Learner.fit_decay`."""

from collections.abc import Callable

import numpy as np
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedExp, SchedLin, SchedNo
from fastai.learner import Learner
from fastcore.basics import patch
from fastcore.foundation import L

from cifar_fast.errors import InputError, check


def SchedStep(start, end, n_steps: int = 3) -> Callable:
    "Schedule function that holds `n_steps` (two or more) levels from `start` to `end`, a constant factor apart."

    def _inner(pos: float):
        return start * (end / start) ** (min(int(pos * n_steps), n_steps - 1) / (n_steps - 1))

    return _inner


DECAYS = {"constant": SchedNo, "exp": SchedExp, "linear": SchedLin, "cosine": SchedCos, "step": SchedStep}


class LRDecay(ParamScheduler):
    """Take the learning rate from `lr_start` in the first batch of the fit to `lr_end` in the last.

    fastai's ParamScheduler ends one batch short of the end; the position here is i / (n - 1) for batch i of n.
    """

    def __init__(
        self,
        lr_start: float | np.ndarray,  # of the first batch, above 0; an array gives a rate for each layer group
        lr_end: float | np.ndarray,  # of the last batch, above 0
        kind: str = "exp",  # constant, exp, linear, cosine or step
        warmup: int = 0,  # epochs in which it rises to `lr_start` in a straight line, before
    ):
        check("kind", kind, kind in DECAYS, f"one of {', '.join(DECAYS)}")
        if np.min(lr_start) <= 0 or np.min(lr_end) <= 0:
            raise InputError(f"learning rates must be above 0, not {lr_start} and {lr_end}")
        super().__init__({"lr": DECAYS[kind](lr_start, lr_end)})
        self.warmup, self.lr_start = warmup, np.asarray(lr_start)

    def before_batch(self):
        "Set the learning rate of this batch."
        done, rise = self.epoch * self.n_iter + self.iter, self.warmup * self.n_iter
        if done < rise:
            self.opt.set_hyper("lr", L(*np.atleast_1d(self.lr_start * (done + 1) / rise).tolist()))
        else:
            self._update_val((done - rise) / max(self.n_epoch * self.n_iter - rise - 1, 1))


@patch
def fit_decay(
    self: Learner,
    n_epoch: int,  # epochs
    lr_start: float | slice | None = None,  # of the first batch; a slice spreads over the groups; None: learn.lr
    lr_end: float | slice | None = None,  # of the last batch; None: a hundredth of `lr_start`
    kind: str = "exp",  # constant, exp, linear, cosine or step
    wd: float | None = None,  # weight decay; None: the Learner's
    cbs=None,  # callbacks of this fit
    reset_opt: bool = False,  # whether to forget the optimizer's state
    start_epoch: int = 0,  # epochs to skip
    warmup: int = 0,  # of these epochs, those in which the rate rises to `lr_start` in a straight line
) -> None:
    """Fit `self.model` for `n_epoch` while the learning rate decays from `lr_start` to `lr_end`.

    `fit_decay(30, 1e-3, 8e-5)` is the article's schedule. Raises `InputError` for an unknown `kind` or a rate of 0.
    """
    if self.opt is None:
        self.create_opt()
    lr_start = _group_lrs(self, self.lr if lr_start is None else lr_start)
    lr_end = lr_start if kind == "constant" else lr_start / 100 if lr_end is None else _group_lrs(self, lr_end)
    if not 0 <= warmup <= n_epoch:
        raise InputError(f"warmup is {warmup} of {n_epoch} epochs: give fewer")
    schedule = LRDecay(lr_start, lr_end, kind, warmup)
    self.fit(n_epoch, cbs=L(schedule) + L(cbs), reset_opt=reset_opt, wd=wd, start_epoch=start_epoch)


def _group_lrs(learn: Learner, lr: float | slice) -> np.ndarray:
    "`lr` spread over the layer groups, as fastai's optimizers do it."
    learn.opt.set_hyper("lr", lr)
    return np.array([h["lr"] for h in learn.opt.hypers])
