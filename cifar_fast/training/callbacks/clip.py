"""Adaptive gradient clipping."""

import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from torch import Tensor, nn


class AdaptiveGradientClip(Callback):
    """Scale down each unit's gradient where its norm exceeds `clip` times the norm of the unit's weights.

    A unit is a row of a dense layer or a filter of a convolution; biases count as one unit each, and the last layer
    is left alone. Source: Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization".
    """

    order, run_valid = GradientClip.order, False
    in_graph = True  # of `BatchGraphs`: what it does in a batch is work of the device

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
