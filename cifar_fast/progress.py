"""Progress bars where somebody looks on, and nothing where the output goes to a file."""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar

from fastcore.imports import IN_NOTEBOOK
from fastprogress.fastprogress import progress_bar

_quiet = False
_whose = ContextVar("whose", default="")  # remarks are: of a thread's training, where several go on at once


def be_quiet(quiet: bool = True) -> None:
    "Show no bars, tables and remarks from now on; results and errors are still said."
    global _quiet
    _quiet = quiet


@contextmanager
def quiet_as_before() -> Iterator[None]:
    "What is quiet within, or is not, is as it was before after it."
    before = _quiet
    try:
        yield
    finally:
        be_quiet(before)


def say_whose(name: str) -> None:
    "Begin this thread's remarks with `name` from now on, and show no bars, which would mix with those of others."
    _whose.set(f"{name}  ")


def say(text: str) -> None:
    "A remark on the way, which `be_quiet` drops."
    if not _quiet:
        print(_whose.get() + text, flush=True)


def banner(text: str) -> None:
    "What nobody should overlook, between two lines on standard error; `be_quiet` does not drop it."
    line = "=" * 78
    print(f"{line}\n{text}\n{line}", file=sys.stderr, flush=True)


def shows_bars() -> bool:
    """Whether standard output is a terminal or a notebook (fastprogress asks neither) that shows bars.

    VS Code's notebooks leave fastprogress's bars empty (its issue 104): there plain lines say what the table would.
    """
    in_vs_code = any(name in os.environ for name in ("VSCODE_PID", "VSCODE_CWD"))
    return not _quiet and not _whose.get() and ((bool(IN_NOTEBOOK) and not in_vs_code) or sys.stdout.isatty())


def progress(
    items: Iterable,  # what to go through
    total: int | None = None,  # number of items, for an iterable that has no length
) -> Iterable:
    "`items`, behind fastprogress's bar where bars show."
    if total is None and isinstance(items, Sized):
        total = len(items)
    return progress_bar(items, total=total) if total and shows_bars() else items
