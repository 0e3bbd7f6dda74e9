"""Figures of what a model gets right and wrong.

Each function returns a matplotlib Figure that pyplot does not know: a notebook shows it once, and none is left open.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.torch_core import dispatch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cifar_fast.analysis.names import above, file_line, in_figure, picture_grid, short
from cifar_fast.analysis.predictions import Predictions

MANY = 20  # classes, from which on cells and rows are too small for numbers
MOST = 120  # classes, from which on a figure shows MANY of them only


class TestInterpretation(Predictions, ClassificationInterpretation):
    """fastai's ClassificationInterpretation that keeps the predictions of its one pass over the images.

    All of fastai's methods work; those that ask for the confusion matrix do not run the model again.
    """

    __test__ = False  # no test, whatever pytest makes of its name

    def __init__(self, learn: Learner, dl, losses: Tensor, act=None):
        ClassificationInterpretation.__init__(self, learn, dl, losses, act)

    @classmethod
    def from_learner(cls, learn: Learner, ds_idx: int = 1, dl=None, act=None) -> "TestInterpretation":
        """Predict `learn.dls[ds_idx]`, or `dl`, once.

        Where the loss function says nothing of an activation, as plain functions and torch's classes do, the model's
        outputs are taken for logits. One that gives no loss for each image is replaced by cross-entropy here.
        """
        dl = learn.dls[ds_idx].new(shuffle=False, drop_last=False) if dl is None else dl
        if act is None and not hasattr(learn.loss_func, "activation"):
            act = partial(torch.softmax, dim=-1)
        try:
            preds, targs, losses = learn.get_preds(dl=dl, with_loss=True, act=act)
            if len(losses) != len(targs):
                raise TypeError("one loss for several images")
        except (TypeError, RuntimeError):
            preds, targs = learn.get_preds(dl=dl, act=act)
            losses = Predictions(preds, targs, ()).cross_entropy()
        res = cls(learn, dl, losses.as_subclass(Tensor), act)
        res.preds, res.targs = preds.float(), targs.as_subclass(Tensor)
        return res

    @property
    def files(self) -> list[str] | None:
        "The images' files, below the folder that they are from; None where they are from none."
        return getattr(self.dl.dataset, "files", None)

    def caption(self, i: int, letters: int = 30) -> str:
        "A line that ends the path of image `i`, so that a wrong label can be found; empty where it has none."
        return file_line(self.files, i, letters)

    @property
    def loss(self) -> float:
        "Mean loss."
        return self.losses.double().mean().item()

    def image(self, i: int) -> np.ndarray:
        "Image `i` as stored: uint8 (H, W, 3)."
        return self.dl.dataset.x[i].cpu().permute(1, 2, 0).numpy()

    def confused(self, true: str, taken_for: str) -> list[int]:
        "Indices of the images of class `true` that were taken for the other class, the surest mistakes first."
        vocab = list(self.vocab)
        row, col = vocab.index(true), vocab.index(taken_for)
        idxs = ((self.targs == row) & (self.decoded == col)).nonzero().flatten()
        return idxs[self.preds[idxs, col].argsort(descending=True, stable=True)].tolist()


def plot_confusion(
    interp: Predictions,  # predictions, or an interpretation
    title: str = "",  # of the figure
    normalize: bool = False,  # write shares of the true class in per cent instead of counts
) -> Figure:
    """The confusion matrix: numbers in the cells (up to 20 classes), shade by share of the row.

    Of more than 120 classes it shows the 20 that are confused most.
    """
    counts = interp.confusion_matrix()
    share = counts / counts.sum(1, keepdims=True).clip(1)
    shown, about = _shown(counts)
    counts, share = counts[np.ix_(shown, shown)], share[np.ix_(shown, shown)]
    fig, ax = _matrix_axes([interp.vocab[i] for i in shown])
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    text = (lambda i, j: f"{share[i, j] * 100:.0f}") if normalize else (lambda i, j: counts[i, j])
    _write_cells(ax, counts, share > 0.5, text)
    title = in_figure(title) + "\nper cent of the true class" * normalize + about
    ax.set_title(title, fontsize="medium", wrap=True)
    return fig


def plot_confusion_difference(
    first: Predictions,  # predictions, or an interpretation
    second: Predictions,  # of the same images
    title: str = "",  # of the figure
) -> Figure:
    "What the second confuses more (red) and less (blue) than the first, in images."
    difference = second.confusion_matrix() - first.confusion_matrix()
    shown, about = _shown(np.abs(difference))
    difference = difference[np.ix_(shown, shown)]
    fig, ax = _matrix_axes([first.vocab[i] for i in shown])
    worse = difference.copy()
    np.fill_diagonal(worse, -difference.diagonal())  # more on the diagonal is better
    most = max(1, np.abs(worse).max())
    ax.imshow(worse, cmap="RdBu_r", vmin=-most, vmax=most)
    _write_cells(ax, difference, np.abs(worse) > 0.6 * most, lambda i, j: f"{difference[i, j]:+d}")
    ax.set_title(in_figure(title) + about, fontsize="medium", wrap=True)
    return fig


def _shown(counts: np.ndarray) -> tuple[list[int], str]:
    "Of a matrix of mistakes: indices of the classes that have room, those with most of them, and a line that says so."
    if len(counts) <= MOST:
        return list(range(len(counts))), ""
    mistakes = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    shown = sorted(np.argsort(-mistakes, kind="stable")[:MANY].tolist())
    return shown, f"\nthe {MANY} of {len(counts):,} classes with most mistakes"


def _matrix_axes(vocab) -> tuple[Figure, Axes]:
    n = len(vocab)
    side = min(4 + 0.5 * n, 18)
    fig = Figure(figsize=(side, side), layout="constrained")
    ax = fig.subplots()
    size = "medium" if n <= MANY else 6
    names = [short(o) for o in vocab]
    ax.set_xticks(range(n), names, rotation=90, fontsize=size)
    ax.set_yticks(range(n), names, fontsize=size)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    return fig, ax


def _write_cells(ax: Axes, values: np.ndarray, is_dark: np.ndarray, text: Callable[[int, int], object]) -> None:
    "A text in each cell of a matrix that is small enough; that of a 0 is pale."
    for i, j in np.ndindex(values.shape) if len(values) <= MANY else ():
        color = "white" if is_dark[i, j] else "black" if values[i, j] else "lightgrey"
        ax.text(j, i, text(i, j), ha="center", va="center", color=color, fontsize=9)


def plot_per_class(
    interp: Predictions,  # predictions, or an interpretation
    title: str = "",  # of the figure
) -> Figure:
    "Precision, recall and F1 of each class, the best recognised first; of more than 120 the best and the worst 20."
    scores, about = sorted(interp.per_class().items(), key=lambda o: np.nan_to_num(o[1].f1, nan=-1)), ""
    if len(scores) > MOST:
        about = f"\nthe {MANY} best and the {MANY} worst recognised of {len(scores):,} classes"
        scores = scores[:MANY] + scores[-MANY:]
    fig = Figure(figsize=(8, min(1.9 + 0.35 * len(scores), 24)), layout="constrained")
    ax = fig.subplots()
    rows = np.arange(len(scores))
    for name, marker, color, size in (("precision", ">", "C1", 7), ("recall", "<", "C0", 7), ("F1", "o", "black", 4)):
        values = [getattr(o, name.lower()) for _, o in scores]
        ax.plot(values, rows, marker, color=color, label=name, markersize=size)
    ax.hlines(rows, 0, 1, color="lightgrey", linewidth=0.5, zorder=0)
    ax.set_yticks(rows, [short(name) for name, _ in scores], fontsize="medium" if len(scores) <= 2 * MANY else 6)
    ax.set_ylim(-0.6, len(scores) - 0.4)
    ax.set_xlim(-0.02, 1.02)
    fig.legend(loc="outside lower center", ncols=3)  # in the axes it would hide scores
    ax.set_title(in_figure(title) + about, fontsize="medium", wrap=True)
    return fig


@dispatch  # fastai's function of this name, which a later `from fastai.vision.all import *` brings, is this one too
def plot_top_losses(
    interp: TestInterpretation,  # predictions with their images
    k: int = 12,  # images
    title: str = "",  # of the figure
) -> Figure:
    "The images with the largest losses: what they are and what they were taken for, with the probability of each."
    losses, idxs = interp.top_losses(min(k, len(interp.losses)))
    cols = min(4, len(idxs))
    rows = -(-len(idxs) // cols)
    fig, axes = picture_grid(rows, cols, (2.6 * cols, 3.2 * rows + 0.4))
    for ax, loss, i in zip(axes.flat, losses.tolist(), idxs.tolist()):
        guess, true = int(interp.decoded[i]), int(interp.targs[i])
        ax.imshow(interp.image(i), interpolation="nearest")
        sides = [f"{short(interp.vocab[o])} ({interp.preds[i, o]:.0%})" for o in (true, guess)]
        text = f"{sides[0]},\ntaken for\n{sides[1]}\nloss {loss:.1f}{interp.caption(i)}"
        ax.set_title(above(text, 2.6), fontsize=8)
    fig.suptitle(in_figure(title), fontsize="medium", wrap=True)
    return fig


def plot_confused(
    interp: TestInterpretation,  # predictions with their images
    n_pairs: int = 4,  # pairs of classes, the most confused
    k: int = 6,  # images of each direction
    title: str = "",  # of the figure
) -> Figure:
    "Look-alikes: for the pairs of classes confused most, in both directions, images that were taken for the other."
    rows = _directions(interp, n_pairs)
    fig, axes = picture_grid(max(len(rows), 1), k, (1.7 * k, 2.4 * max(len(rows), 1) + 0.5))
    for (true, other), line in zip(rows, axes):
        idxs = interp.confused(true, other)
        line[0].set_title(" ", fontsize=10)  # room for the text, by which the layout would make this column wider
        said = f"{short(true)}, taken for {short(other)}: {len(idxs)}"
        text = line[0].text(0, 1.04, said, fontsize=10, transform=line[0].transAxes)
        text.set_in_layout(False)
        for ax, i in zip(line, idxs):
            ax.imshow(interp.image(i), interpolation="nearest")
            sure = f"{interp.preds[i].max():.0%} sure{interp.caption(i, 20)}"
            ax.text(0.5, -0.02, sure, fontsize=8, ha="center", va="top", transform=ax.transAxes)
    if not rows:
        axes[0, 0].text(0, 0.5, "No image was taken for another class.", transform=axes[0, 0].transAxes)
    fig.suptitle(in_figure(title), fontsize="medium", wrap=True)
    return fig


def _directions(interp: TestInterpretation, n_pairs: int) -> list[tuple[str, str]]:
    "(true, taken for) in both directions of the most confused pairs, those without images left out."
    counts = interp.confusion_matrix()
    both = np.triu(counts + counts.T, 1)
    most = both.ravel().argsort(kind="stable")[::-1][:n_pairs]
    pairs = [np.unravel_index(i, both.shape) for i in most if both.flat[i]]
    directions = [(i, j) for pair in pairs for i, j in (pair, pair[::-1])]
    return [(interp.vocab[i], interp.vocab[j]) for i, j in directions if counts[i, j]]


def plot_calibration(
    interp: Predictions,  # predictions, or an interpretation
    n_bins: int = 15,  # of the confidence
    title: str = "",  # of the figure
) -> Figure:
    "Reliability diagram: how often the model is right when it is so sure, and how sure it usually is."
    found = interp.reliability(n_bins)
    fig = Figure(figsize=(5.5, 6), layout="constrained")
    ax, below = fig.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    left = np.arange(n_bins) / n_bins
    ax.bar(left, np.nan_to_num(found.accuracy), 1 / n_bins, align="edge", edgecolor="white", label="right")
    ax.plot(found.confidence, found.accuracy, "o", color="black", markersize=3)
    ax.plot([0, 1], [0, 1], "--", color="grey", label="as sure as right")
    ax.set_ylabel("share of right predictions")
    ax.set_ylim(0, 1)
    fig.legend(loc="outside lower center", ncols=2)
    ax.set_title(
        f"{in_figure(title)}\nexpected calibration error {found.expected_error:.1%}", fontsize="medium", wrap=True
    )
    below.bar(left, found.counts, 1 / n_bins, align="edge", edgecolor="white", color="grey")
    below.set_xlabel("probability of the predicted class")
    below.set_ylabel("images")
    return fig
