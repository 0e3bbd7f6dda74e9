"""What is measured beside a fit: accuracy on training images, and seconds."""

import torch
from fastai.callback.core import Callback
from fastai.callback.preds import FetchPredsCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import ValueMetric
from fastai.metrics import accuracy

from cifar_fast.device import time_when_done
from cifar_fast.training.callbacks.guards import is_fit, only_predicts


def some_train_dl(
    dls: DataLoaders,  # of this package
    n: int = 10_000,  # training images; all, where there are fewer
    seed: int = 0,  # of their choice
) -> TfmdDL:
    "A fixed part of the training images, fed as validation images are."
    idxs = torch.randperm(len(dls.train_ds), generator=torch.Generator().manual_seed(seed))
    part = dls.train_ds.subset(idxs[:n].sort().values)
    part.split_idx = 1  # augmentations may stand in both loaders, and know training images by it
    return dls.valid.new(dataset=part)


class TrainAccuracy(FetchPredsCallback):
    """Accuracy on a fixed part of the training images in eval mode, after each epoch, as a column of the table.

    The running accuracy of the training batches would be taken with dropout on, while the weights change.
    Needs a `TensorDL`.
    """

    order, value, metric = 40, None, None

    def __init__(
        self,
        n: int = 10_000,  # training images to measure on; all, where there are fewer
        seed: int = 0,  # of their choice
    ):
        super().__init__()
        self.n, self.seed = n, seed

    def before_fit(self):
        "Choose the images and add the column."
        self.run = is_fit(self.learn)  # measuring would wait for the lock that predicting holds
        if not self.run:
            return
        loader = some_train_dl(self.dls, self.n, self.seed)
        vars(self).update(dl=loader)  # past fastai's warning: the attribute is FetchPredsCallback's own
        self.metric = ValueMetric(self.train_accuracy, "train_accuracy")
        self.learn.metrics = [*self.learn.metrics, self.metric]

    def after_validate(self):
        "Measure."
        super().after_validate()
        self.value = accuracy(*self.preds).item()
        self.preds = None

    def train_accuracy(self) -> float | None:
        "Share of right predictions, in [0, 1]."
        return self.value

    def after_fit(self):
        "Take the column away."
        if self.metric:
            self.learn.metrics = [o for o in self.learn.metrics if o is not self.metric]
            vars(self).update(dl=None, metric=None)

    after_failed_fit = after_fit


class Stopwatch(Callback):
    "Seconds of training, validation and measuring left out, and images trained on, over one fit or several."

    order = -60  # before all others in `before_fit`, so that their preparations count

    def __init__(self):
        self.seconds, self.images, self.since = 0.0, 0, None

    def before_fit(self):
        "Start, in a fit: fastai calls this for predictions too."
        if self.since is None and not only_predicts(self.learn):
            self.since = time_when_done(self.dls.device)

    before_train = before_fit  # again after a validation

    def after_batch(self):
        "Count the images."
        if self.training:
            self.images += len(self.xb[0])

    def after_train(self):
        "Pause; the fit may have been cancelled in the middle of an epoch."
        if self.since is not None and not only_predicts(self.learn):
            self.seconds, self.since = self.seconds + time_when_done(self.dls.device) - self.since, None

    after_fit = after_failed_fit = after_train

    def leave_out(self, seconds: float) -> None:
        "Do not count these, in which another training has had its turn."
        if self.since is not None:
            self.since += seconds
