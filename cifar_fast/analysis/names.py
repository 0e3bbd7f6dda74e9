"""Names in figures: matplotlib takes dollar signs for formulas, and drops what begins with _ from legends."""

import warnings

from matplotlib.figure import Figure

from cifar_fast.progress import say
from cifar_fast.text import printable

LONGEST = 40  # letters of a name in a figure


def in_figure(
    text: str,  # a title, which may hold names
) -> str:
    "The text as matplotlib draws it letter for letter."
    return printable(text).replace("$", r"\$")


def short(
    name: str,  # of a class or a run
) -> str:
    "The name as matplotlib draws it letter for letter, its middle left out where it is long."
    name = printable(name)
    return in_figure(name if len(name) <= LONGEST else f"{name[:27]}…{name[-12:]}")


def in_legend(
    name: str,  # of a run
) -> str:
    "As `short`, for a legend."
    name = short(name)
    return f" {name}" if name.startswith("_") else name


def save_figure(
    figure: Figure,
    target,  # a path or a binary file
) -> None:
    "Write the figure as PNG; letters that matplotlib's fonts lack are boxes, which one line says."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(target, dpi=110, format="png")
    missing = [o for o in caught if "missing from" in str(o.message)]
    if missing and not _said:
        _said.append(True)
        say("Figures show boxes for letters that matplotlib's fonts lack; tables and pages have the names as they are.")
    for o in caught:
        if o not in missing:
            warnings.warn_explicit(o.message, o.category, o.filename, o.lineno)


_said: list[bool] = []
