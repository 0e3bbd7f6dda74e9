"""Finished runs, read back without running anything from them: one, or those of several seeds."""

import csv
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from fastai.learner import Learner

from cifar_fast.analysis.charts import History
from cifar_fast.analysis.predictions import Predictions, read_predictions
from cifar_fast.analysis.stats import accuracy_interval, mean_interval
from cifar_fast.data.image_set import is_fold, whole
from cifar_fast.errors import InputError
from cifar_fast.files import FOLD_FOLDER, SEED_FOLDER, numbered_folders, read_json
from cifar_fast.options import OF_A_PLACE, is_choosing

EVIDENCE = "evidence.json"
NO_SETTINGS = ("asked", "defaults", "experiment")  # entries of config.json that are no options
NO_METHOD = {*OF_A_PLACE, "seed", "seeds", "folds", "also_test", *NO_SETTINGS}  # and those that say nothing about how


@dataclass(frozen=True)
class FinishedRun:
    "A run folder, read back. Nothing in it is executed: the exported pickle is left alone."

    folder: Path
    config: dict  # config.json
    metrics: dict  # metrics.json
    history: History
    predictions: Predictions  # of the test images
    test_images: str  # a hash of them: runs that share it can be paired

    @property
    def name(self) -> str:
        "The folder's name."
        return self.folder.resolve().name

    @property
    def accuracy(self) -> float:
        "Share of the test images that are right, in [0, 1]."
        return self.metrics["accuracy"]

    @property
    def interval(self) -> tuple[float, float]:
        "Ends of the 95 % interval of one model's accuracy over test images."
        return tuple(self.metrics["accuracy_interval"])

    @classmethod
    def read(cls, folder: str | Path) -> "FinishedRun":
        "Raises `InputError` for a folder that holds no finished run."
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder} does not exist, or is no folder: name the folder of a finished run")
        try:
            config, metrics = (read_json(folder / f"{o}.json") for o in ("config", "metrics"))
            preds, images = read_predictions(folder / "predictions.safetensors")
            rows, batches = (read_rows(folder / f"{o}.csv") for o in ("history", "batches"))
            history = History(folder.resolve().name, rows, [float(o["lr"]) for o in batches])
            return cls(folder, config, metrics, history, preds, images)
        except (OSError, ValueError, KeyError, TypeError) as error:
            missing = error.filename if isinstance(error, FileNotFoundError) else None  # safetensors gives no name
            why = f"{Path(missing).name} is missing" if missing else error
            raise InputError(f"{folder} holds no finished run ({why}): name the folder of one") from error


def read_rows(path: Path) -> list[dict]:
    "Rows of the training that counts; none where the file is missing: Ctrl-C came before the first epoch ended."
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if not is_choosing(row["stage"])]


@dataclass
class Runs:
    "What one experiment has given with the same options: a run, or the runs of several seeds or folds."

    name: str  # in tables and legends
    runs: list[FinishedRun]
    folder: Path  # of the run, or of all seeds or folds
    learn: Learner | None = field(default=None, repr=False)  # of the last one, where this process has trained it

    @classmethod
    def read(cls, folder: str | Path, name: str | None = None) -> "Runs":
        "A run folder, or one that `--seeds` or `--folds` has filled. Raises `InputError` where it is neither."
        folder = Path(folder)
        return cls(name or folder.resolve().name, [FinishedRun.read(o) for o in single_runs(folder)], folder)

    @property
    def first(self) -> FinishedRun:
        "The run of the first seed."
        return self.runs[0]

    @property
    def metrics(self) -> dict:
        "metrics.json of the first seed."
        return self.first.metrics

    @property
    def are_folds(self) -> bool:
        "Whether each run was tested on its own part of the training images."
        return is_fold(self.metrics["data"])

    @property
    def report(self) -> Path:
        "The page."
        return self.folder / "report.html"

    @property
    def about(self) -> str:
        "What was trained on what."
        if self.are_folds:
            return f"{whole(self.metrics['data'])}, {self.metrics['experiment']}: {self.metrics['model']}"
        return self.metrics.get("about", self.name)

    @property
    def accuracies(self) -> list[float]:
        "Test accuracy of each run, in [0, 1]."
        return [o.accuracy for o in self.runs]

    @property
    def accuracy(self) -> float:
        "Mean test accuracy, in [0, 1]."
        return fmean(self.accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        "Ends of the 95 % interval: of the mean over seeds or folds, or of one model over test images."
        return accuracy_interval(self.accuracies, self.are_folds) or self.first.interval

    @property
    def accuracy_text(self) -> str:
        "Mean and interval, in words."
        mean, half = mean_interval(self.accuracies, self.are_folds)
        if half is not None:
            return f"{percent(mean, 2)} ± {half * 100:.2f}"
        low, high = self.interval
        return f"{percent(mean, 2)} ({low * 100:.1f} to {high * 100:.1f})"

    @property
    def evidence(self) -> dict:
        "What `evaluate` has found, by question; empty where nothing was asked."
        return read_evidence(self.folder)

    def mean(self, key: str) -> float | None:
        "Mean of a number of metrics.json over the runs that have it; None where none has."
        values = [o.metrics[key] for o in self.runs if o.metrics.get(key) is not None]
        return fmean(values) if values else None

    def __str__(self) -> str:
        n = f", {len(self.runs)} {'folds' if self.are_folds else 'seeds'}" if len(self.runs) > 1 else ""
        what = "accuracy on held-out training images" if self.are_folds else "test accuracy"
        return f"{self.about}{n}: {what} {self.accuracy_text} -> {self.folder}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = {
            "experiment": self.about,
            "accuracy on held-out images" if self.are_folds else "test accuracy": self.accuracy_text,
            "folds" if self.are_folds else "seeds": len(self.runs),
            "training": duration(self.mean("train_seconds")),
            "folder": self.folder,
            "page": self.report,
        }
        cells = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(o))}</td></tr>" for k, o in rows.items())
        return f"<table>{cells}</table>"


def read_evidence(folder: Path) -> dict:
    "evidence.json of a run's folder; empty where nothing was asked."
    try:
        found = read_json(folder / EVIDENCE)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def single_runs(folder: Path) -> list[Path]:
    "The runs that `--seeds` or `--folds` has made in `folder`, by number; else the folder alone."
    return numbered_folders(folder, SEED_FOLDER) or numbered_folders(folder, FOLD_FOLDER) or [folder]


def percent(value: float | None, digits: int = 1) -> str:
    "A share as per cent; a dash for none."
    return "-" if value is None or value != value else f"{value * 100:.{digits}f} %"


def duration(seconds: float | None) -> str:
    "Seconds as people say them; a dash where they are not known."
    if seconds is None or seconds < 100:
        return known(seconds, "{:.1f} s")
    return "{} min {} s".format(*divmod(round(seconds), 60))


def known(value: Any, form: str = "{}") -> str:
    "A value as text; a dash where it is not known."
    return "-" if value is None else form.format(value)
