"""Progress bars where somebody looks on, and nothing where the output goes to a file."""

import sys
from collections.abc import Iterable, Sized

from fastcore.imports import IN_NOTEBOOK
from fastprogress.fastprogress import progress_bar


def shows_bars() -> bool:
    "Whether standard output is a terminal or a notebook (fastprogress asks neither)."
    return bool(IN_NOTEBOOK) or sys.stdout.isatty()


def progress(
    items: Iterable,  # what to go through
    total: int | None = None,  # number of items, for an iterable that has no length
) -> Iterable:
    "`items`, behind fastprogress's bar where bars show."
    if total is None and isinstance(items, Sized):
        total = len(items)
    return progress_bar(items, total=total) if total and shows_bars() else items
