"""How far to trust a model's probabilities: temperature, selective accuracy, and images that are of no class."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cifar_fast.analysis.names import in_figure, in_legend
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.errors import InputError

TEMPERATURES = (0.05, 20.0)  # between which the best is looked for


def fit_temperature(
    preds: Predictions,  # of images that the models were trained without, and that are no test images
) -> float:
    """By what to divide logits so that the probabilities fit: the least cross-entropy. It changes no prediction.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks". Raises `InputError` without predictions.
    """
    from scipy.optimize import minimize_scalar

    if not len(preds.targs):
        raise InputError("a temperature needs predictions of held-out images, and there are none")
    logits = preds.preds.double().clamp_min(1e-30).log()

    def loss(log_t: float) -> float:
        return torch.nn.functional.cross_entropy(logits / np.exp(log_t), preds.targs).item()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def with_temperature(
    preds: Predictions,
    temperature: float,  # above 0
) -> Predictions:
    "The same predictions, as sure as the temperature makes them."
    logits = preds.preds.double().clamp_min(1e-30).log() / temperature
    return Predictions(logits.softmax(1).float(), preds.targs, preds.vocab)


@dataclass(frozen=True)
class Selective:
    "Accuracy where the model answers only what it is surest of."

    shares: np.ndarray  # of the images that are answered, rising to 1
    accuracies: np.ndarray  # among them

    def accuracy_at(self, share: float) -> float:
        "Accuracy on this share of the images, in (0, 1]: those that the model is surest of."
        return float(self.accuracies[max(0, round(share * len(self.shares)) - 1)])

    def share_at(self, accuracy: float) -> float:
        "The largest share of images answered with at least this accuracy; 0 where there is none."
        enough = np.flatnonzero(self.accuracies >= accuracy)
        return float(self.shares[enough[-1]]) if len(enough) else 0.0


def selective_accuracy(preds: Predictions) -> Selective:
    "Accuracy against the share of images answered, by the probability of the predicted class, the surest first."
    order = preds.preds.max(1).values.argsort(descending=True, stable=True)
    n = np.arange(1, len(order) + 1)
    return Selective(n / len(order), preds.right[order].double().cumsum(0).numpy() / n)


def energy(
    logits: Tensor,  # float (N, classes)
) -> Tensor:  # (N,), higher for images that the model knows less
    """An image's energy: the less the logits say of any class, the higher.

    Source: Liu et al. 2020, "Energy-based Out-of-distribution Detection".
    """
    return -logits.double().logsumexp(1)


def ood_auroc(
    known: Tensor,  # float (N, classes) logits of images of the classes
    ood: Tensor,  # float (M, classes) logits of images of none
) -> float:  # in [0, 1]; 0.5: the energy cannot tell them
    "How well the energy tells images of no class: the chance that one of them has more than one of a class."
    from sklearn.metrics import roc_auc_score

    scores = torch.cat([energy(known), energy(ood)]).numpy()
    return float(roc_auc_score(np.repeat([0, 1], [len(known), len(ood)]), scores))


def plot_selective(
    preds: Predictions,
    title: str = "",  # of the figure
) -> Figure:
    "Accuracy against the share of images answered."
    found = selective_accuracy(preds)
    fig = Figure(figsize=(6, 3.6), layout="constrained")
    ax = fig.subplots()
    first = min(len(found.shares) // 50, len(found.shares) - 1)  # fewer images give a ragged line
    ax.plot(found.shares[first:], found.accuracies[first:])
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of images answered, the surest first")
    ax.set_ylabel("accuracy among them")
    ax.grid(alpha=0.3)
    ax.set_title(in_figure(title), fontsize="medium", wrap=True)
    return fig


def plot_energies(
    known: Tensor,  # float (N, classes) logits
    ood: Tensor,  # float (M, classes) logits
    names: tuple[str, str] = ("test images", "images of no class"),
) -> Figure:
    "Energies of the two, as shares."
    fig = Figure(figsize=(6, 3.2), layout="constrained")
    ax = fig.subplots()
    found = [energy(o).numpy() for o in (known, ood)]
    bins = np.histogram_bin_edges(np.concatenate(found), 50)
    for values, name in zip(found, names):
        ax.hist(values, bins, weights=np.full(len(values), 1 / len(values)), alpha=0.6, label=in_legend(name))
    ax.set_xlabel("energy: higher where the model knows less")
    ax.set_ylabel("share")
    ax.legend()
    return fig
