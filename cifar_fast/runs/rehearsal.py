"""A mistake of the user's in one line: before a training, by a few images through what will be tested, and in it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from traceback import walk_tb
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import get_random_states, num_distrib, set_random_states
from torch import Tensor, nn

from cifar_fast.errors import OTHERS_ENDED, InputError, RunError, own_frames, own_place
from cifar_fast.training.callbacks.guards import is_own

if TYPE_CHECKING:
    from cifar_fast.experiment import Experiment

FEW = 8  # images


def try_out(
    learn: Learner,  # fresh
    experiment: "Experiment",  # that has made it
) -> None:
    """Do with a few validation images what tests do: network, loss and metrics. The Learner stays as it was.

    Raises `InputError`, as `in_a_line` does, and for outputs that are not one number for each class.
    """
    if next(learn.model.parameters(), None) is None:
        raise InputError(
            f"{experiment.name}: the network has no parameters (layers of a plain list are not seen): use nn.ModuleList"
        )
    valid = learn.dls.valid
    n = FEW + (learn.dls.c == FEW)  # else a loss that broadcasts images against classes would find them to fit
    few = valid.new(valid.dataset.subset(torch.arange(min(n, len(valid.dataset)), device=valid.device)))
    states, kept = get_random_states(), _kept(learn)
    learn.epoch, learn.n_epoch, learn.train_iter, learn.pct_train = 0, 1, 0, 0.0  # for callbacks that look at them
    try:
        with in_a_line(experiment, learn), learn.no_bar(), learn.no_logging():
            try:
                learn.get_preds(dl=few, cbs=[OneNumberAClass()])
            except InputError:
                raise
            except Exception:  # a metric may ask for images of every class, or for many: what all of them do counts
                learn.get_preds(cbs=[OneNumberAClass()])
    finally:
        set_random_states(**states)
        for o, before in kept:
            o.clear()
            (o.extend if isinstance(o, list) else o.update)(before)


def _kept(learn: Learner) -> list[tuple]:
    "What the Learner and users' callbacks hold, one level deep, and copies: none has counted epochs before a fit."
    # callbacks of fastai and this package tell predictions from a fit
    held = [vars(o) for o in (learn, *filter(is_own, learn.cbs))]
    held += [v for o in held for v in o.values() if isinstance(v, (list, dict, set))]
    return [(o, copy(o)) for o in held]


@contextmanager
def in_a_line(
    experiment: "Experiment",
    learn: Learner,
    history: Sequence = (),  # of the run: empty before its first epoch is over
) -> Iterator[None]:
    """Fits and their rehearsal, which say in a line what fails in an experiment of the user's own.

    The first training batch is its own rehearsal: nothing is learnt when it fails. One more before the fit would leave
    traces in what networks, losses and callbacks keep in Python, and nobody could put all of it back. Raises
    `InputError` before the first step, `RunError` later; what has passed the user's own lines by then gets a note.
    """
    try:
        yield
    except InputError as error:
        raise InputError(_words(error)) from error
    except (RunError, OSError):
        raise
    except Exception as error:
        others = f"CUDA error|{OTHERS_ENDED}" if num_distrib() > 1 else "CUDA error"
        is_machines = isinstance(error, RuntimeError) and re.search(others, str(error), re.I)
        if is_machines or experiment.module.split(".")[0] == "cifar_fast" or _is_of_writing(error):
            raise
        has_learnt = len(history) > 0 or vars(learn).get("train_iter")
        how = f"failed in epoch {learn.epoch}" if has_learnt else "cannot be trained"
        pred = vars(learn).get("pred")  # of torchvision's GoogLeNet in training, which most losses cannot take
        given = "" if pred is None or isinstance(pred, Tensor) else f", where the network gives a {type(pred).__name__}"
        line = f"{experiment.name} {how}: {_told(error)}{given}"
        if has_learnt and own_frames(error):
            error.add_note(line)
            raise
        raise (RunError if has_learnt else InputError)(line) from error


def _is_of_writing(error: Exception) -> bool:
    "Whether it is of what writes a run, and none of the user's mistakes."
    names = [frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)]
    return any(f"cifar_fast.runs.{o}" in names for o in ("checkpoint", "folder", "trackers"))


class OneNumberAClass(Callback):
    "Looks at the network's outputs before the loss does."

    order = 100  # after callbacks that change them

    def after_pred(self):
        "Raises `InputError` for another shape than (images, classes), and for probabilities."
        pred, wanted = self.pred, (len(self.x), self.dls.c)
        if isinstance(pred, Tensor) and _are_probabilities(pred.detach().float()):
            raise InputError(
                "the network gives probabilities: leave its Softmax out, and take a loss of logits, as cross_entropy; "
                "the report and model/ make probabilities of them"
            )
        if not isinstance(pred, Tensor) or tuple(pred.shape) != wanted:
            found = f"shape {tuple(pred.shape)}" if isinstance(pred, Tensor) else f"a {type(pred).__name__}"
            raise InputError(
                f"the network gives {found} for {wanted[0]} images of {wanted[1]} classes: let it give {wanted}, one "
                "number for each of the dls.c classes"
            )


def _are_probabilities(pred: Tensor) -> bool:
    return pred.ndim == 2 and bool((pred >= 0).all() and pred.sum(1).sub(1).abs().max() < 0.02)  # as bf16 rounds


def _told(error: Exception) -> str:
    "Error, place and layer, as far as they are known."
    if isinstance(error, IndexError) and error.__context__ and not error.__context__.args:
        error = error.__context__  # a bare assert in a callback, say: fastai fails to word it
    callback = re.search(r"Exception occured in `(\w+)` when calling event `(\w+)`", str(error))
    place = own_place(error) or ", ".join(callback.groups() if callback else ())
    said = ": ".join(filter(None, [type(error).__name__, _words(error)]))
    return ", in ".join(filter(None, [said, place, _layer(error.__traceback__)]))


def _words(error: Exception) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return (text.strip().splitlines() or [""])[-1].strip()  # fastai's own stand above a callback's


def _layer(trace: TracebackType | None) -> str:
    "The innermost layer that was at work, as its network names it, or the backward pass; empty where there is none."
    names: dict[nn.Module, str] = {}
    found = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_backward":
            found = "the backward pass of the loss"
        module = trace.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            if not names:
                names = {o: name for name, o in module.named_modules()}
            if names.get(module):
                found = f"layer {names[module]}: {repr(module).splitlines()[0]}"
        trace = trace.tb_next
    return found
