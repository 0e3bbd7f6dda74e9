"""The record network's optimizer: Muon over convolution filters, and SGD over all else, as one of torch.

torch.optim.Muon takes matrices alone and keeps no weight's norm; here filters are flattened to matrices.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.optim.sgd import sgd

from cifar_fast.training.muon import orthogonalize
from cifar_fast.training.precision import has_fast_bf16


class RecordMuon(Optimizer):
    """Momentum whose steps are orthogonalised for filters (4-D), and SGD with momentum for the other parameters.

    A filter bank is a matrix with a row for each filter; before each step it is scaled to a mean square row norm of
    1, so that the step's size alone says how fast it turns (Jordan 2025, airbench94_muon). Other parameters take
    Nesterov's SGD, with weight decay. Each group's `rate` multiplies `lr`, so that one schedule, or `lr_find`, goes
    for groups whose rates differ a thousandfold. Steps are orthogonalised in bf16 where the device is fast in it, else
    in the gradients' own precision: a processor that emulates bf16 would spend nearly as long on them as on all else.
    """

    def __init__(
        self,
        params,  # parameters, or groups of them: 4-D ones apart from others
        lr: float = 1.0,  # learning rate
        rate: float = 1.0,  # by which the group multiplies it
        momentum: float = 0.6,  # of gradients, Nesterov's
        weight_decay: float = 0.0,  # of parameters that are no filters, as a share of lr * rate
        steps: int = 3,  # Newton-Schulz iterations
        compile: bool = False,  # whether to run them through torch.compile
    ):
        super().__init__(params, dict(lr=lr, rate=rate, momentum=momentum, weight_decay=weight_decay))
        self.steps = steps
        self._orthogonalize = torch.compile(orthogonalize, dynamic=False) if compile else orthogonalize

    def __getstate__(self):
        return {**super().__getstate__(), "steps": self.steps, "_orthogonalize": orthogonalize}

    @cached_property
    def dtype(self) -> torch.dtype | None:
        "What steps are orthogonalised in; None: as gradients come. Asked at the first step: a model may move before."
        device = next(p.device for group in self.param_groups for p in group["params"])
        return torch.bfloat16 if has_fast_bf16(device) else None

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        "One step from the gradients; parameters without one stay."
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            filters, others = ([p for p in params if (p.ndim == 4) == o] for o in (True, False))
            if filters:
                self._step_filters(filters, group)
            if others:
                self._step_others(others, group)
        return loss

    def _step_filters(self, params: list[Tensor], group: dict) -> None:
        grads = [p.grad for p in params]
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads)
        ahead = torch._foreach_add(grads, buffers, alpha=group["momentum"])
        updates = self._orthogonalize([o.flatten(1) for o in ahead], self.steps, self.dtype)
        lengths = torch._foreach_norm(params)
        torch._foreach_div_(lengths, [len(p) ** 0.5 for p in params])
        torch._foreach_div_(params, lengths)
        updates = [u.view(p.shape) for u, p in zip(updates, params)]
        torch._foreach_add_(params, updates, alpha=-group["lr"] * group["rate"])

    def _step_others(self, params: list[Tensor], group: dict) -> None:
        buffers = [self.state[p].get("momentum_buffer") for p in params]
        sgd(
            params, [p.grad for p in params], buffers, foreach=True, lr=group["lr"] * group["rate"],
            momentum=group["momentum"], weight_decay=group["weight_decay"], dampening=0, nesterov=True, maximize=False,
        )  # fmt: skip
        for p, buffer in zip(params, buffers):
            self.state[p]["momentum_buffer"] = buffer
