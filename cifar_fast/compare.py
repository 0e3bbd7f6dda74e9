"""Several runs side by side: one page and one table, with a verdict on every pair."""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

from cifar_fast.charts import History, plot_complexity, plot_curves
from cifar_fast.errors import InputError
from cifar_fast.interpret import plot_confusion_difference
from cifar_fast.report import Picture, duration, percent, warnings_of, write_page
from cifar_fast.run import FinishedRun
from cifar_fast.stats import Comparison, compare_methods, compare_models, mean_interval

SEED_FOLDER = "seed-"
HIDDEN = ("run", "asked", "seed", "seeds", "device")  # options that say nothing about the method


@dataclass(frozen=True)
class Method:
    "One way of training: a run, or the runs of several seeds."

    name: str
    runs: list[FinishedRun]

    @classmethod
    def read(cls, folder: str | Path, name: str | None = None) -> "Method":
        "A run folder, or one that `--seeds` has filled. Raises `InputError` where it is neither."
        folder = Path(folder)
        return cls(name or folder.resolve().name, [FinishedRun.read(o) for o in seed_folders(folder) or [folder]])

    @property
    def first(self) -> FinishedRun:
        "The run of the first seed."
        return self.runs[0]

    @property
    def accuracies(self) -> list[float]:
        "Test accuracy of each run, in [0, 1]."
        return [o.metrics["accuracy"] for o in self.runs]

    @property
    def accuracy(self) -> str:
        "Mean and interval, in words."
        mean, half = mean_interval(self.accuracies)
        if half is not None:
            return f"{percent(mean, 2)} ± {half * 100:.2f}"
        low, high = self.first.metrics["accuracy_interval"]
        return f"{percent(mean, 2)} ({low * 100:.1f} to {high * 100:.1f})"

    def mean(self, key: str) -> float | None:
        "Mean of a number of metrics.json over the runs that have it; None where none has."
        values = [o.metrics[key] for o in self.runs if o.metrics[key] is not None]
        return fmean(values) if values else None


def seed_folders(folder: Path) -> list[Path]:
    "The runs that `--seeds` has made in `folder`, in the order of their seeds."
    return sorted(folder.glob(f"{SEED_FOLDER}[0-9]*"), key=lambda o: int(o.name.removeprefix(SEED_FOLDER)))


def read_methods(folders: list[str | Path]) -> list[Method]:
    "A method a folder, called by the folder's name, or by its path where two have the same name."
    methods = [Method.read(o) for o in folders]
    names = [o.name for o in methods]
    return [replace(o, name=str(path)) if names.count(o.name) > 1 else o for o, path in zip(methods, folders)]


def compare(first: Method, second: Method) -> Comparison:
    """Welch's test where both have several seeds, else McNemar's on the first runs.

    Raises `InputError` where McNemar's has no pairs: the test images are not the same.
    """
    if len(first.runs) > 1 and len(second.runs) > 1:
        return compare_methods(first.accuracies, second.accuracies)
    if first.first.images != second.first.images:
        raise InputError(f"{first.name} and {second.name} were tested on different images: compare like with like")
    return compare_models(first.first.predictions.right, second.first.predictions.right)


def result_rows(methods: list[Method]) -> list[list[str]]:
    "A row a method, under `RESULT_HEADER`."
    return [
        [
            o.name,
            o.accuracy,
            str(len(o.runs)),
            percent(o.mean("train_accuracy")),
            duration(o.mean("train_seconds")),
            f"{o.mean('images_per_second') or 0:,.0f}",
            f"{o.first.metrics['params'] / 1e6:.2f} M",
            f"{o.first.metrics['macs'] / 1e6:,.1f} M",
            f"{o.mean('peak_memory_mb'):,.0f} MB",
        ]
        for o in methods
    ]


RESULT_HEADER = [
    "run",
    "test accuracy",
    "seeds",
    "train accuracy",
    "training",
    "images/s",
    "parameters",
    "MACs",
    "memory",
]


def verdict_rows(methods: list[Method]) -> list[dict[str, str]]:
    "A dict a pair: pair, test, difference, interval, p, verdict."
    rows = []
    for first, second in combinations(methods, 2):
        found = compare(first, second)
        rows.append({
            "pair": f"{second.name} against {first.name}",
            "test": found.test,
            "difference": f"{found.difference * 100:+.2f} points",
            "interval": f"{found.low * 100:+.2f} to {found.high * 100:+.2f}",
            "p": f"{found.p:.3f}" if found.p >= 0.001 else f"{found.p:.0e}",
            "verdict": found.verdict,
        })  # fmt: skip
    return rows


def differing_settings(methods: list[Method]) -> list[list[str]]:
    "A row an option that is not the same everywhere: its name, then each method's value."
    configs = [o.first.config for o in methods]
    names = [name for name in dict.fromkeys(name for o in configs for name in o) if name not in HIDDEN]
    rows = [[name, *(str(o.get(name, "-")) for o in configs)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def all_settings(method: Method) -> list[list[str]]:
    "A row an option that says something about the method."
    return [[name, str(value)] for name, value in method.first.config.items() if name not in HIDDEN]


SEED_HEADER = ["run", "seed", "test accuracy", "train accuracy", "training"]


def seed_rows(methods: list[Method]) -> list[list[str]]:
    "A row a run of the methods that have several, under `SEED_HEADER`."
    runs = [(method, o.metrics) for method in methods if len(method.runs) > 1 for o in method.runs]
    return [
        [
            method.name, str(o["seed"]), percent(o["accuracy"], 2), percent(o["train_accuracy"]),
            duration(o["train_seconds"]),
        ]
        for method, o in runs
    ]  # fmt: skip


def comparison_figures(methods: list[Method]) -> list[Picture]:
    "Curves together, what they cost, and how each confuses otherwise than the first."
    histories = [History(o.name, o.first.history.epochs, o.first.history.lrs) for o in methods]
    figures = [
        Picture.of(plot_curves(*histories), "Accuracy, loss and learning rate; of several seeds the first."),
        Picture.of(plot_complexity({o.name: o.first.metrics for o in methods}), "What accuracy costs."),
    ]
    for other in methods[1:]:
        if other.first.images == methods[0].first.images:
            text = f"{other.name} against {methods[0].name}, in images: red is worse, blue is better."
            figure = plot_confusion_difference(methods[0].first.predictions, other.first.predictions)
            figures.append(Picture.of(figure, text))
    return figures


def write_comparison(
    methods: list[Method],  # two or more, or the seeds of one
    path: Path,  # of the page
    heading: str = "Runs side by side",  # of the page
) -> Path:
    "Write the page. Raises `InputError` for runs that cannot be compared, or a path that cannot be a page."
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: give --out a file in a folder that exists")
    return write_page(
        path,
        "comparison.html",
        heading,
        warnings=list(dict.fromkeys(w for o in methods for w in warnings_of(o.first.metrics))),
        result_header=RESULT_HEADER,
        results=result_rows(methods),
        verdicts=verdict_rows(methods),
        seed_header=SEED_HEADER,
        seeds=seed_rows(methods),
        settings_title="Settings that differ" if len(methods) > 1 else "Settings",
        settings_header=["option", *(o.name for o in methods)],
        settings=differing_settings(methods) if len(methods) > 1 else all_settings(methods[0]),
        figures=comparison_figures(methods),
    )


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    "A table for the terminal and for pasting."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
