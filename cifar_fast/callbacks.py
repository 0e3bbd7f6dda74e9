"""Training callbacks: compiling, progress without host syncs, measurements, clipping, and a clean Ctrl-C."""

import signal
import time
from types import SimpleNamespace

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.preds import FetchPredsCallback
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders, TfmdDL
from fastai.imports import noop
from fastai.learner import AvgSmoothLoss, Learner, ValueMetric
from fastai.metrics import accuracy
from torch import Tensor, nn

from cifar_fast.device import now
from cifar_fast.errors import InputError, RunError
from cifar_fast.progress import say, shows_bars


def only_predicts(
    learn: Learner,  # in `before_fit`, which fastai calls for predictions too
) -> bool:
    "Whether this is no fit: `validate` and `get_preds` hold the Learner's lock, `fit` does not."
    return learn.lock.locked()


class Compiled(Callback):
    """Runs the model through torch.compile from the first fit on: a Learner that is loaded to predict stays as it is.

    `seconds` is the time of the training batches that had it compile.
    """

    order, seconds, began, graphs = 9, 0.0, 0.0, 0

    def __init__(
        self,
        **kwargs,  # of torch.compile: mode, dynamic, ...
    ):
        self.kwargs = kwargs

    def before_fit(self):
        "Compile, when the first batch comes."
        if only_predicts(self.learn):
            return
        # torch counts what it compiles for all networks of a class together, and at 8 goes on uncompiled
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        if self.model._compiled_call_impl is None:
            self.model.compile(**self.kwargs)

    def before_batch(self):
        "Note how many graphs there are."
        self.graphs, self.began = self._n_graphs(), time.perf_counter()

    def after_batch(self):
        "Count the batch, if there are more now: one of another size compiles again."
        if self.training and self._n_graphs() > self.graphs:
            self.seconds += now(self.dls.device) - self.began

    def _n_graphs(self) -> int:
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]


# Progress --------------------------------------------------------------------------------------------------------


class DeviceSmoothLoss(AvgSmoothLoss):
    "fastai's smoothed training loss, kept on the loss's device: reading it is what makes the host wait."

    def accumulate(self, learn):
        self.count += 1
        loss = learn.loss.detach().mean().float()
        self.val = torch.lerp(loss, self.val.to(loss.device), self.beta)


class EpochProgress(ProgressCallback):
    """fastai's progress bars and table, but the loss is read only when the bar is drawn again.

    Where no bars show, the table's rows are printed as plain lines.
    """

    name = "progress"

    def before_fit(self):
        "Start the table."
        if shows_bars():
            return super().before_fit()
        self.pbar, self.old_logger = None, self.logger
        self.mbar = SimpleNamespace(update=noop, update_graph=noop, on_iter_end=noop)  # for ShowGraphCallback
        if self.logger != noop:
            self.learn.logger = self._write_row
            self._write_row(self.recorder.metric_names)

    def _launch_pbar(self):
        if shows_bars():
            super()._launch_pbar()

    def after_batch(self):
        "Move the bar."
        bar, val = self.pbar, self.iter + 1
        if bar and (val <= bar.first_its or val >= bar.last_v + bar.wait_for or val == self.n_iter):
            if self.training and hasattr(self, "smooth_loss"):
                bar.comment = f"{self.smooth_loss.item():.4f}"
            bar.update(val)

    def after_train(self):
        "Close the bar."
        if self.pbar:
            super().after_train()

    def after_validate(self):
        "Close the bar."
        if self.pbar:
            super().after_validate()

    def after_failed_fit(self):
        "Close the table."
        self.after_fit()

    def _write_row(self, row):
        say("  ".join(f"{f'{o:.6f}' if isinstance(o, float) else str(o):<14}" for o in row).rstrip())


class LossesToCPU(Callback):
    "Brings the recorder's losses, which `DeviceSmoothLoss` left on the device, to the CPU after the fit."

    order = 55

    def after_fit(self):
        "One copy for the whole fit."
        losses = getattr(self.recorder, "losses", [])
        if losses and isinstance(losses[0], Tensor):
            self.recorder.losses = list(torch.stack(losses).cpu())

    after_failed_fit = after_fit


class LastFit(Callback):
    "Keeps the history of the last fit, which `validate` and `get_preds` take from the Recorder."

    order, fits = 56, False  # after LossesToCPU

    def __init__(self):
        self.rows, self.lrs, self.losses = [], [], []

    def before_fit(self):
        "Tell fits from predictions and from lr_find."
        self.fits = not only_predicts(self.learn) and not hasattr(self.learn, "lr_finder")

    def after_fit(self):
        "Keep what the Recorder holds."
        if self.fits:
            recorder, self.fits = self.recorder, False
            names = list(recorder.metric_names)[1:]
            self.rows = [dict(zip(names, row)) for row in recorder.values]
            self.lrs, self.losses = list(recorder.lrs), list(recorder.losses)

    after_failed_fit = after_fit


# Measurements ----------------------------------------------------------------------------------------------------


