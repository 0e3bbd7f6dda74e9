"""Bars, table and history of a fit, without waiting for the device at each batch."""

from types import SimpleNamespace

import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.imports import noop
from fastai.learner import AvgSmoothLoss
from torch import Tensor

from cifar_fast.progress import say, shows_bars
from cifar_fast.training.callbacks.guards import is_fit


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
    order = ProgressCallback.order - 0.5  # whatever logs rows as well finds its logger, as where fastai puts it

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
            if self.training and "smooth_loss" in vars(self.learn):
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

    after_failed_fit = ProgressCallback.after_fit

    def _write_row(self, row):
        say("  ".join(f"{f'{o:.6f}' if isinstance(o, float) else str(o):<14}" for o in row).rstrip())


class LossesToCPU(Callback):
    "Brings the recorder's losses, which `DeviceSmoothLoss` left on the device, to the CPU after the fit."

    order = 55

    def after_fit(self):
        "One copy for the whole fit."
        losses = getattr(vars(self.learn).get("recorder"), "losses", [])
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
        self.fits = "recorder" in vars(self.learn) and is_fit(self.learn)

    def after_fit(self):
        "Keep what the Recorder holds."
        if self.fits:
            recorder, self.fits = self.recorder, False
            names = list(recorder.metric_names)[1:]
            self.rows = [dict(zip(names, row)) for row in recorder.values]
            self.lrs, self.losses = list(recorder.lrs), list(recorder.losses)

    after_failed_fit = after_fit
