"""All runs at a glance: what was tried, with which settings, and what came out, whatever state the folders are in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cifar_fast.analysis.stats import accuracy_interval
from cifar_fast.data.image_set import is_fold, whole
from cifar_fast.errors import InputError, check
from cifar_fast.files import read_json
from cifar_fast.runs.page import write_page
from cifar_fast.runs.results import NO_METHOD, NO_SETTINGS, duration, percent, read_rows, single_runs
from cifar_fast.text import did_you_mean

HEADER = ["when", "experiment", "settings", "data", "test accuracy", "95 % interval", "training", "state", "folder"]


@dataclass(frozen=True)
class Row:
    "A run folder, or that of several seeds, in whatever state."

    folder: Path
    when: datetime  # of its last change
    name: str  # of the experiment
    settings: dict[str, Any]  # that differ from the experiment's defaults
    config: dict[str, Any]  # all of them
    data: str
    accuracies: list[float]  # one a finished seed
    interval: tuple[float, float] | None
    seconds: float | None  # of training, all seeds together
    state: str  # finished, interrupted, unfinished, or damaged and why
    curve: list[float] = field(default_factory=list, repr=False)  # test accuracy of each epoch

    @property
    def accuracy(self) -> float | None:
        "Mean test accuracy, in [0, 1]; None without a result."
        return sum(self.accuracies) / len(self.accuracies) if self.accuracies else None

    @property
    def cells(self) -> list[str]:
        "Under `HEADER`."
        n, what = len(self.accuracies), "folds" if self.config.get("folds") else "seeds"
        seeds = f" ({n} {what})" if n > 1 else ""
        interval = " to ".join(percent(o) for o in self.interval) if self.interval else "-"
        settings = ", ".join(f"{k}={o}" for k, o in self.settings.items()) or "-"
        return [f"{self.when:%Y-%m-%d %H:%M}", self.name, settings, self.data, percent(self.accuracy, 2) + seeds,
                interval, duration(self.seconds), self.state, str(self.folder)]  # fmt: skip


SORTS = {
    "when": lambda row: -row.when.timestamp(),
    "accuracy": lambda row: -(row.accuracy or 0),
    "seconds": lambda row: row.seconds or 0,
    "name": lambda row: row.name,
}


class RunList(list):
    "Rows of `list_runs`, which a terminal and a notebook show as a table."

    def __str__(self) -> str:
        if not self:
            return "No run fits."
        rows = [HEADER, *(o.cells for o in self)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{o}</th>" for o in HEADER)
        rows = "".join("<tr>" + "".join(f"<td>{escape(o)}</td>" for o in row.cells) + "</tr>" for row in self)
        return f"<table><tr>{head}</tr>{rows}</table>"


def list_runs(
    folder: str | Path = "runs",  # below which to look
    sort: str = "when",  # when (newest first), accuracy (best first), seconds or name
    best: int | None = None,  # so many with the best accuracy
    data: str | None = None,  # only runs on this data set
    where: dict[str, Any] | None = None,  # only runs with these options
) -> RunList:
    """Every run below `folder`, damaged and half-finished ones too.

    Raises `InputError` where there is no such folder, and for an option that none of its runs has.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: no run has been made there yet; name another")
    check("sort", sort, sort in SORTS, f"one of {', '.join(SORTS)}")
    rows = [read_row(o) for o in find_runs(folder)]
    options = {name for o in rows for name in o.config}
    rows = [o for o in rows if data in (None, o.data)]
    for name, value in (where or {}).items():
        name = name.replace("-", "_")
        if name not in options:
            raise InputError(f"no run below {folder} has an option {name!r}{did_you_mean(name, options)}: name another")
        rows = [o for o in rows if name in o.config and str(o.config[name]) == str(value)]
    rows.sort(key=SORTS["accuracy" if best else sort])
    rows = rows[:best]
    return RunList(sorted(rows, key=SORTS[sort]) if best and sort != "when" else rows)


def find_runs(folder: Path) -> list[Path]:
    "Folders of runs: they hold config.json; several seeds are one, and a sweep is its winner."
    found = sorted(o.parent for o in folder.rglob("config.json"))
    seeds = {o for run in found for o in single_runs(run) if o != run}
    sweeps = {o for o in found if (o / "trials").is_dir()}
    hidden = {o for o in found if any(part.startswith(".") for part in o.relative_to(folder).parts)}
    return [o for o in found if o not in seeds | sweeps | hidden]


def read_row(folder: Path) -> Row:
    "What is known of the run in `folder`."
    try:
        return _row(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = re.sub(r"\s+", " ", str(error))[:60]
        return Row(folder, _changed(folder), folder.name, {}, {}, "-", [], None, None, f"damaged: {why}")


def _row(folder: Path) -> Row:
    config, runs = read_json(folder / "config.json"), single_runs(folder)
    metrics = [read_json(o / "metrics.json") for o in runs if (o / "metrics.json").exists()]
    asked, defaults = config.get("asked", {}), config.get("defaults", {})
    accuracies = [float(o["accuracy"]) for o in metrics]
    are_folds = bool(metrics) and is_fold(metrics[0]["data"])
    interval = accuracies and (accuracy_interval(accuracies, are_folds) or metrics[0]["accuracy_interval"])
    seconds = [o["train_seconds"] for o in metrics if o.get("train_seconds") is not None]
    state = "finished" if len(metrics) == max(len(runs), asked.get("seeds", 1), asked.get("folds", 0)) else "unfinished"
    if stopped := [o["epochs"] for o in metrics if o["interrupted"]]:
        state = f"interrupted after {stopped[0]} epochs"
    settings = {k: o for k, o in asked.items() if k in defaults and o != defaults[k] and k not in {*NO_METHOD, "data"}}
    name = (config.get("experiment") or {}).get("name") or folder.name  # which version 0.1 called by the experiment
    data = whole(metrics[0]["data"]) if metrics else str(config.get("data", "-"))
    options = {k: o for k, o in config.items() if k not in NO_SETTINGS}
    return Row(folder, _changed(folder), name, settings, options, data, accuracies,
                tuple(interval) if interval else None, sum(seconds) if seconds else None, state,
                [float(o["accuracy"]) for o in read_rows(runs[0] / "history.csv")])  # fmt: skip


def _changed(folder: Path) -> datetime:
    try:
        return datetime.fromtimestamp(max(o.stat().st_mtime for o in folder.iterdir()))
    except (OSError, ValueError):
        return datetime.fromtimestamp(0)


def sparkline(values: Sequence[float], width: int = 120, height: int = 28) -> Markup:
    "The curve as an SVG, from its lowest to its highest value; empty without values."
    if not values:
        return Markup()
    step, low, span = width / max(len(values) - 1, 1), min(values), (max(values) - min(values)) or 1
    points = " ".join(f"{i * step:.1f},{(1 - (o - low) / span) * (height - 2) + 1:.1f}" for i, o in enumerate(values))
    return Markup(f'<svg width="{width}" height="{height}" role="img" aria-label="accuracy over epochs">'
            f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>')  # fmt: skip


def write_overview(
    rows: RunList,
    path: Path,  # of the page
) -> Path:
    "The page, which sorts by the column that is clicked. Raises `InputError` for a path that cannot be a page."
    cells = [[*o.cells[:5], sparkline(o.curve), *o.cells[5:]] for o in rows]
    header = [*HEADER[:5], "by epoch", *HEADER[5:]]
    return write_page(path, "overview.html", f"{len(rows)} runs", header=header, rows=cells)
