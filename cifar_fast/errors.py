"""The exceptions that mean that what the user gave cannot be used, the check that raises the first of them, and the
user's own lines in a traceback."""

import os
import sysconfig
import traceback
from numbers import Integral
from pathlib import Path

OTHERS_ENDED = "connection|gloo|nccl|peer"  # of these speak errors that the end of another process brings
_PACKAGE = str(Path(__file__).parent) + os.sep
_LIBRARIES = tuple(sysconfig.get_paths()[o] + os.sep for o in ("stdlib", "purelib", "platlib"))


class InputError(ValueError):
    """What was given cannot be used; the message is one line that says what is wrong and what to do.

    Scripts print the message and end with exit code 2.
    """


class ImageError(InputError):
    "An image that cannot be used; the message names the file, where there is one."


class MissingExtra(InputError):
    "An optional package is not installed."

    def __init__(
        self,
        extra: str,  # of setup.cfg
        purpose: str,  # what needs it
    ):
        super().__init__(f"{purpose} needs what is not installed: pip install 'cifar_fast[{extra}]'")


class RunError(RuntimeError):
    "A run cannot go on, through no fault of its input; the message is one line. Scripts end with exit code 1."


def check(
    name: str,  # of an argument
    value,  # that it has
    fits: bool,  # whether that can be used
    wanted: str,  # what to give instead
) -> None:
    "Raises `InputError` unless `value` fits."
    if not fits:
        raise InputError(f"{name} is {value!r}: give {wanted}")


def is_whole(value, least: int = 1) -> bool:
    "Whether `value` is a whole number, numpy's too, of at least `least`."
    return isinstance(value, Integral) and value >= least


def first_line(
    error: BaseException,  # of a library, which may say much or nothing
) -> str:
    "What `error` says, in one line; the name of its class where it says nothing."
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def own_frames(
    error: BaseException,  # as caught
) -> list[traceback.FrameSummary]:
    "The lines of the user's own files and cells, the innermost last; none where this package was further inside."
    frames = traceback.extract_tb(error.__traceback__)
    ours = max((i for i, o in enumerate(frames) if o.filename.startswith(_PACKAGE)), default=-1)
    own = [i for i, o in enumerate(frames) if not o.filename.startswith((_PACKAGE, "<frozen", "<string", *_LIBRARIES))]
    return [frames[i] for i in own] if own and own[-1] > ours else []


def own_place(
    error: BaseException,  # as caught
) -> str:
    "The innermost of `own_frames` in words; empty where there is none."
    return "".join(f"{Path(o.filename).name}, line {o.lineno}, {o.name}" for o in own_frames(error)[-1:])
