"""Where decoded images and features are kept: the cache folder, and room in memory or in a mapped file of it."""

import os
import tempfile
from pathlib import Path

import psutil
import torch
from torch import Tensor

from cifar_fast.errors import InputError

CHUNK = 2**26  # bytes that are copied at once


def cache_dir() -> Path:
    """Where downloads and decoded data sets are kept: $CIFAR_FAST_CACHE, or the user's cache folder.

    Raises `InputError` where neither is known.
    """
    if named := os.environ.get("CIFAR_FAST_CACHE"):
        return Path(named)  # before the home folder, which a container's user may not have
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifar_fast"
    except RuntimeError as error:
        raise InputError("this user has no home folder: set $CIFAR_FAST_CACHE to a folder for downloads") from error


def is_too_large(shape: tuple[int, ...], itemsize: int = 1) -> bool:
    "Whether a tensor on the CPU would take more than half of the free memory."
    return torch.Size(shape).numel() * itemsize > psutil.virtual_memory().available / 2


def room(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.uint8,
) -> Tensor:  # zeros
    """Room in memory; in a mapped file of the cache folder where it would take more than half of what is free.

    The file has no name: it is gone with the tensor. Raises `InputError` where the disk has no room either.
    """
    if not is_too_large(shape, dtype.itemsize):
        return torch.zeros(shape, dtype=dtype)
    n = torch.Size(shape).numel()
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=cache_dir(), prefix=".mapped-")
        try:
            if hasattr(os, "posix_fallocate"):  # else a full disk kills the process that writes into the mapping
                os.posix_fallocate(handle, 0, max(1, n * dtype.itemsize))
            return torch.from_file(path, shared=True, size=n, dtype=dtype).view(shape)
        finally:
            os.close(handle)
            os.unlink(path)  # the mapping keeps it
    except OSError as error:
        size = n * dtype.itemsize / 1e9
        raise InputError(
            f"{size:,.1f} GB are more than half of the free memory, and {cache_dir()} has no room for them ({error}): "
            "set $CIFAR_FAST_CACHE to a larger disk, or give a smaller --size or fewer images"
        ) from error


def taken(
    x: Tensor,  # (N, ...)
    idxs: Tensor,  # int64 (M,)
) -> Tensor:  # (M, ...)
    "`x[idxs]`, in `room`: copied piece by piece, so that it takes no memory where it is mapped."
    shape = (len(idxs), *x.shape[1:])
    if x.device.type != "cpu" or not is_too_large(shape, x.element_size()):
        return x[idxs]
    res, at_once = room(shape, x.dtype), max(1, CHUNK // max(1, x[:1].numel() * x.element_size()))
    for start in range(0, len(idxs), at_once):
        res[start : start + at_once] = x[idxs[start : start + at_once]]
    return res
