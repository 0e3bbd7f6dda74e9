"""The exceptions that mean that what the user gave cannot be used, and the check that raises the first of them."""

from numbers import Integral


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
