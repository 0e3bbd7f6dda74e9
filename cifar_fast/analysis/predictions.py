"""What a model said of labelled images, and the numbers that follow from it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fastai.interpret import ClassificationInterpretation
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor

from cifar_fast.analysis.stats import share_interval
from cifar_fast.files import read_tensors, write_tensors


@dataclass(eq=False, repr=False)
class Predictions:
    "Probabilities and labels of the same images, with the names of the classes."

    preds: Tensor  # float (N, classes) probabilities
    targs: Tensor  # int64 (N,) labels
    vocab: Sequence[str]  # class names

    most_confused = ClassificationInterpretation.most_confused  # (true class, taken for, images), most first

    @property
    def decoded(self) -> Tensor:
        "(N,) predicted labels."
        return self.preds.argmax(1).as_subclass(Tensor)

    @property
    def right(self) -> Tensor:
        "bool (N,): which images were recognised."
        return self.decoded == self.targs

    @property
    def accuracy(self) -> float:
        "Share of right predictions, in [0, 1]."
        return self.right.double().mean().item()

    def cross_entropy(self) -> Tensor:
        "(N,) loss of each image."
        return -self.preds[torch.arange(len(self.targs)), self.targs].clamp_min(1e-12).log()

    @property
    def loss(self) -> float:
        "Mean cross-entropy."
        return self.cross_entropy().double().mean().item()

    def metrics(self) -> dict:
        "What a run's metrics.json says of these predictions."
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": share_interval(int(self.right.sum()), len(self.right)),
            "loss": self.loss,
            "calibration_error": self.reliability().expected_error,
            "per_class_accuracy": self.per_class_accuracy(),
            "taken_for": {true: said for true, said, _ in reversed(self.most_confused())},
        }

    def confusion_matrix(self) -> np.ndarray:
        "int64 (classes, classes): images of the row's class that were taken for the column's."
        n = len(self.vocab)
        return torch.bincount(self.targs * n + self.decoded, minlength=n * n).view(n, n).numpy()

    def per_class_accuracy(self) -> dict[str, float]:
        "Share of each class's images that were recognised, in [0, 1]; NaN for a class without images."
        return {name: scores.recall for name, scores in self.per_class().items()}

    def per_class(self) -> dict[str, "ClassScores"]:
        "Precision, recall and F1 of each class; NaN where nothing was predicted as it, or nothing is of it."
        columns = precision_recall_fscore_support(
            self.targs.numpy(), self.decoded.numpy(), labels=range(len(self.vocab)), zero_division=np.nan
        )
        return {name: ClassScores(*row) for name, row in zip(self.vocab, zip(*(o.tolist() for o in columns)))}

    def reliability(self, n_bins: int = 15) -> "Reliability":
        """How often the model is right when it is so sure of its answer, and the expected calibration error.

        Bins have equal width in the probability of the predicted class. Source: Guo et al. 2017, "On Calibration of
        Modern Neural Networks".
        """
        sure, right = self.preds.max(1).values.double(), self.right.double()
        bins = (sure * n_bins).ceil().long().sub(1).clamp(0, n_bins - 1)
        counts = torch.bincount(bins, minlength=n_bins)
        sums = torch.bincount(bins, sure, n_bins), torch.bincount(bins, right, n_bins)
        confidence, accuracy = ((o / counts).numpy() for o in sums)  # NaN for an empty bin
        error = float((sums[0] - sums[1]).abs().sum() / len(sure))
        return Reliability(confidence, accuracy, counts.numpy(), error)


def write_predictions(
    path: Path,
    found: Predictions,
    images: str,  # a hash of them, by which predictions of two models are paired
) -> None:
    "Write them as safetensors."
    tensors = {"preds": found.preds.contiguous(), "targs": found.targs}
    write_tensors(path, tensors, {"vocab": json.dumps(list(found.vocab)), "images": images})


def read_predictions(path: Path) -> tuple[Predictions, str]:
    "What `write_predictions` wrote. Raises OSError where it is missing, ValueError or KeyError where it is damaged."
    tensors, about = read_tensors(path)
    return Predictions(tensors["preds"], tensors["targs"], json.loads(about["vocab"])), about["images"]


@dataclass(frozen=True)
class ClassScores:
    "Scores of a class, each in [0, 1] or NaN."

    precision: float  # share of the images taken for it that are of it
    recall: float  # share of its images that were recognised
    f1: float  # harmonic mean of the two
    images: int  # of the class


@dataclass(frozen=True)
class Reliability:
    "Bins of predictions by confidence."

    confidence: np.ndarray  # mean probability of the predicted class in each bin; NaN for an empty one
    accuracy: np.ndarray  # share of right predictions in each bin
    counts: np.ndarray  # predictions in each bin
    expected_error: float  # mean distance of the two over all predictions, in [0, 1]
