"""The device that a name means, and computing on it the same way every time."""

import os
import time

import torch

from cifar_fast.errors import InputError


def parse_device(name: str) -> torch.device:
    "`auto` or a torch device that works here. Raises `InputError`."
    if name == "auto":
        from fastai.torch_core import default_device  # seconds, which a Predictor need not wait for

        device = torch.device(default_device())
        if device.type == "cuda" and "LOCAL_RANK" in os.environ:  # one of several processes, each with its own GPU
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        return device
    return full_device(name)


def full_device(
    device: torch.device | str | int,  # as torch takes it
) -> torch.device:
    "`device` as tensors there name theirs: `cuda` is `cuda:0`, or the one that is current. Raises `InputError`."
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} does not work here: give auto or cpu") from error


def time_when_done(device: torch.device) -> float:
    "`time.perf_counter()`, in seconds, when `device` has done all that it was given."
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def be_deterministic() -> None:
    "Only operations that give the same bits each time: on a CPU all of this package's do; on a GPU it costs speed."
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
