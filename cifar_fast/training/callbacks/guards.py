"""Callbacks that refuse or end a fit: choosing on test images, NaN, and a clean Ctrl-C."""

import signal
from math import isfinite

from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.learner import Learner

from cifar_fast.errors import InputError, RunError


def only_predicts(learn: Learner) -> bool:
    """Whether this is no fit, in `before_fit`, which fastai calls for predictions too.

    `validate` and `get_preds` hold the Learner's lock, `fit` does not.
    """
    return learn.lock.locked()


def is_fit(learn: Learner) -> bool:
    "Whether `before_fit` is called for a fit, and not for predictions or lr_find."
    return not only_predicts(learn) and "lr_finder" not in vars(learn)  # getattr would ask the model too


def is_own(part: object) -> bool:
    "Whether a callback, a loss or another part of a Learner is a user's: neither fastai's nor this package's."
    return type(part).__module__.split(".")[0] not in ("fastai", "cifar_fast")


OF_TRAINING = ("train_loss", "train_accuracy")  # columns of the table that test images have no part in


class HonestChoice(Callback):
    """Refuses callbacks that choose (EarlyStopping, SaveModel of the best, ReduceLROnPlateau) on the test images.

    The accuracy of a model that the test images helped to choose says too much.
    """

    order = -20

    def before_fit(self):
        "Look at the other callbacks and at what they watch."
        if not getattr(self.dls.valid_ds, "is_test", False) or not is_fit(self.learn):
            return
        for cb in self.learn.cbs:
            choosing = isinstance(cb, (EarlyStoppingCallback, SaveModelCallback, ReduceLROnPlateau))
            if choosing and not getattr(cb, "every_epoch", False) and cb.monitor not in OF_TRAINING:
                raise InputError(f"{type(cb).__name__} would choose by the test images: make dls with valid='holdout'")


class StopOnNaN(Callback):
    "Ends the run after an epoch whose loss or weights are not finite, before its checkpoint is written."

    order = 59

    def after_train(self):
        "Look, once an epoch: a look at every batch would wait for the device. Raises `RunError`."
        loss = vars(self.learn).get("smooth_loss")
        if loss is not None and not loss.isfinite():
            first = self.recorder.losses[0].item()  # of weights before any step
            if self.epoch == 0 and not isfinite(first):
                raise RunError(f"the loss of the first batch is {first}: look at the loss, the network and the images")
            raise RunError(f"the training loss is {loss.item()} in epoch {self.epoch}: lower the learning rate")
        # the last step of an epoch has no loss after it
        if not all(o.isfinite().all() for o in (*self.model.parameters(), *self.model.buffers())):
            raise RunError(f"weights are not finite after epoch {self.epoch}: lower the learning rate")


class Interruptible(Callback):
    """Ctrl-C ends the fit after the batch, through fastai's own events; a second one ends the program at once.

    Of many processes, each ends when all have heard of it, else the others would wait for this one.
    """

    order, interrupted, noted, previous = 70, False, False, None

    def __init__(self, for_good: bool = False):  # whether fits after one that was ended so end at once
        self.for_good = for_good

    def before_fit(self):
        "Take over the signal."
        self.run = not only_predicts(self.learn)
        if not self.run:  # predictions within a fit
            return
        if self.for_good and self.interrupted:
            raise CancelFitException
        self.interrupted = self.noted = False
        try:
            self.previous = signal.signal(signal.SIGINT, self._note)
        except ValueError:  # only the main thread may
            self.previous = None

    def _note(self, signum, frame):
        self.noted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def after_batch(self):
        "End here, if asked to."
        sharded = vars(self.learn).get("sharded_trainer")
        if self.noted if sharded is None else sharded.noted_anywhere:
            self.interrupted = True
            raise CancelFitException

    def after_fit(self):
        "Give the signal back."
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
            self.previous = None

    after_failed_fit = after_fit
