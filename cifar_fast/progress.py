"""Progress bars where somebody looks on, and nothing where the output goes to a file."""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager

from fastcore.imports import IN_NOTEBOOK
from fastprogress.fastprogress import progress_bar

_quiet = False


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


def say(text: str) -> None:
    "A remark on the way, which `be_quiet` drops."
    if not _quiet:
        print(text, flush=True)


def shows_bars() -> bool:
    """Whether standard output is a terminal or a notebook (fastprogress asks neither) that shows bars.

    VS Code's notebooks leave fastprogress's bars empty (its issue 104): there plain lines say what the table would.
    """
    in_vs_code = any(name in os.environ for name in ("VSCODE_PID", "VSCODE_CWD"))
    return not _quiet and ((bool(IN_NOTEBOOK) and not in_vs_code) or sys.stdout.isatty())


def progress(
    items: Iterable,  # what to go through
    total: int | None = None,  # number of items, for an iterable that has no length
) -> Iterable:
    "`items`, behind fastprogress's bar where bars show."
    if total is None and isinstance(items, Sized):
        total = len(items)
    return progress_bar(items, total=total) if total and shows_bars() else items
