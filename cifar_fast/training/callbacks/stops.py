"""Callbacks that end a fit before its last epoch is over."""

from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import EarlyStoppingCallback

from cifar_fast.training.callbacks.guards import is_fit


class StopAfter(Callback):
    "Ends a stage after so many of its epochs, over all of its fits: each of them was as in the whole stage."

    order = -100

    def __init__(self, n: int):
        self.n, self.over = n, 0  # epochs of the fits before this one

    def before_fit(self):
        "Leave predictions alone, within a fit too."
        self.run = is_fit(self.learn)

    def before_epoch(self):
        "End where they are over, in a fit that goes on from a checkpoint too."
        if self.over + self.epoch >= self.n:
            raise CancelFitException

    def after_fit(self):
        "Count."
        self.over += self.n_epoch


class StopEarly(EarlyStoppingCallback):
    """fastai's, over all fits of a stage: patience goes on from one to the next, and after a stop no other begins.

    What it has let train are the stage's first epochs, which `StopAfter` can repeat.
    """

    def before_fit(self):
        "Go on counting."
        best, wait = self.best, vars(self).get("wait")
        super().before_fit()
        self.run = is_fit(self.learn)
        if best is not None:
            self.best, self.wait = best, wait

    def before_epoch(self):
        "End where an earlier fit was stopped."
        if self.wait >= self.patience:
            raise CancelFitException


class FirstBatchOnly(Callback):
    "Ends a fit after its first batch."

    def after_batch(self):
        "End."
        raise CancelFitException
