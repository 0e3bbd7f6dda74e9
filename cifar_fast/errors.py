"""The exceptions that mean: what the user gave cannot be used."""


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
