"""The device that a name means."""

import torch

from cifar_fast.errors import InputError


def parse_device(name: str) -> torch.device:
    "`auto` or a torch device that works here. Raises `InputError`."
    if name == "auto":
        from fastai.torch_core import default_device  # seconds, which a Predictor need not wait for

        return torch.device(default_device())
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} does not work here: give auto or cpu") from error
