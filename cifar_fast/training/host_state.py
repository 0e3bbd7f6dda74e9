"""What a CUDA graph does not see: the state that models, losses and loaders keep in Python."""

import random
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from cifar_fast.data.loaders import TensorDL

PLAIN = (int, float, str, bool, Tensor)


def host_state(model: nn.Module) -> tuple:
    "What a model's forward pass may change on the host, where a graph would not see it."
    drawn = np.random.get_state()
    generators = random.getstate(), torch.get_rng_state().tolist(), drawn[1].tolist(), drawn[2]
    return plain_values(model.modules()), generators


def transforms_of(dl: TensorDL) -> list:
    "What changes the images of a batch, or the features that stand for them."
    return [*dl.after_batch.fs, getattr(dl.dataset, "flip", None)]


def plain_values(objects: Iterable) -> list[tuple[int, dict]]:
    "Which objects they are; the numbers and names that they hold, and which tensors."
    return [(id(o), {k: id(v) if isinstance(v, Tensor) else v for k, v in held_by(o).items()}) for o in objects]


def held_by(o) -> dict:
    "The numbers, names and tensors that an object holds."
    held = getattr(o, "__dict__", {})
    held = {**held, **held.get("_parameters", {}), **held.get("_buffers", {})}
    return {k: v for k, v in held.items() if isinstance(v, PLAIN)}
