"""Files written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, then rename it.

    Whenever the process or the machine stops, `path` is the old file or the whole new one. Raises OSError where the
    file cannot be written, whatever `write` made of it.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_prefix(path)) as tmp:
        try:
            write(Path(tmp) / path.name)
        except Exception as error:
            if isinstance(error, OSError) or not _is_write_error(error):
                raise
            raise OSError(f"{path} cannot be written ({error})") from error
        _sync(Path(tmp) / path.name)
        os.replace(Path(tmp) / path.name, path)
    _sync(path.parent)


def remove_leftovers(folder: Path) -> None:
    "Remove the temporary files of processes that were killed while they wrote into `folder`."
    for path in folder.glob(".*.writing-*"):
        shutil.rmtree(path, ignore_errors=True)


def _prefix(path: Path) -> str:
    return f".{path.name}.writing-"


def _is_write_error(error: Exception) -> bool:
    "Whether safetensors or torch, which have no OSError of their own, failed to write."
    return type(error).__name__ == "SafetensorError" or "PytorchStreamWriter" in str(error)


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
