"""A training's state after each epoch, in one file, from which it goes on as if not stopped: bit for bit on one CPU."""

import hashlib
import io
import pickle
import random
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import TrackerCallback
from fastai.torch_core import rank_distrib
from fastcore.foundation import L
from torch import nn

from cifar_fast.errors import InputError
from cifar_fast.files import write_atomically
from cifar_fast.runs.folder import Run, SilentRun
from cifar_fast.training.callbacks.guards import is_fit, is_own
from cifar_fast.training.learner import orders_of, set_orders

NAME = "checkpoint.pt"
_MAGIC = b"cifar_fast checkpoint 1 sha256 "


def write_checkpoint(path: Path, state: dict) -> None:
    "Write `state`, tensors and plain values, with its SHA-256: whole, or the old file stays."
    buffer = io.BytesIO()
    torch.save(_plain(state), buffer)
    content = buffer.getbuffer()
    header = _MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n"

    def write(tmp: Path) -> None:
        with tmp.open("wb") as file:
            file.write(header)
            file.write(content)

    write_atomically(path, write)


def _plain(value):
    "numpy's numbers and arrays, and fastai's tensors, which schedules and losses make, as what may be read back."
    if isinstance(value, dict):
        return {k: _plain(o) for k, o in value.items()}
    if isinstance(value, (list, tuple, L)):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value.detach().as_subclass(torch.Tensor) if isinstance(value, torch.Tensor) else value


def _plain_values(cb: Callback) -> dict:
    "What a callback holds of numbers, texts, and lists and dicts of them."
    held = {k: o.item() if isinstance(o, np.generic) else o for k, o in vars(cb).items()}
    return {k: o for k, o in held.items() if k != "run" and _is_plain(o)}  # fastai itself sets `run`


def _is_plain(value) -> bool:
    if type(value) is dict:
        return all(type(k) in (str, int) and _is_plain(o) for k, o in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in (bool, int, float, str, type(None))


def _take_over(cb: Callback, kept: dict) -> None:
    "Give a callback what it held; lists and dicts stay the objects that they are, which others may hold too."
    for name, value in kept.items():
        own = vars(cb).get(name)
        if type(own) is type(value) and isinstance(own, (list, dict)):
            own.clear()
            (own.extend if isinstance(own, list) else own.update)(value)
        else:
            setattr(cb, name, value)


def read_checkpoint(path: Path) -> dict | None:
    "The state in `path`, None where it is missing. Runs nothing from it. Raises `InputError` where it is damaged."
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    header, _, content = content.partition(b"\n")
    if header != _MAGIC + hashlib.sha256(content).hexdigest().encode():
        raise InputError(f"{path} is damaged (SHA-256): remove it to begin the run anew with --resume")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} holds more than tensors and plain values: it is no checkpoint of a run") from error


