"""Optimizers by name: torch's own where it has them, fastai's, and two that neither has in a form for any network."""

from collections.abc import Callable
from functools import partial

import torch
from fastai.optimizer import (
    Lamb,
    Optimizer,
    OptimWrapper,
    RAdam,
    adam_step,
    average_grad,
    average_sqr_grad,
    ranger,
    set_item_pg,
    step_stat,
    weight_decay,
)
from torch import Tensor

from cifar_fast.errors import check
from cifar_fast.training.muon import orthogonalize


class Hypers(dict):
    "Numbers of a parameter group under fastai's names: what is written here counts for the optimizer."

    def __init__(
        self,
        values: dict,  # by fastai's names
        group: dict,  # of the torch optimizer
        names: dict[str, str],  # torch's by fastai's
    ):
        super().__init__(values)
        self.group, self.names = group, names

    def __setitem__(self, key: str, value):
        set_item_pg(self.group, self.names.get(key, key), value)
        super().__setitem__(key, value)

    def update(self, *args, **kwargs):
        "As of a dict."
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __reduce__(self):
        return dict, (dict(self),)


class LiveOptim(OptimWrapper):
    """fastai's OptimWrapper, whose `hypers` are the optimizer's own, as those of fastai's optimizers.

    fastai's wrapper makes them anew each time: a rate that a user or `ReduceLROnPlateau` writes there is lost.
    """

    @property
    def hypers(self) -> list[Hypers]:
        "Numbers of each parameter group."
        return [
            Hypers({k: v for k, v in values.items() if isinstance(v, (int, float, Tensor))}, group, self.bwd_map)
            for values, group in zip(OptimWrapper.hypers.fget(self), self.opt.param_groups)
        ]


class TorchOptim(LiveOptim):
    """A torch optimizer whose weight decay is fastai's: apart from the gradient, and not of biases and norms.

    Which parameters decay stands in `state`, where fastai's Learner writes `do_wd` (its option `wd_bn_bias`). SGD that
    has no momentum stays without where a schedule sets one, as fastai's own does. Source: Loshchilov and Hutter 2019,
    "Decoupled weight decay regularization".
    """

    def _set_hyper(self, k, v):
        if k != "mom" or self.opt.param_groups[0].get("momentum") != 0:
            super()._set_hyper(k, v)

    @torch.no_grad()
    def step(self, closure=None):
        "Decay, and a step of torch's optimizer, which hears of no decay."
        decays = [group["weight_decay"] for group in self.opt.param_groups]
        if not any(decays):
            return self.opt.step(closure)
        for group, wd in zip(self.opt.param_groups, decays):
            params = [p for p in group["params"] if p.grad is not None and self.state[p].get("do_wd", True)]
            if wd and params:
                torch._foreach_mul_(params, 1 - group["lr"] * wd)
            group["weight_decay"] = 0.0
        try:
            return self.opt.step(closure)
        finally:
            for group, wd in zip(self.opt.param_groups, decays):
                group["weight_decay"] = wd


def lion_step(p: Tensor, lr: float, mom: float, sqr_mom: float, lion_avg: Tensor | None = None, **kwargs) -> dict:
    "Step by the sign of an average of gradients; `mom` is its first beta, `sqr_mom` the second."
    lion_avg = torch.zeros_like(p) if lion_avg is None else lion_avg
    p.data.add_(p.grad.data.lerp(lion_avg, mom).sign_(), alpha=-lr)
    return {"lion_avg": p.grad.data.lerp(lion_avg, sqr_mom)}


def Lion(
    params,  # as of fastai's optimizers
    lr: float,  # a third to a tenth of Adam's
    mom: float = 0.9,  # first beta
    sqr_mom: float = 0.99,  # second beta
    wd: float = 0.0,  # decoupled weight decay
) -> Optimizer:
    'Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms".'
    return Optimizer(params, [weight_decay, lion_step], lr=lr, mom=mom, sqr_mom=sqr_mom, wd=wd)


def muon_step(p: Tensor, lr: float, mom: float, grad_avg: Tensor, **kwargs) -> None:
    "Adam's step for vectors; for matrices and filters an orthogonal one, of the length that Adam's would have."
    if p.ndim < 2:
        adam_step(p, lr, mom, grad_avg=grad_avg, **kwargs)
        return
    ahead = p.grad.data.lerp(grad_avg, mom).flatten(1)
    step = orthogonalize([ahead], steps=5, dtype=None)[0].view_as(p)
    p.data.add_(step, alpha=-lr * 0.2 * max(ahead.shape) ** 0.5)


def AdamMuon(
    params,  # as of fastai's optimizers
    lr: float,  # as for Adam
    mom: float = 0.95,  # of gradients
    sqr_mom: float = 0.99,  # of squared gradients, for vectors
    eps: float = 1e-8,  # added for numerical stability, for vectors
    wd: float = 0.0,  # decoupled weight decay
) -> Optimizer:
    """Muon for any network, at Adam's rates, which torch.optim.Muon has for networks of matrices alone.

    Source: Liu et al. 2025, "Muon is Scalable for LLM Training", for the length of a step.
    """
    cbs = [weight_decay, partial(average_grad, dampening=True), average_sqr_grad, step_stat, muon_step]
    return Optimizer(params, cbs, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


# torch's have torch's defaults, fused into one kernel; fastai's Adam differs from them in betas, eps and decay.
OPTIMIZERS = {
    "adam": partial(TorchOptim, opt=torch.optim.Adam, fused=True),
    "sgd": partial(TorchOptim, opt=torch.optim.SGD, fused=True),
    "adamw": partial(TorchOptim, opt=torch.optim.AdamW, fused=True),
    "nadam": partial(TorchOptim, opt=torch.optim.NAdam),
    "lamb": Lamb,
    "lion": Lion,
    "muon": AdamMuon,
    "radam": RAdam,
    "ranger": ranger,
}


def optimizer(name: str) -> Callable:
    "fastai's `opt_func` by its name in `OPTIMIZERS`. Raises `InputError` for an unknown one."
    check("opt", name, name in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]
