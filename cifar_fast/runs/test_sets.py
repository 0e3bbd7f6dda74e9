"""Second test sets: read and checked at once, asked when a model is trained, told from the numbers that are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_fast.analysis.predictions import Predictions
from cifar_fast.analysis.stats import Comparison, compare_models, compare_sets, share_interval
from cifar_fast.data.image import Levels
from cifar_fast.data.labelled_sets import LabelledSet, read_labelled_sets, read_soft_labels
from cifar_fast.runs.page import Answer
from cifar_fast.runs.results import percent

HEADER = ["test set", "images", "accuracy", "95 % interval", "difference", "calibration error"]
OF_PEOPLE = "entropy_of_people"  # a number that is there where people's answers are


@dataclass(frozen=True)
class SecondTest:
    "What lies at a path that was named: sets of images, or what people said of the test images."

    name: str
    sets: list[LabelledSet]
    people: Tensor | None = None  # float64 (N, classes), rows of sum 1


def read_second_tests(
    paths: Sequence[str | Path],  # as of `read_labelled_sets`, or cifar10h-probs.npy, cifar10h-counts.npy
    vocab: Sequence[str],  # class names
    size: int,  # pixels of a side that a folder's images are decoded to
    labels: Tensor,  # int64 (N,) of the test images
    levels: Levels | None = None,  # by which the training images of more than 8 bits were scaled
) -> list[SecondTest]:
    "Read them, each once; large arrays stay in their files. Raises `InputError`."
    paths = list(dict.fromkeys(map(str, paths)))
    names = [Path(o).name for o in paths]
    names = [path if names.count(name) > 1 else name for name, path in zip(names, paths)]
    tests = []
    for name, path in zip(names, map(Path, paths)):
        if path.name.startswith("cifar10h") and path.suffix == ".npy":
            tests.append(SecondTest(name, [], read_soft_labels(path, labels, len(vocab))))
        else:
            tests.append(SecondTest(name, read_labelled_sets(path, vocab, size, levels)))
    return tests


def ask_second_test(
    test: SecondTest,
    tested: Predictions,  # of the test images
    ask: Callable[[np.ndarray, Tensor], Predictions],  # of uint8 (N, H, W, 3) and their labels
) -> dict:
    "The numbers: of each set by its name, or of what people said."
    if test.people is not None:
        return _of_people(test.people, tested)
    names = [f"{o.name}, severity {o.severity}" if o.severity else o.name for o in test.sets]
    return {name: _of_set(o, ask(o.x, o.y), tested) for name, o in zip(names, test.sets)}


def _of_set(own: LabelledSet, preds: Predictions, tested: Predictions) -> dict:
    "CIFAR-10-C has the test images, changed, in the order of CIFAR-10's authors: then the drop is a paired one."
    paired = bool(own.severity) and torch.equal(own.y, tested.targs)
    drop = compare_models(tested.right, preds.right) if paired else compare_sets(tested.right, preds.right)
    return _of_images(preds) | {
        "difference": drop.difference, "difference_interval": [drop.low, drop.high], "p": drop.p, "test": drop.test,
    }  # fmt: skip


def _of_images(preds: Predictions) -> dict:
    return {
        "images": len(preds.targs), "accuracy": preds.accuracy,
        "accuracy_interval": list(share_interval(int(preds.right.sum()), len(preds.right))),
        "calibration_error": preds.reliability().expected_error,
        "images_of_class": {name: o.images for name, o in preds.per_class().items()},
        "per_class_accuracy": preds.per_class_accuracy(),
    }  # fmt: skip


def _of_people(soft: Tensor, tested: Predictions) -> dict:
    "How close the probabilities are to what people said of the same images."
    loss = float(-(soft * tested.preds.double().clamp_min(1e-12).log()).sum(1).mean())
    own = float(-(soft * soft.clamp_min(1e-12).log()).sum(1).mean())
    sure = soft.max(1).values == 1
    agreed, differed = (tested.right[o].double().mean().item() for o in (sure, ~sure))
    return {
        "cross_entropy": loss, OF_PEOPLE: own, "images": len(sure), "images_where_people_agree": int(sure.sum()),
        "accuracy_where_people_agree": agreed, "accuracy_where_people_differ": differed,
    }  # fmt: skip


def tell_second_test(
    name: str,  # of the path
    numbers: dict,  # of `ask_second_test`, or what JSON has kept of them
    tested: Predictions,  # of the test images
) -> Answer:
    "The block of a page."
    if OF_PEOPLE in numbers:
        lines = [
            f"Cross-entropy against what people said: {numbers['cross_entropy']:.3f}; the least possible, their own "
            f"entropy, is {numbers[OF_PEOPLE]:.3f}.",
            f"All people agreed on {numbers['images_where_people_agree']:,} of {numbers['images']:,} images: there the "
            f"model is right on {percent(numbers['accuracy_where_people_agree'])}, elsewhere on "
            f"{percent(numbers['accuracy_where_people_differ'])}.",
        ]
        title = "What people said of the same images"
        return Answer(f"test set {name}", title, lines, numbers=numbers)
    own = _of_images(tested)
    rows = [_set_row("its own test images", own), *(_set_row(k, o) for k, o in numbers.items())]
    rows += _class_rows(own, list(numbers.values()))
    return Answer(f"test set {name}", f"Test set: {name}", _lines(numbers), HEADER, rows, numbers=numbers)


def _lines(numbers: dict[str, dict]) -> list[str]:
    if len(numbers) == 1:
        ((name, o),) = numbers.items()
        drop = Comparison(o["test"], o["difference"], *o["difference_interval"], o["p"])
        return [f"{name} against its own test images: {str(drop).partition(': ')[2]}"]
    mean = np.mean([o["accuracy"] for o in numbers.values()])
    paired = all(o["test"].startswith("McNemar") for o in numbers.values())
    kind = "paired, by McNemar: the same images, changed" if paired else "unpaired, by Newcombe: other images"
    return [f"Mean accuracy {percent(mean)}. Intervals of the drops are {kind}."]


def _set_row(name: str, o: dict) -> list[str]:
    drop, (low, high) = "", o["accuracy_interval"]
    if "difference" in o:
        ends = " to ".join(f"{end * 100:+.1f}" for end in o["difference_interval"])
        drop = f"{o['difference'] * 100:+.1f} ({ends})"
    between = f"{percent(low)} to {percent(high)}"
    return [name, f"{o['images']:,}", percent(o["accuracy"], 2), between, drop, percent(o["calibration_error"])]


def _class_rows(own: dict, found: list[dict]) -> list[list[str]]:
    "Accuracy of each class, over all the sets together, and what it was on the test images."
    rows = []
    for name, before in own["per_class_accuracy"].items():
        n = sum(o["images_of_class"][name] for o in found)
        right = sum(o["images_of_class"][name] * (o["per_class_accuracy"][name] or 0) for o in found
                    if o["images_of_class"][name])  # fmt: skip
        share = right / n if n else None
        change = f"{(share - before) * 100:+.1f}" if n and own["images_of_class"][name] else "-"
        rows.append([f"class {name}", f"{n:,}", percent(share), "", change, ""])
    return rows