def some_train_dl(
    dls: DataLoaders,  # of this package
    n: int = 10_000,  # training images; all, where there are fewer
    seed: int = 0,  # of their choice
) -> TfmdDL:
    "A fixed part of the training images, fed as validation images are."
    idxs = torch.randperm(len(dls.train_ds), generator=torch.Generator().manual_seed(seed))
    return dls.valid.new(dataset=dls.train_ds.subset(idxs[:n].sort().values))


class TrainAccuracy(FetchPredsCallback):
    """Accuracy on a fixed part of the training images in eval mode, after each epoch, as a column of the table.

    The running accuracy of the training batches would be taken with dropout on, while the weights change.
    Needs a `TensorDL`.
    """

    order, value = 40, None

    def __init__(
        self,
        n: int = 10_000,  # training images to measure on; all, where there are fewer
        seed: int = 0,  # of their choice
    ):
        super().__init__()
        self.n, self.seed = n, seed

    def before_fit(self):
        "Choose the images and add the column."
        # measuring would wait for the lock that predicting holds
        self.run = not hasattr(self.learn, "lr_finder") and not only_predicts(self.learn)
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
        if getattr(self, "metric", None):
            self.learn.metrics = [o for o in self.learn.metrics if o is not self.metric]
            vars(self).update(dl=None, metric=None)

    after_failed_fit = after_fit


class Stopwatch(Callback):
    "Seconds of training, validation and measuring left out, and images trained on, over one fit or several."

    order = -60  # before all others in `before_fit`, so that their preparations count

    def __init__(self):
        self.seconds, self.images, self.since = 0.0, 0, None

    def before_fit(self):
        "Start."
        self._start()

    def before_train(self):
        "Start again after a validation."
        self._start()

    def after_batch(self):
        "Count the images."
        if self.training:
            self.images += len(self.xb[0])

    def after_train(self):
        "Pause."
        self._pause()

    def after_fit(self):
        "Stop, where the fit was cancelled in the middle of an epoch."
        self._pause()

    after_failed_fit = after_fit

    def _start(self):
        if self.since is None:
            self.since = now(self.dls.device)

    def _pause(self):
        if self.since is not None:
            self.seconds, self.since = self.seconds + now(self.dls.device) - self.since, None


# Training --------------------------------------------------------------------------------------------------------


class AdaptiveGradientClip(Callback):
    """Scale down each unit's gradient where its norm exceeds `clip` times the norm of the unit's weights.

    A unit is a row of a dense layer or a filter of a convolution; biases count as one unit each, and the last layer
    is left alone. Source: Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization".
    """

    order, run_valid = GradientClip.order, False

    def __init__(
        self,
        clip: float = 0.01,  # largest ratio of gradient norm to weight norm
        eps: float = 1e-3,  # weight norms below it count as it, so that weights at 0 can move
    ):
        self.clip, self.eps = clip, eps

    def before_fit(self):
        "Find the parameters."
        layers = [m for m in self.model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
        last = {id(p) for p in layers[-1].parameters()} if layers else set()
        self.clipped = [p for p in self.model.parameters() if id(p) not in last]

    def before_step(self):
        "Clip."
        for p in self.clipped:
            if p.grad is not None:
                limit = self.clip * unit_norm(p.detach()).clamp_min(self.eps)
                norm = unit_norm(p.grad)
                p.grad.mul_(torch.where(norm > limit, limit / norm.clamp_min(1e-6), torch.ones_like(norm)))


def unit_norm(weight: Tensor) -> Tensor:
    "Norm of each output unit of `weight` (units, ...), broadcastable to it; of each element of a vector."
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1)) if weight.ndim > 1 else weight.abs()


OF_TRAINING = ("train_loss", "train_accuracy")  # columns of the table that test images have no part in


class HonestChoice(Callback):
    """Refuses callbacks that choose (EarlyStopping, SaveModel of the best, ReduceLROnPlateau) on the test images.

    The accuracy of a model that the test images helped to choose says too much.
    """

    order = -20

    def before_fit(self):
        "Look at the other callbacks and at what they watch."
        if not getattr(self.dls.valid_ds, "is_test", False):
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
        loss = getattr(self.learn, "smooth_loss", None)
        if loss is not None and not loss.isfinite():
            raise RunError(f"the training loss is {loss.item()} in epoch {self.epoch}: lower the learning rate")
        # the last step of an epoch has no loss after it
        if not all(o.isfinite().all() for o in (*self.model.parameters(), *self.model.buffers())):
            raise RunError(f"weights are not finite after epoch {self.epoch}: lower the learning rate")


class Interruptible(Callback):
    """Ctrl-C ends the fit after the batch, through fastai's own events; a second one ends the program at once.

    Of many processes, each ends when all have heard of it, else the others would wait for this one.
    """

    order, interrupted, noted, previous = 70, False, False, None

    def before_fit(self):
        "Take over the signal."
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
        sharded = getattr(self.learn, "sharded_trainer", None)
        if self.noted if sharded is None else sharded.noted_anywhere:
            self.interrupted = True
            raise CancelFitException

    def after_fit(self):
        "Give the signal back."
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
            self.previous = None

    after_failed_fit = after_fit
