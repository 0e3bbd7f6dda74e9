"""Figures of trainings, one or several in one picture: curves over epochs, and what accuracy costs.

Each function returns a matplotlib Figure and shows none.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from fastai.learner import Learner
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator

from cifar_fast.analysis.names import in_figure, in_legend, short
from cifar_fast.errors import InputError
from cifar_fast.text import counted
from cifar_fast.training.adapt import arch_and_weights


@dataclass(frozen=True)
class History:
    "How a training went."

    name: str  # in the legend
    epochs: list[dict]  # one an epoch: accuracy, train_accuracy, train_loss, valid_loss, as in history.csv
    lrs: list[float] = field(default_factory=list)  # learning rate of each batch

    @classmethod
    def of(cls, training: "Learner | History") -> "History":
        """A fitted Learner's last fit; a History stays as it is.

        Raises `InputError` where a plain fastai Learner has validated since: its Recorder has forgotten the fit.
        """
        if isinstance(training, History):
            return training
        name, recorder = arch_and_weights(training)[0], training.recorder
        kept = vars(training).get("last_fit")  # of what it lacks, the Learner would ask the user's network
        if kept is not None:
            return cls(name, kept.rows, learning_rates(training, kept.lrs))
        if recorder.values and not recorder.lrs:
            raise InputError("the Recorder holds a validation, no fit: draw before validate, or take a fast_learner")
        names = list(recorder.metric_names)[1:]
        rows = [dict(zip(names, row)) for row in recorder.values]
        return cls(name, rows, learning_rates(training))


def learning_rates(
    learn: Learner,  # fitted
    lrs: list[float] | None = None,  # one a batch, as recorded; None: the Recorder's
) -> list[float]:  # one a batch
    "Of the last layer group; of a record recipe, whose recorder holds factors of its rates, those of its filters."
    recipe = vars(learn).get("recipe")  # not of the network
    return [lr * (recipe.filter_lr if recipe else 1) for lr in (learn.recorder.lrs if lrs is None else lrs)]


def plot_curves(
    *trainings: Learner | History,  # fitted Learners, or histories
    title: str = "",  # of the figure
) -> Figure:
    "Accuracy and loss, epoch by epoch (training images dashed), and the learning rate, batch by batch."
    histories = _with_names_of_their_own([History.of(o) for o in trainings])
    fig = Figure(figsize=(13, 4), layout="constrained")
    axes = fig.subplots(1, 3)
    for i, history in enumerate(histories):
        _plot_epochs(axes[0], history, f"C{i}", "accuracy", "train_accuracy")
        _plot_epochs(axes[1], history, f"C{i}", "valid_loss", "train_loss")
        axes[2].plot(history.lrs, color=f"C{i}")
    for ax, what in zip(axes, ("accuracy", "loss", "learning rate")):
        ax.set_xlabel("batch" if what == "learning rate" else "epoch")
        ax.set_ylabel(what)
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    within_shares(axes[0])
    if any(o.lrs for o in histories):
        axes[2].set_yscale("log")
    axes[1].set_title("training loss: smoothed, in train mode", fontsize="small")
    lines = [Line2D([], [], color="grey", linestyle="--"), Line2D([], [], color="grey")]
    labels = ["training images", "test or held-out images"]
    if len(histories) > 1:
        lines += [Line2D([], [], color=f"C{i}") for i in range(len(histories))]
        labels += [in_legend(o.name) for o in histories]
    fig.legend(lines, labels, loc="outside lower center", ncols=4, fontsize="small")
    fig.suptitle(in_figure(title), fontsize="medium", wrap=True)
    return fig


def _with_names_of_their_own(histories: list[History]) -> list[History]:
    names = [o.name for o in histories]
    return [
        replace(o, name=f"{o.name} ({names[: i + 1].count(o.name)})") if names.count(o.name) > 1 else o
        for i, o in enumerate(histories)
    ]


def within_shares(ax: Axes) -> None:
    "Show no accuracies below 0 or above 1."
    low, high = ax.get_ylim()
    ax.set_yticks([o for o in ax.get_yticks() if max(low, -1e-9) <= o <= min(high, 1 + 1e-9)])
    ax.set_ylim(max(low, -0.02), min(high, 1.02))


def _plot_epochs(ax: Axes, history: History, color: str, valid: str, train: str) -> None:
    for name, style in ((train, "--"), (valid, "-")):
        values = [np.nan if row.get(name) in (None, "") else float(row[name]) for row in history.epochs]
        ax.plot(range(1, len(values) + 1), values, style, color=color, marker="o", markersize=3)


def plot_complexity(
    results: dict[str, dict],  # metrics.json of each run, by the name to show
    title: str = "",  # of the figure
) -> Figure:
    "Accuracy against multiply-accumulates, points sized by parameters; peak memory and speed of each run beside it."
    names, metrics = list(results), list(results.values())
    fig = Figure(figsize=(14, 4.5), layout="constrained")
    axes = fig.subplots(1, 3, width_ratios=(2, 1, 1))
    for i, o in enumerate(metrics):
        area = 40 + 400 * o["params"] / max(p["params"] for p in metrics)
        macs = (o["macs"] or np.nan) / 1e6  # not counted: no point
        axes[0].scatter(macs, o["accuracy"], s=area, color=f"C{i}", alpha=0.7, label=in_legend(names[i]))
        axes[0].annotate(counted(o["params"]), (macs, o["accuracy"]), fontsize=8,
                         xytext=(0, 14), textcoords="offset points", ha="center")  # fmt: skip
    axes[0].set_xscale("log")
    for axis_formatter in (axes[0].xaxis.set_major_formatter, axes[0].xaxis.set_minor_formatter):
        axis_formatter(LogFormatter(minor_thresholds=(2, 1)))
    axes[0].margins(0.25)
    within_shares(axes[0])
    axes[0].set_xlabel("million multiply-accumulates an image")
    axes[0].set_ylabel("test accuracy")
    axes[0].set_title("area and label: parameters", fontsize="small")
    axes[0].grid(alpha=0.3)
    for ax, key, label in zip(axes[1:], ("peak_memory_mb", "images_per_second"), ("peak memory, MB", "images/s")):
        values = [o.get(key) or 0 for o in metrics]
        ax.barh(range(len(names)), values, color=[f"C{i}" for i in range(len(names))])
        ax.set_yticks([])
        ax.invert_yaxis()
        ax.set_xlabel(label)
        for i, value in enumerate(values):
            ax.text(0, i, f" {value:,.0f}", va="center", fontsize="small")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small",
               markerscale=0.5)  # fmt: skip
    fig.suptitle(in_figure(title), fontsize="medium", wrap=True)
    return fig


def plot_sweep(
    trials: list[dict],  # config, accuracy and epochs of each
    whole: list[bool],  # whether each was trained to its end
    params: list,  # that were searched: each has a name, a kind and, of a choice, values
    title: str = "",  # of the figure
) -> Figure:
    "Held-out accuracy against each parameter; trials that ASHA ended early are hollow."
    fig = Figure(figsize=(4 * len(params) + 0.5, 3.6), layout="constrained")
    for ax, param in zip(fig.subplots(1, len(params), sharey=True, squeeze=False)[0], params):
        labels = [str(o) for o in param.values] if param.kind == "choice" else []
        for trial, in_full in zip(trials, whole):
            value = trial["config"][param.name]
            x = labels.index(str(value)) if labels else value
            ax.plot(x, trial["accuracy"], "o", color="C0", fillstyle="full" if in_full else "none")
        if labels:
            ax.set_xticks(range(len(labels)), [short(o) for o in labels])
            ax.margins(x=0.3)
        if param.kind == "loguniform":
            ax.set_xscale("log")
            ax.tick_params(axis="x", which="both", rotation=45)
        ax.set_xlabel(param.name)
        ax.grid(alpha=0.3)
    fig.axes[0].set_ylabel("accuracy on held-out images")
    fig.suptitle(f"{in_figure(title)}: {len(trials)} trials (hollow: ended early)", fontsize="medium")
    return fig
