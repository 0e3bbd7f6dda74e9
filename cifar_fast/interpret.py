"""Figures of a training: curves, confusion, top losses. Each function returns a matplotlib Figure and shows none."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from matplotlib.figure import Figure
from torch import Tensor


class TestInterpretation(ClassificationInterpretation):
    """fastai's ClassificationInterpretation that keeps the predictions of its one pass over the images.

    All of fastai's methods work; those that ask for the confusion matrix do not run the model again.
    """

    __test__ = False  # no test, whatever pytest makes of its name

    preds: Tensor  # (N, classes) probabilities
    targs: Tensor  # (N,) labels

    @classmethod
    def from_learner(cls, learn: Learner, ds_idx: int = 1, dl=None, act=None) -> "TestInterpretation":
        "Predict `learn.dls[ds_idx]`, or `dl`, once."
        dl = learn.dls[ds_idx].new(shuffle=False, drop_last=False) if dl is None else dl
        preds, targs, losses = learn.get_preds(dl=dl, with_loss=True, act=act)
        res = cls(learn, dl, losses, act)
        res.preds, res.targs = preds, targs.as_subclass(Tensor)
        return res

    @property
    def decoded(self) -> Tensor:
        "(N,) predicted labels."
        return self.preds.argmax(1).as_subclass(Tensor)

    def confusion_matrix(self) -> np.ndarray:
        "int64 (classes, classes): images of the row's class that were taken for the column's."
        n = len(self.vocab)
        return torch.bincount(self.targs * n + self.decoded, minlength=n * n).view(n, n).numpy()

    @property
    def accuracy(self) -> float:
        "Share of right predictions, in [0, 1]."
        return (self.decoded == self.targs).double().mean().item()

    @property
    def loss(self) -> float:
        "Mean loss."
        return self.losses.double().mean().item()

    def per_class_accuracy(self) -> dict[str, float]:
        "Share of each class's images that were recognised, in [0, 1]; NaN for a class without images."
        counts = self.confusion_matrix()
        with np.errstate(invalid="ignore"):
            return dict(zip(self.vocab, (counts.diagonal() / counts.sum(1)).tolist()))


def plot_curves(
    history: list[dict],  # a dict an epoch, as in history.csv
    title: str = "",  # of the figure
) -> Figure:
    "Accuracy and loss of training and validation images, epoch by epoch."
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    epochs = [row["epoch"] + 1 for row in history]
    for ax, names in zip(axes, (("train_accuracy", "accuracy"), ("train_loss", "valid_loss"))):
        for name, label, color in zip(names, ("training images", "test or held-out images"), ("C1", "C0")):
            if history and name in history[0]:
                values = [np.nan if row[name] in (None, "") else row[name] for row in history]
                ax.plot(epochs, values, label=label, color=color, marker="o", markersize=3)
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy")
    axes[0].legend()
    axes[1].set_ylabel("loss")
    axes[1].set_title("training loss: smoothed, with dropout on", fontsize="small")
    fig.suptitle(title)
    return fig


def plot_confusion(
    interp: TestInterpretation,  # predictions
    title: str = "",  # of the figure
) -> Figure:
    "The confusion matrix: counts written in the cells (up to 20 classes), shade by share of the row."
    counts, n = interp.confusion_matrix(), len(interp.vocab)
    share = counts / counts.sum(1, keepdims=True).clip(1)
    side = min(4 + 0.5 * n, 16)
    fig, ax = plt.subplots(figsize=(side, side), layout="constrained")
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(n), interp.vocab, rotation=90)
    ax.set_yticks(range(n), interp.vocab)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    if n <= 20:
        for i, j in np.ndindex(n, n):
            color = "white" if share[i, j] > 0.5 else "black" if counts[i, j] else "lightgrey"
            ax.text(j, i, counts[i, j], ha="center", va="center", color=color, fontsize=9)
    ax.set_title(title)
    return fig


def plot_top_losses(
    interp: TestInterpretation,  # predictions
    k: int = 12,  # images
    title: str = "",  # of the figure
) -> Figure:
    "The images with the largest losses: what they are, what they were taken for, with what probability."
    losses, idxs = interp.top_losses(min(k, len(interp.losses)))
    cols = min(4, len(idxs))
    rows = -(-len(idxs) // cols)
    fig, axes = plt.subplots(rows, cols, figsize=(2.6 * cols, 2.9 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, loss, i in zip(axes.flat, losses.tolist(), idxs.tolist()):
        image, probs = interp.dl.dataset.x[i], interp.preds[i]
        ax.imshow(image.cpu().permute(1, 2, 0), interpolation="nearest")
        guess, true = int(probs.argmax()), int(interp.targs[i])
        ax.set_title(
            f"{interp.vocab[true]}, taken for\n{interp.vocab[guess]} ({probs[guess]:.0%})\nloss {loss:.1f}", fontsize=9
        )
    fig.suptitle(title)
    return fig
