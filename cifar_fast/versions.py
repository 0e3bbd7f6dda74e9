"""Versions of what the numbers depend on."""

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    "Versions by name: Python's, the packages', and the kind of machine."
    packages = {o: version(o) for o in ("cifar_fast", "fastai", "torch", "torchvision")}
    return {"python": platform.python_version(), **packages, "machine": platform.machine()}
