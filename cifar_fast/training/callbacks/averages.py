"""Averages of the weights over a fit, which are validated, saved and exported in place of the last weights."""

import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import BnFreeze, bn_types
from fastai.torch_core import get_random_states, set_random_states
from torch import Tensor
from torch.optim.swa_utils import update_bn

from cifar_fast.errors import InputError
from cifar_fast.training.callbacks.guards import is_fit, only_predicts


class Average(Callback):
    """Validates, saves and exports an average of the weights, batch norms' statistics included.

    The fit goes on from the weights themselves; after it the model holds the average.
    """

    order, fits, cancelled = 62, False, False  # after what measures the validated model, before the checkpoint

    def __init__(self):
        self.n, self.average, self.kept = 0, None, None  # steps in the average, and the weights while it is validated

    def share(self) -> float:
        "How much the weights of this step, which is the `n`-th, count in the average; 0: it has not begun."
        raise NotImplementedError

    def before_fit(self):
        "Begin with the weights that there are. Predictions within a fit change nothing."
        if only_predicts(self.learn):
            return
        self.fits = is_fit(self.learn)
        if self.fits and any(isinstance(cb, SaveModelCallback) for cb in self.learn.cbs):
            raise InputError("an average of the weights is kept by itself, and SaveModelCallback would save others")
        if self.fits and self.average is None:
            self.n, self.average = 0, [o.detach().clone() for o in self._averaged()]

    def after_cancel_batch(self):
        "A batch whose gradients are only added up has made no step."
        self.cancelled = True

    def after_batch(self):
        "Move the average."
        cancelled, vars(self)["cancelled"] = self.cancelled, False  # past fastai's __setattr__, which takes its time
        if cancelled or not (self.fits and self.training):
            return
        self.n += 1
        if not (share := self.share()):
            self.n = 0
            return
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [o.detach() for o in self._averaged()], share)

    def before_validate(self):
        "Let the average be validated."
        if self.fits and self.n:
            self.kept = [o.detach().clone() for o in self._tensors()]
            _put(self.average, self._averaged())
            self.settle()

    def settle(self) -> None:
        "What is to be done once the model holds the average."

    def after_validate(self):
        "Go on from the weights."
        if self.kept is not None:
            _put(self.kept, self._tensors())
            self.kept = None

    after_cancel_validate = after_validate

    def after_fit(self):
        "The average is the model."
        if self.fits and not only_predicts(self.learn):
            if self.n:
                _put(self.average, self._averaged())
            self.fits, self.average, self.kept = False, None, None

    after_failed_fit = after_fit

    def state_dict(self) -> dict:
        "What a run that goes on must find again."
        return {"n": self.n, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        "Take it."
        self.n = state["n"]
        _put([o for o in state["average"] if _has_average(o)], self.average)

    def _tensors(self) -> list[Tensor]:
        return [*self.learn.model.parameters(), *self.learn.model.buffers()]

    def _averaged(self) -> list[Tensor]:
        return list(filter(_has_average, self._tensors()))


def _has_average(o: Tensor) -> bool:
    "Whether these are no counts, which stay what they are."
    return o.is_floating_point() or o.is_complex()


@torch.no_grad()
def _put(values: list[Tensor], tensors: list[Tensor]) -> None:
    for o, value in zip(tensors, values, strict=True):
        o.copy_(value)


class WeightAverage(Average):
    """An exponential moving average over all steps.

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".
    """

    def __init__(
        self,
        decay: float = 0.999,  # weight of the average so far at each step; less in the first steps
    ):
        super().__init__()
        self.decay = decay

    def share(self) -> float:
        "As of `Average`."
        return 1 - min(self.decay, (1 + self.n) / (10 + self.n))


class StochasticAverage(Average):
    """The mean of the weights over the last part of the fit; batch norms are estimated anew on the training images.

    Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization".
    """

    def __init__(
        self,
        last: float = 0.25,  # share of the fit's steps
    ):
        super().__init__()
        self.last = last

    def share(self) -> float:
        "As of `Average`."
        done, steps = self.epoch * self.n_iter + self.iter + 1, self.n_epoch * self.n_iter
        return 1 / self.n if done > (1 - self.last) * steps else 0

    def settle(self) -> None:
        "Estimate batch norms anew, unless they are frozen; what is drawn for it is drawn beside the fit."
        norms = [o for o in self.learn.model.modules() if isinstance(o, bn_types)]
        some_frozen = not all(p.requires_grad for o in norms for p in o.parameters())
        freezing = [cb for cb in self.learn.cbs if isinstance(cb, BnFreeze)]
        if not norms or any(getattr(cb, "always", some_frozen) for cb in freezing):
            return  # update_bn knows none that stand still: the averages of their statistics stay
        states = get_random_states()
        update_bn((o[0].as_subclass(Tensor) for o in self.dls.train.new()), self.learn.model)
        set_random_states(**states)
        self.learn.model.eval()
        _put(self._averaged(), self.average)
