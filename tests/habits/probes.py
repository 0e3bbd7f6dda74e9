"""What rows look at: the weights of a Learner, and the events that it sends."""

import torch
from fastai.callback.core import Callback


def rate(learn) -> float:
    "A learning rate that trains; of the record recipe a factor."
    return 1.0 if learn.kind == "record" else 1e-2


def weights(learn) -> list[torch.Tensor]:
    "Copies of all parameters."
    return [o.detach().clone() for o in learn.model.parameters()]


def same(some, others) -> bool:
    "Whether weights are equal, but for rounding."
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(some, others, strict=True))


def listening(*events: str) -> tuple[list, Callback]:
    "A list, and a callback that writes into it when it is asked."
    seen = []
    return seen, Callback(**{e: (lambda self, e=e: seen.append(e)) for e in events})
