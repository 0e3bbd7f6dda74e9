"""Before a training: a few images through what will be tested, so that a mistake is said now and not at the end."""

from copy import copy
from types import TracebackType

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import get_random_states, set_random_states
from torch import Tensor, nn

from cifar_fast.errors import InputError, own_place

FEW = 8  # images


def try_out(
    learn: Learner,  # fresh
    name: str,  # of the experiment, for the message
) -> None:
    """Do with a few validation images what tests do: network, loss and metrics. The Learner stays as it was.

    Raises `InputError`, which says where, for whatever a network, a loss or a metric raises, and for outputs that are
    not one number for each class.
    """
    if next(learn.model.parameters(), None) is None:
        raise InputError(
            f"{name}: the network has no parameters (layers of a plain list are not seen): use nn.ModuleList"
        )
    valid = learn.dls.valid
    n = FEW + (learn.dls.c == FEW)  # else a loss that broadcasts images against classes would find them to fit
    few = valid.new(valid.dataset.subset(torch.arange(min(n, len(valid.dataset)), device=valid.device)))
    states, kept = get_random_states(), _kept(learn)
    learn.epoch, learn.n_epoch, learn.train_iter, learn.pct_train = 0, 1, 0, 0.0  # for callbacks that look at them
    try:
        with learn.no_bar(), learn.no_logging():
            try:
                learn.get_preds(dl=few, cbs=[OneNumberAClass()])
            except InputError:
                raise
            except Exception:  # a metric may ask for images of every class, or for many: what all of them do counts
                learn.get_preds(cbs=[OneNumberAClass()])
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[-1].strip()  # fastai's own words stand above a callback's
        if isinstance(error, InputError):
            raise InputError(said) from error
        raise InputError(f"{name} cannot be trained: {type(error).__name__}: {said}{_where(error)}") from error
    finally:
        set_random_states(**states)
        for o, before in kept:
            o.clear()
            (o.extend if isinstance(o, list) else o.update)(before)


def _kept(learn: Learner) -> list[tuple]:
    "What the Learner and users' callbacks hold, and copies: one that counts epochs has counted none before a fit."
    # callbacks of fastai and this package tell predictions from a fit
    own = [cb for cb in learn.cbs if type(cb).__module__.split(".")[0] not in ("fastai", "cifar_fast")]
    held = [vars(o) for o in (learn, *own)]
    held += [v for o in held for v in o.values() if isinstance(v, (list, dict, set))]
    return [(o, copy(o)) for o in held]


class OneNumberAClass(Callback):
    "Looks at the network's outputs before the loss does."

    order = 100  # after callbacks that change them

    def after_pred(self):
        "Raises `InputError` for another shape than (images, classes)."
        pred, wanted = self.pred, (len(self.x), self.dls.c)
        if not isinstance(pred, Tensor) or tuple(pred.shape) != wanted:
            found = f"shape {tuple(pred.shape)}" if isinstance(pred, Tensor) else f"a {type(pred).__name__}"
            raise InputError(
                f"the network gives {found} for {wanted[0]} images of {wanted[1]} classes: let it give {wanted}, one "
                "number for each of the dls.c classes"
            )


def _where(error: Exception) -> str:
    places = [own_place(error), _layer(error.__traceback__)]
    return "".join(f", in {o}" for o in places if o)


def _layer(trace: TracebackType | None) -> str:
    "The innermost layer that was at work, as its network names it; empty where that is the network itself, or none."
    names: dict[nn.Module, str] = {}
    found = ""
    while trace is not None:
        module = trace.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            if not names:
                names = {o: name for name, o in module.named_modules()}
            if names.get(module):
                found = f"layer {names[module]}: {repr(module).splitlines()[0]}"
        trace = trace.tb_next
    return found
