"""Command lines: a function's parameters as options, one line for what cannot be used, and exit codes.

Nothing here may import torch or fastai: `--help` and a mistyped option answer at once.
"""

import os
import re
import signal
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from inspect import BoundArguments, signature
from traceback import format_exception_only, format_list

from fastcore.script import anno_parser

from cifar_fast.errors import OTHERS_ENDED, InputError, RunError, first_line, own_frames
from cifar_fast.options import with_choices
from cifar_fast.text import did_you_mean


def one_line_parser(
    function: Callable,  # whose parameters are the options, as fastcore's `call_parse` reads them
    prog: str | None = None,  # its name in messages; None: the script's
) -> ArgumentParser:
    "fastcore's parser, which ends on a wrong command line with one line, where argparse prints its usage."
    parser = anno_parser(function, prog)
    parser.allow_abbrev = False  # a shortened option would mean another once there is a further one
    parser.error = lambda message: parser.exit(
        2, f"error: {message}{_meant(parser, message)}: see {parser.prog} --help\n"
    )
    return parser


def _meant(parser: ArgumentParser, message: str) -> str:
    "What a mistyped option may have meant."
    wrong = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    return did_you_mean(wrong[1], parser._option_string_actions) if wrong else ""


def _main(
    function: Callable,
    args: list[str] | None = None,  # None: those of the process
    prog: str | None = None,  # the script's name in messages; None: as it was called
) -> None:
    "Parse the command line, call the function, and end the process: an int that it gives is the exit code, else said."
    found = vars(one_line_parser(with_choices(function), prog).parse_args(args))
    call = BoundArguments(signature(function), found)
    with exit_codes():
        result = function(*call.args, **call.kwargs)
        if result is not None and not isinstance(result, int):
            print(result)
    sys.exit(result if isinstance(result, int) else 0)


def command(
    function: Callable,  # of a script
) -> Callable:  # itself, which has a `main(args, prog)` from now on
    "Decorates a function that is a script; one in the script's own file runs at once, as with `call_parse`."
    function.main = partial(_main, function)
    if function.__module__ == "__main__":
        function.main()
    return function


_FASTAIS_LINE = "Exception occured in "  # and the callback's name, above what a callback has raised


class WhileRead:
    """Standard output that goes on when its reader has left, as `| head -1` does: a training is not lost for it.

    Letters that the console cannot show are written as \\u2603.
    """

    def __init__(self, stream):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        "Write, to nowhere once nobody reads."
        try:
            self.stream.write(text)
        except BrokenPipeError:
            self._to_nowhere()
        return len(text)

    def flush(self) -> None:
        "Flush, to nowhere once nobody reads."
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._to_nowhere()

    def _to_nowhere(self):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Ends a script with one line: 2 for an `InputError`, 1 where a run cannot go on, 130 for Ctrl-C.

    Libraries' deprecations stay silent, and so does a reader of the output that has left.
    """
    with redirect_stdout(WhileRead(sys.stdout)) as out, redirect_stderr(WhileRead(sys.stderr)) as err:
        try:
            with _ends():
                yield
        finally:
            out.flush()
            err.flush()


@contextmanager
def _ends() -> Iterator[None]:
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of what surrounds an image's pixels, and of large ones
    os.environ.setdefault("MPLBACKEND", "Agg")  # scripts open no windows
    if _is_one_of_many():
        signal.signal(signal.SIGTERM, _end_with_the_others)  # by which a launcher ends what is left
    try:
        yield
    except (InputError, RunError, OSError) as error:  # OSError: a full disk, a folder that is gone or not for writing
        lines = [o for o in str(error).splitlines() if not o.startswith(_FASTAIS_LINE)]
        print(f"error: {' '.join(' '.join(lines).split()) or type(error).__name__}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except RuntimeError as error:
        if _is_one_of_many() and re.search(OTHERS_ENDED, str(error), re.IGNORECASE):
            _end_with_the_others()
        if "CUDA error" not in str(error):
            _end_with_own_lines(error)
        print(f"error: the GPU failed ({first_line(error)})", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        _end_with_own_lines(error)


def _end_with_own_lines(error: Exception) -> None:
    "Say of an error in the user's own code where it is there; of libraries' forty lines more nobody learns anything."
    frames = own_frames(error)
    if not frames and not isinstance(error, SyntaxError):  # which says its place itself
        raise error
    print("Your code ended with an error (most recent call last; libraries' lines are left out):", file=sys.stderr)
    print("".join([*format_list(frames), *format_exception_only(error)]).rstrip(), file=sys.stderr)
    sys.exit(1)


def _is_one_of_many() -> bool:
    "Whether a launcher has started this process among others."
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _end_with_the_others(*args) -> None:
    print("error: another process of this training has ended: look at its message above", file=sys.stderr, flush=True)
    os._exit(1)  # a normal end would wait for the other processes
