"""Files written whole or not at all, and tensors in them that are known to be what was written."""

import csv
import errno
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

replace = os.replace
# What systems say that offer no locks, or sync no folders: network disks, some containers.
_NOT_OFFERED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF}


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, then rename it.

    Whenever the process or the machine stops, `path` is the old file or the whole new one, with the permissions that
    the umask gives. Raises OSError where the file cannot be written, whatever `write` made of it.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.writing-") as tmp:
        try:
            write(Path(tmp) / path.name)
        except Exception as error:
            if isinstance(error, OSError) or not _is_write_error(error):
                raise
            raise OSError(f"{path} cannot be written ({error})") from error
        share_as_usual(Path(tmp) / path.name)
        _sync(Path(tmp) / path.name)
        replace(Path(tmp) / path.name, path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    "Write `text` whole, or not at all."
    write_atomically(path.absolute(), lambda tmp: tmp.write_text(text, "utf-8", "backslashreplace"))


def write_json(path: Path, content) -> None:
    "Write plain values whole, or not at all; what JSON has not is null, or its name."
    write_text(path, json.dumps(finite(content), indent=2, default=str) + "\n")


def read_json(path: Path):
    "What `write_json` wrote. Raises OSError where the file is missing, ValueError where it is damaged."
    return json.loads(path.read_text())


def write_csv(path: Path, header: list[str], rows: Iterable) -> None:
    "Write a table whole, or not at all."

    def write(tmp: Path) -> None:
        with tmp.open("w", newline="") as out:
            csv.writer(out).writerows([header, *rows])

    write_atomically(path, write)


def share_as_usual(path: Path) -> None:
    "Give a file the permissions that a new one beside it gets: safetensors and `tempfile` keep theirs to the user."
    usual = path.with_name(f"{path.name}.usual")
    usual.touch()
    try:
        path.chmod(usual.stat().st_mode)
    finally:
        usual.unlink()


def is_not_offered(error: OSError) -> bool:
    "Whether the system has no such lock or sync, so that there is nothing for the user to mend."
    return error.errno in _NOT_OFFERED


@cache
def warn_once(text: str) -> None:
    "A line on standard error, once a process."
    print(f"warning: {text}", file=sys.stderr, flush=True)


def stored(options: dict) -> dict:
    "Options as config.json has them: what JSON has not by its name, of which the option makes the same value again."
    return json.loads(json.dumps(finite(options, str), default=str))


def finite(content, instead: Callable = lambda number: None):
    "Plain values, with something `instead` of each number that JSON has not, NaN and infinities: None, or its name."
    if isinstance(content, dict):
        return {k: finite(o, instead) for k, o in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(o, instead) for o in content]
    return instead(content) if isinstance(content, float) and not math.isfinite(content) else content


def filled_once(
    place: Path,  # folder
    fill: Callable[[Path], object],  # that writes into a folder
) -> Path:  # the folder
    "The folder as it is; where it is not there yet it is filled, and whole before it is called so."
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".filling-") as tmp:
            made = Path(tmp) / place.name
            made.mkdir()
            fill(made)
            put_in_place(made, place)
    return place


def put_in_place(made: Path, place: Path) -> None:
    "Rename a folder that took long to make, on the same disk; what another process has made meanwhile stays."
    try:
        os.rename(made, place)
    except OSError:
        if not place.is_dir():
            raise


def write_tensors(path: Path, tensors: dict, about: dict[str, str]) -> None:
    "Write tensors and a few strings as safetensors, with a SHA-256 over all."
    from safetensors.torch import save_file

    about = {**about, "sha256": _digest(tensors, about)}
    write_atomically(path, lambda tmp: save_file(tensors, tmp, about))


def read_tensors(path: Path) -> tuple[dict, dict[str, str]]:
    "What `write_tensors` wrote. Raises OSError where the file is missing, ValueError where it is damaged."
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if about.pop("sha256", None) != _digest(tensors, about):
        raise ValueError(f"{path} is damaged (SHA-256)")
    return tensors, about


def _digest(tensors: dict, about: dict[str, str]) -> str:
    import torch  # here and not above: an ONNX model is used without it

    digest = hashlib.sha256(repr(sorted(about.items())).encode())
    for name, o in sorted(tensors.items()):
        digest.update(f"{name} {o.dtype} {tuple(o.shape)}".encode())
        digest.update(o.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def tensor_hash(x) -> str:
    "A SHA-256 over the values of a uint8 tensor, wherever it lies."
    return hashlib.sha256(x.contiguous().cpu().numpy()).hexdigest()


SEED_FOLDER, FOLD_FOLDER = "seed-", "fold-"  # and a number: the runs of `--seeds` and of `--folds`


def numbered_folders(folder: Path, prefix: str) -> list[Path]:
    "Folders called `prefix` and a number, by number; copies of such folders are none."
    found = [o for o in folder.glob(f"{prefix}*") if o.name.removeprefix(prefix).isdecimal()]
    return sorted(found, key=lambda o: int(o.name.removeprefix(prefix)))


def remove_leftovers(folder: Path) -> None:
    "Remove the temporary files of processes that were killed while they wrote into `folder`."
    for path in folder.glob(".*.writing-*"):
        shutil.rmtree(path, ignore_errors=True)


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
    except OSError as error:
        if not is_not_offered(error):
            raise
        warn_once("this disk syncs no folders or files: what was written last may be lost if the machine stops")
    finally:
        os.close(handle)
