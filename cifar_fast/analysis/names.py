"""What figures share: names as matplotlib can draw them, grids of pictures, writing.

matplotlib takes dollar signs for formulas, and drops what begins with _ from legends.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure

from cifar_fast.progress import say
from cifar_fast.text import printable

LONGEST = 40  # letters of a name in a figure


def in_figure(text: str) -> str:
    "A title, which may hold names, as matplotlib draws it letter for letter."
    return printable(text).replace("$", r"\$")


def short(name: str) -> str:
    "The name of a class or a run as matplotlib draws it letter for letter, its middle left out where it is long."
    name = printable(name)
    return in_figure(name if len(name) <= LONGEST else f"{name[:27]}…{name[-12:]}")


def in_legend(name: str) -> str:
    "As `short`, for a legend."
    name = short(name)
    return f" {name}" if name.startswith("_") else name


def file_line(
    files: Sequence[str] | None,  # of a data set's images, below its folder; None: they are from none
    i: int,  # the image
    letters: int = 30,
) -> str:
    "A line that ends the image's path, so that a wrong label can be found; empty where it has none."
    if not files:
        return ""
    file = files[i]
    return f"\n{short(file if len(file) <= letters else '…' + file[1 - letters :])}"


def above(
    text: str,  # lines that are ready for matplotlib
    inches: float,  # from this picture to the next
) -> str:
    "A text above a picture, its lines broken where they would run into the next picture's."
    letters = int(inches * 14)  # of 8 points
    lines = text.replace(r"\$", "$").split("\n")
    return "\n".join(o for line in lines for o in wrap(line, letters) or [""]).replace("$", r"\$")


def picture_grid(rows: int, cols: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    "A figure of `size` inches, and its axes (rows, cols), for pictures: without ticks and frames."
    fig = Figure(figsize=size, layout="constrained")
    axes = fig.subplots(rows, cols, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    return fig, axes


def save_figure(figure: Figure, target) -> None:
    "Write it as PNG to a path or a binary file; letters that matplotlib's fonts lack are boxes, which one line says."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(target, dpi=110, format="png")
    missing = [o for o in caught if "missing from" in str(o.message)]
    if missing:
        _say_once("Figures show boxes for letters that matplotlib's fonts lack; tables and pages have the names as "
                  "they are.")  # fmt: skip
    for o in caught:
        if o not in missing:
            warnings.warn_explicit(o.message, o.category, o.filename, o.lineno)


_say_once = cache(say)