class Checkpoint(Callback):
    """Writes the run's checkpoint after each epoch, and at the beginning of a fit goes on from one.

    It holds model, what of it trains, the loss's own state, optimizer, scaler, recorder, callbacks that choose or that
    have `state_dict` and `load_state_dict`, the plain values of a user's other callbacks, random states, the loaders'
    order, the run's history and what the experiment wants kept.
    """

    order = 65  # after the history's row and early stopping

    def __init__(
        self,
        run: Run,  # whose folder it is
        stage: str,  # which of the run's fits this is
        state: dict | None = None,  # of `read_checkpoint`, where this fit goes on from it
        extra: dict | None = None,  # plain values to keep beside it
    ):
        self.folder_run, self.stage, self.state, self.extra = run, stage, state, extra or {}
        self.n_fits = 0  # that the stage has begun
        self.pending = None  # random states to set when the first batch is about to be drawn

    def before_fit(self):
        "Take model, optimizer and counters from the state."
        self.run = is_fit(self.learn)
        if not self.run:  # predictions within a fit, and lr_find
            return
        self.n_fits += 1
        if self.folder_run.begun is None:
            self.folder_run.begun = deepcopy([_plain_values(cb) for cb in self._others()])
        if self.state is None:
            return
        if self.n_fits < self.state.get("fits", 1):  # of a stage that fits more than once: this fit is over
            self.learn.first_epoch = self.n_epoch
            return
        state, self.state = self.state, None
        self.model.load_state_dict(state["model"])
        for p, trained in zip(self.model.parameters(), state.get("trained", [])):
            p.requires_grad_(trained)  # as an earlier stage may have left it
        self.opt.load_state_dict(state["opt"])
        self.opt.frozen_idx = state.get("frozen", getattr(self.opt, "frozen_idx", 0))
        if state.get("loss"):
            self.learn.loss_func.load_state_dict(state["loss"])
        if state["scaler"]:
            self.learn.scaler.load_state_dict(state["scaler"])
        for name, value in state["recorder"].items():
            setattr(self.recorder, name, value)
        self.recorder.smooth_loss.val, self.recorder.smooth_loss.count = state["smooth_loss"]
        for cb, kept in zip(self._trackers(), state["trackers"]):
            cb.best, cb.wait = kept
        for cb, kept in zip(self._stateful(), state.get("callbacks", [])):
            cb.load_state_dict(kept)
        for cb, now, (name, before, kept) in zip(self._others(), self.folder_run.begun, state.get("others", [])):
            if type(cb).__name__ == name:
                # what the run now begins with otherwise than it did is of this process, as a clock is
                _take_over(cb, {k: o for k, o in kept.items() if now.get(k, kept) == before.get(k, kept)})
        self.learn.first_epoch, self.learn.train_iter = state["epoch"] + 1, self.recorder.iters[-1]
        self.pending = state["random"]

    def before_train(self):
        "Set the random states: all preparations, which draw numbers too, are over."
        self._set_random()

    def after_fit(self):
        "Set them too where no epoch was left."
        self._set_random()
        self.after_failed_fit()

    def after_failed_fit(self):
        "The next fit begins at its beginning."
        self.pending, self.learn.first_epoch = None, 0

    def after_epoch(self):
        "Write."
        recorder, watch = self.recorder, vars(self.learn).get("stopwatch")
        state = {
            "stage": self.stage,
            "fits": self.n_fits,
            "epoch": self.epoch,
            "extra": self.extra,
            "model": self.model.state_dict(),
            "opt": self.opt.state_dict(),
            "loss": loss.state_dict() if isinstance(loss := self.learn.loss_func, nn.Module) else {},
            "trained": [p.requires_grad for p in self.model.parameters()],
            "frozen": getattr(self.opt, "frozen_idx", 0),
            "scaler": self.learn.scaler.state_dict() if "scaler" in vars(self.learn) else {},
            "recorder": {"values": list(map(list, recorder.values)), "iters": [int(o) for o in recorder.iters]},
            "smooth_loss": (recorder.smooth_loss.val, recorder.smooth_loss.count),
            "trackers": [(float(cb.best), getattr(cb, "wait", 0)) for cb in self._trackers()],
            "callbacks": [cb.state_dict() for cb in self._stateful()],
            "others": [
                (type(cb).__name__, before, _plain_values(cb))
                for cb, before in zip(self._others(), self.folder_run.begun)
            ],
            "random": self._random(),
            "history": self.folder_run.history,
            "batches": self.folder_run.batches,
            "watch": (watch.seconds, watch.images) if watch else (0.0, 0),
        }
        if not isinstance(self.folder_run, SilentRun):
            write_checkpoint(self.folder_run.folder / NAME, state)

    def _trackers(self) -> list[TrackerCallback]:
        return [cb for cb in self.learn.cbs if isinstance(cb, TrackerCallback)]

    def _stateful(self) -> list[Callback]:
        return [cb for cb in self.learn.cbs if hasattr(type(cb), "state_dict") and hasattr(type(cb), "load_state_dict")]

    def _others(self) -> list[Callback]:
        "A user's own callbacks that do not say what of them is to be kept."
        return [cb for cb in self.learn.cbs if is_own(cb) and cb not in self._stateful()]

    def _random(self) -> dict:
        name, keys, *rest = np.random.get_state()
        return {
            "python": random.getstate(),
            "numpy": (name, keys.tolist(), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "loaders": orders_of(self.dls),
        }

    def _set_random(self):
        if self.pending is None:
            return
        state, self.pending = self.pending, None
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        if rank := rank_distrib():  # these were the first process's: others go on with numbers of their own
            torch.manual_seed(int(torch.randint(2**62, ())) + rank)
        set_orders(self.dls, state["loaders"])
        dl = vars(self.learn).get("dl")  # CachedBody has put a copy in place of the training loader
        if hasattr(dl, "epoch"):
            dl.epoch = self.dls.train.epoch
