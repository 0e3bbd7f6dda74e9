"""Labels that look wrong, by cleanlab (extra `labels`), from predictions of models that have not seen the images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from cifar_fast.analysis.names import file_line, short
from cifar_fast.analysis.neighbours import plot_grid
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.errors import MissingExtra


@dataclass(frozen=True)
class Suspect:
    "An image whose label looks wrong."

    index: int  # of the training image
    label: str  # that it has
    suggested: str  # that the models gave it
    probability: float  # of the suggested class
    quality: float  # of its label, in [0, 1]: the probability of its own class


def suspicious_labels(
    preds: Predictions,  # out of fold: of models that were trained without the image
) -> list[Suspect]:
    """Images whose labels cleanlab thinks wrong, the worst first.

    Source: Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels". Raises
    `MissingExtra` without cleanlab.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise MissingExtra("labels", "a look for wrong labels") from error
    labels, probs = preds.targs.numpy(), preds.preds.double().numpy()
    probs = probs / probs.sum(1, keepdims=True)  # rounded to float32, they are not quite shares
    found = find_label_issues(labels, probs, return_indices_ranked_by="self_confidence", n_jobs=1)
    said = probs.argmax(1)
    return [
        Suspect(
            int(i), preds.vocab[labels[i]], preds.vocab[said[i]], float(probs[i, said[i]]), float(probs[i, labels[i]])
        )
        for i in found
    ]


def found_among(
    suspects: Sequence[Suspect],  # the worst first
    planted: Sequence[int],  # indices of images whose labels are known to be wrong
) -> tuple[float, float, float]:  # precision and recall of all suspects; share of the planted among as many suspects
    "How many of the labels that are known to be wrong are suspected."
    wrong, idxs = set(planted), [o.index for o in suspects]
    hits = len(wrong & set(idxs))
    return hits / max(len(idxs), 1), hits / len(wrong), len(wrong & set(idxs[: len(wrong)])) / len(wrong)


def plot_suspects(
    suspects: Sequence[Suspect],
    images: np.ndarray,  # uint8 (N, H, W, 3), of which `Suspect.index` speaks
    k: int = 24,
    files: Sequence[str] | None = None,  # of the images, where they have such
) -> Figure:
    "The worst suspects: the label that each has, and the one that is suggested."
    texts = [f"{short(o.label)}?\n{short(o.suggested)} ({o.probability:.0%})" for o in suspects[:k]]
    return plot_grid([(images[o.index], text + file_line(files, o.index, 20)) for o, text in zip(suspects, texts)])
