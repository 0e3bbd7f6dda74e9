"""Questions about accuracy and trust: each gives one block of the page, and its numbers."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cifar_fast.analysis.predictions import Predictions
from cifar_fast.analysis.shift import SEVERITIES, Shift, measure_shift, plot_kinds, plot_shift
from cifar_fast.analysis.stats import compare_models, compare_sets, share_interval
from cifar_fast.data.labelled_sets import LabelledSet, read_labelled_sets, read_soft_labels
from cifar_fast.runs.report import Picture
from cifar_fast.runs.results import percent
from cifar_fast.runs.subject import Answer, Subject

# Other test sets ---------------------------------------------------------------------------------------------------


def ask_test_set(subject: Subject, path: str | Path) -> Answer:
    "How the model does on other labelled images, beside its test images."
    if Path(path).name.startswith("cifar10h") and Path(path).suffix == ".npy":
        return _ask_people(subject, Path(path))
    tested, header = subject.run.predictions, ["test set", "images", "accuracy", "95 % interval", "drop", "calibration"]
    sets = read_labelled_sets(path, subject.vocab, subject.card.stored_size)
    found = [(o, subject.predictions(o.x, o.y)) for o in sets]
    rows = [_set_row("its own test images", tested, "")]
    numbers, lines = {}, []
    for own, preds in found:
        name = f"{own.name}, severity {own.severity}" if own.severity else own.name
        paired = bool(own.severity) and torch.equal(own.y, tested.targs)
        drop = compare_models(tested.right, preds.right) if paired else compare_sets(tested.right, preds.right)
        rows.append(
            _set_row(name, preds, f"{drop.difference * 100:+.1f} ({drop.low * 100:+.1f} to {drop.high * 100:+.1f})")
        )
        numbers[name] = {
            "accuracy": preds.accuracy, "calibration_error": preds.reliability().expected_error,
            "per_class_accuracy": preds.per_class_accuracy(), "difference": drop.difference, "p": drop.p,
        }  # fmt: skip
        if len(found) == 1:
            lines.append(f"{name} against its own test images: {str(drop).partition(': ')[2]}")
    if len(found) > 1:
        mean = np.mean([o.accuracy for _, o in found])
        paired = all(is_paired(o, tested) for o, _ in found)
        kind = "paired, by McNemar: the same images, changed" if paired else "unpaired, by Newcombe: other images"
        lines.append(f"Mean accuracy {percent(mean)}. Intervals of the drops are {kind}.")
    return Answer(
        f"test set {Path(path).name}", f"Test set: {Path(path).name}", lines, header, rows + _class_rows(tested, found),
        numbers=numbers,
    )  # fmt: skip


def is_paired(own: LabelledSet, tested: Predictions) -> bool:
    "Whether these are the test images, changed, in their order: CIFAR-10-C has them as its authors publish CIFAR-10."
    return bool(own.severity) and torch.equal(own.y, tested.targs)


def _set_row(name: str, preds: Predictions, drop: str) -> list[str]:
    low, high = share_interval(int(preds.right.sum()), len(preds.right))
    error = percent(preds.reliability().expected_error)
    return [
        name,
        f"{len(preds.targs):,}",
        percent(preds.accuracy, 2),
        f"{percent(low)} to {percent(high)}",
        drop,
        error,
    ]


def _class_rows(tested: Predictions, found: list[tuple[LabelledSet, Predictions]]) -> list[list[str]]:
    "Accuracy of each class, over all the sets together, and what it was on the test images."
    both = Predictions(torch.cat([o.preds for _, o in found]), torch.cat([o.targs for _, o in found]), tested.vocab)
    before, rows = tested.per_class(), []
    for name, o in both.per_class().items():
        change = f"{(o.recall - before[name].recall) * 100:+.1f}" if o.images and before[name].images else "-"
        rows.append([f"class {name}", f"{o.images:,}", percent(o.recall), "", change, ""])
    return rows


def _ask_people(subject: Subject, path: Path) -> Answer:
    "How close the probabilities are to what people said of the same images."
    tested = subject.run.predictions
    soft = read_soft_labels(path, tested.targs, len(tested.vocab))
    loss = float(-(soft * tested.preds.double().clamp_min(1e-12).log()).sum(1).mean())
    own = float(-(soft * soft.clamp_min(1e-12).log()).sum(1).mean())
    sure = soft.max(1).values == 1
    agreed, differed = (tested.right[o].double().mean().item() for o in (sure, ~sure))
    numbers = {
        "cross_entropy": loss, "entropy_of_people": own, "accuracy_where_people_agree": agreed,
        "accuracy_where_people_differ": differed,
    }  # fmt: skip
    lines = [
        f"Cross-entropy against what people said: {loss:.3f}; the least possible, their own entropy, is {own:.3f}.",
        f"All people agreed on {int(sure.sum()):,} of {len(sure):,} images: there the model is right on "
        f"{percent(agreed)}, elsewhere on {percent(differed)}.",
    ]
    return Answer(f"test set {path.name}", "What people said of the same images", lines, numbers=numbers)


# Shift ---------------------------------------------------------------------------------------------------------------


def ask_shift(subject: Subject, baseline: Subject | None = None) -> Answer:
    "How the accuracy falls when the test images are changed."
    found = _measured(subject)
    other = _measured(baseline) if baseline else None
    lines = [
        f"{len(found.accuracies)} kinds of change by torchvision's transforms, five severities each, of the same "
        f"{found.images:,} test images: mean accuracy {percent(found.mean)}, {percent(found.clean)} as they are. "
        "These are not the corruptions of CIFAR-10-C.",
    ]
    numbers = asdict(found) | {"mean": found.mean}
    if other:
        numbers |= {"baseline": baseline.run.name, "error_against_baseline": found.error_against(other)}
        lines.append(f"Errors under change, over those of {baseline.run.name}: {numbers['error_against_baseline']:.3f} "
                     "(mean corruption error; below 1 is better).")  # fmt: skip
    rows = [
        [kind, *(percent(o) for o in row), percent(np.mean(row)), percent(np.mean(found.calibration_errors[kind]))]
        for kind, row in found.accuracies.items()
    ]
    header = ["change", *(f"severity {o}" for o in SEVERITIES), "mean", "calibration error"]
    pictures = [
        Picture.of(
            plot_shift(found, other), "Accuracy against severity" + ("; dashed: the baseline." if other else ".")
        ),
        Picture.of(plot_kinds(subject.images.test_x[0]), "The first test image, changed."),
    ]
    return Answer("shift", "Does it hold under shift?", lines, header, rows, pictures, numbers)


def _measured(subject: Subject) -> Shift:
    return measure_shift(subject, subject.images.test_x, subject.images.test_y)
