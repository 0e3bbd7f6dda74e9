"""The table of habits: each test here is one, tried on a stock fastai Learner and on ours, the same asserted of all."""

import functools
import importlib
import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest

from cifar_fast.errors import InputError

OURS = ("custom", "transfer", "cached", "record")  # cached: a frozen body's features are computed once
KINDS = ("stock", *OURS)


def only(*kinds: str) -> Callable:
    "A habit of these Learners alone."

    def mark(row):
        row.kinds = kinds
        return row

    return mark


def departs(
    reason: str,  # why it is otherwise here
    refused: str | None = None,  # what the refusal says; None: the row itself asserts what is otherwise
    of: tuple[str, ...] = (*OURS, "ours"),  # kinds that depart
) -> Callable:
    "A habit that works otherwise here, knowingly."

    def mark(row):
        @functools.wraps(row)
        def tried(**given):
            if refused is None or kind_of(given) not in of:
                return row(**given)
            with pytest.raises(InputError, match=refused):
                row(**given)

        tried.departs = f"`record_learner`: {reason}" if of == ("record",) else reason
        return tried

    return mark


def fails_on_stock(
    reason: str,  # what goes wrong there
    here: bool = False,  # whether it goes wrong here as well
) -> Callable:
    "A habit that fails on a stock Learner."

    def mark(row):
        @functools.wraps(row)
        def tried(**given):
            if kind_of(given) != "stock" and not here:
                return row(**given)
            with pytest.raises(Exception):  # noqa: B017 - each in its own way
                row(**given)

        tried.fails_on_stock, tried.fails_here = reason, here
        return tried

    return mark


def kind_of(given: dict) -> str:
    "The kind of Learner or loaders that a row was given."
    return next(o.kind for o in given.values() if hasattr(o, "kind"))


def is_stock(o) -> bool:
    "Whether a Learner or loaders are fastai's own."
    return o.kind == "stock"


def rows() -> list[Callable]:
    "All habits."
    found = []
    for file in sorted(Path(__file__).parent.glob("test_habits_*.py")):
        module = importlib.import_module(f"habits.{file.stem}")
        tests = [o for name, o in vars(module).items() if name.startswith("test_")]
        found += [o for o in tests if {"learn", "again", "choosing", "dls"} & set(signature(o).parameters)]
    return found


def title(row: Callable) -> str:
    "A row's name in plain words."
    return re.sub("_", " ", row.__name__.removeprefix("test_"))


def counted() -> list[str]:
    "What docs/habits.md is to say: the count, a line for each departure, and one for each failure of stock."
    found = rows()
    departing = _by_reason(found, "departs")
    here = [o for o in found if getattr(o, "fails_here", False)]
    failing = _by_reason([o for o in found if o not in here], "fails_on_stock")
    n_departing, n_failing = (sum(map(len, o.values())) for o in (departing, failing))
    n_holding = len(found) - n_departing - n_failing - len(here)
    head = f"**{len(found)} habits: {n_holding} hold as on a stock Learner, {n_departing} depart knowingly, "
    head += f"{n_failing} fail on stock and work here, {len(here)} fail on both.**"
    return [head, *_lines(departing), *_lines(failing), *_lines(_by_reason(here, "fails_on_stock"))]


def _by_reason(found: list[Callable], kind: str) -> dict[str, list[str]]:
    res: dict[str, list[str]] = {}
    for row in found:
        if hasattr(row, kind):
            res.setdefault(getattr(row, kind), []).append(title(row))
    return res


def _lines(reasons: dict[str, list[str]]) -> list[str]:
    return [f"- {reason} (*{', '.join(names)}*)" for reason, names in sorted(reasons.items())]
