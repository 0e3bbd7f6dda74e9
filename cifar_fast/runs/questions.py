"""Questions about accuracy and trust: each gives one block of the page, and its numbers."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cifar_fast.analysis.confidence import (
    fit_temperature,
    foreign_auroc,
    plot_energies,
    plot_selective,
    selective_accuracy,
    with_temperature,
)
from cifar_fast.analysis.ensemble import ensemble
from cifar_fast.analysis.interpret import plot_calibration
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.analysis.shift import SEVERITIES, Shift, measure_shift, plot_kinds, plot_shift
from cifar_fast.analysis.stats import compare_models, compare_sets, share_interval
from cifar_fast.data.labelled_sets import LabelledSet, read_labelled_sets, read_soft_labels, read_unlabelled
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


# Confidence ----------------------------------------------------------------------------------------------------------

ANSWERED = (1.0, 0.9, 0.8, 0.5)  # shares of images
WANTED = 0.95  # accuracy


def ask_confidence(
    subject: Subject,
    unseen: Predictions | None = None,  # of `read_out_of_fold`; None: no temperature
) -> Answer:
    "How far the probabilities can be trusted, before and after a temperature that the test images had no part in."
    before = subject.run.predictions
    named, lines, numbers = {"as it says": before}, [], {}
    if unseen is None:
        lines.append("No temperature: it needs held-out images. Train the same with --folds 5, and give --held-out.")
    else:
        numbers["temperature"] = temperature = fit_temperature(unseen)
        named[f"at temperature {temperature:.2f}"] = with_temperature(before, temperature)
        lines.append(
            f"Temperature {temperature:.3f}, fitted on {len(unseen.targs):,} training images, each predicted by a "
            "model trained without it; the test images had no part. It is stored in the model card: "
            "Predictor(calibrated=True) applies it."
        )
    rows, pictures = [], []
    for name, preds in named.items():
        found, selective = preds.reliability().expected_error, selective_accuracy(preds)
        at = [selective.accuracy_at(o) for o in ANSWERED]
        rows.append([name, percent(found, 2), f"{_loss(preds):.3f}", *(percent(o) for o in at)])
        pictures.append(Picture.of(plot_calibration(preds, title=name), f"How often it is right when so sure, {name}."))
        key = "before" if preds is before else "after"
        numbers[key] = {
            "calibration_error": found,
            "loss": _loss(preds),
            "accuracy_where_answered": dict(zip(map(str, ANSWERED), at)),
        }
    share = selective_accuracy(preds).share_at(WANTED)
    lines.append(f"It answers the surest {percent(share)} of the test images with {WANTED:.0%} of them right.")
    numbers["share_answered_at_95"] = share
    pictures.append(Picture.of(plot_selective(preds), "Accuracy where it answers only what it is surest of."))
    header = ["probabilities", "calibration error", "loss", *(f"right, {o:.0%} answered" for o in ANSWERED)]
    return Answer("confidence", "Does it know what it does not know?", lines, header, rows, pictures, numbers)


def _loss(preds: Predictions) -> float:
    "Mean cross-entropy."
    return -preds.preds[torch.arange(len(preds.targs)), preds.targs].double().clamp_min(1e-12).log().mean().item()


def ask_foreign(subject: Subject, data: str | Path) -> Answer:
    "Whether the model tells images of no class from its test images."
    images = read_unlabelled(data, subject.card.stored_size)
    known = subject.logits(subject.test_images)
    foreign, name = subject.logits(images), Path(data).name
    auroc, sure = foreign_auroc(known, foreign), foreign.softmax(1).max(1).values.mean().item()
    line = (
        f"{len(images):,} images of {name}: their energy is higher than a test image's in {percent(auroc)} of all "
        f"pairs (AUROC; 50 % is chance). The model is {percent(sure)} sure of its answer to them, on average."
    )
    picture = Picture.of(plot_energies(known, foreign, ("test images", name)), "Energies.")
    numbers = {"images": name, "auroc": auroc, "mean_confidence": sure}
    return Answer("foreign images", "Does it notice what is of no class?", [line], pictures=[picture], numbers=numbers)


# All seeds together --------------------------------------------------------------------------------------------------


def ask_ensemble(subject: Subject) -> Answer:
    "What the mean of all seeds' probabilities gives."
    runs = subject.runs.runs
    found = ensemble([o.predictions for o in runs])
    (low, high, p), sizes = found.gain_test(), found.by_size()
    lines = [
        f"Against the mean seed: {found.gain * 100:+.2f} points ({low * 100:+.2f} to {high * 100:+.2f} over test "
        f"images, p = {p:.2g}, paired t-test). The seeds say different classes of {percent(found.disagreement())} of "
        "the images, pair by pair.",
        "Any so many of the seeds: "
        + "; ".join(f"{n}: {percent(mean)} ({percent(a)} to {percent(b)})" for n, (mean, a, b) in sizes.items())
        + ". What one seed or the other gives is luck; what grows with their number is not.",
        f"Predictor({str(subject.runs.folder)!r}) asks all of them.",
    ]
    rows = [_set_row(o.name, o.predictions, "")[:4] for o in runs] + [_set_row("all together", found.mean, "")[:4]]
    for row, preds in zip(rows, [*found.members, found.mean]):
        row.append(percent(preds.reliability().expected_error, 2))
    numbers = {
        "accuracy": found.mean.accuracy, "gain": found.gain, "gain_interval": [low, high], "p": p,
        "disagreement": found.disagreement(), "calibration_error": found.mean.reliability().expected_error,
        "by_size": {str(n): o for n, o in sizes.items()},
    }  # fmt: skip
    header = ["seed", "images", "accuracy", "95 % interval", "calibration error"]
    return Answer("ensemble", "What do all seeds know together?", lines, header, rows, numbers=numbers)
