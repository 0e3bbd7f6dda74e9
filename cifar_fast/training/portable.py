"""An exported Learner that other systems read: its paths are of the system that reads it."""

from collections import ChainMap
from pathlib import Path, PosixPath, WindowsPath
from types import SimpleNamespace

import cloudpickle


def _path(path: Path) -> tuple:
    return Path, (path.as_posix(),)


class PortablePickler(cloudpickle.Pickler):
    "cloudpickle's, as fastai's `export` uses it, but for paths: Windows makes no PosixPath."

    dispatch_table = ChainMap({PosixPath: _path, WindowsPath: _path}, cloudpickle.Pickler.dispatch_table)


PORTABLE = SimpleNamespace(__name__="portable", Pickler=PortablePickler)  # what torch.save takes for a pickle module
