"""Questions about accuracy and trust: each gives one block of the page, and its numbers."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cifar_fast.analysis.asking import logits_of, predictions_of
from cifar_fast.analysis.confidence import (
    fit_temperature,
    ood_auroc,
    plot_energies,
    plot_selective,
    selective_accuracy,
    with_temperature,
)
from cifar_fast.analysis.ensemble import ensemble
from cifar_fast.analysis.interpret import plot_calibration
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.analysis.shift import SEVERITIES, Shift, measure_shift, plot_kinds, plot_shift
from cifar_fast.analysis.stats import share_interval
from cifar_fast.data.duplicates import exact_duplicates
from cifar_fast.data.labelled_sets import read_unlabelled
from cifar_fast.errors import InputError
from cifar_fast.runs.page import Answer, Picture
from cifar_fast.runs.results import percent
from cifar_fast.runs.subject import Subject
from cifar_fast.runs.test_sets import ask_second_test, read_second_tests, tell_second_test


def ask_test_sets(subject: Subject, paths: Sequence[str | Path]) -> list[Answer]:
    "How the model does on other labelled images, beside its test images. Raises `InputError` before it is asked."
    tested = subject.run.predictions
    tests = read_second_tests(paths, subject.vocab, subject.card.stored_size, tested.targs, subject.card.levels)
    ask = partial(predictions_of, subject, vocab=subject.vocab)
    return [tell_second_test(o.name, ask_second_test(o, tested, ask), tested) for o in tests]


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
        numbers |= {"baseline": baseline.runs.name, "error_against_baseline": found.error_against(other)}
        ratio = numbers["error_against_baseline"]
        lines.append(f"Errors under change, over those of {baseline.runs.name}: {ratio:.3f} "
                     "(mean corruption error; below 1 is better).")  # fmt: skip
    rows = [
        [kind, *(percent(o) for o in row), percent(np.mean(row)), percent(np.mean(found.calibration_errors[kind]))]
        for kind, row in found.accuracies.items()
    ]
    header = ["change", *(f"severity {o}" for o in SEVERITIES), "mean", "calibration error"]
    pictures = [
        Picture.of(plot_shift(found, other), f"Accuracy against severity{'; dashed: the baseline' * bool(other)}."),
        Picture.of(plot_kinds(subject.images.test_x[0]), "The first test image, changed."),
    ]
    return Answer("shift", "Does it hold under shift?", lines, header, rows, pictures, numbers)


def _measured(subject: Subject) -> Shift:
    return measure_shift(subject, subject.images.test_x, subject.images.test_y)


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
        loss = preds.cross_entropy().double().mean().item()
        at = [selective.accuracy_at(o) for o in ANSWERED]
        rows.append([name, percent(found, 2), f"{loss:.3f}", *(percent(o) for o in at)])
        pictures.append(Picture.of(plot_calibration(preds, title=name), f"How often it is right when so sure, {name}."))
        key = "before" if preds is before else "after"
        numbers[key] = {
            "calibration_error": found,
            "loss": loss,
            "accuracy_where_answered": dict(zip(map(str, ANSWERED), at)),
        }
    share = selective_accuracy(preds).share_at(WANTED)
    lines.append(f"It answers the surest {percent(share)} of the test images with {percent(WANTED, 0)} of them right. "
                 "Below, what it gets right of the surest so many.")  # fmt: skip
    numbers["share_answered_at_95"] = share
    pictures.append(Picture.of(plot_selective(preds), "Accuracy where it answers only what it is surest of."))
    header = ["probabilities", "calibration error", "loss", *(f"right of {o:.0%}" for o in ANSWERED)]
    return Answer("confidence", "Does it know what it does not know?", lines, header, rows, pictures, numbers)


def ask_ood(subject: Subject, data: str | Path) -> Answer:
    "Whether the model tells images of no class from its test images."
    images = read_unlabelled(data, subject.card.stored_size, subject.card.levels)
    if own := len(exact_duplicates(torch.tensor(images).permute(0, 3, 1, 2), subject.images.test_x)):
        raise InputError(f"{own:,} of the run's own test images are among {data}: give --ood images of no class")
    known, ood = logits_of(subject, subject.test_images), logits_of(subject, images)
    name, auroc, sure = Path(data).name, ood_auroc(known, ood), ood.softmax(1).max(1).values.mean().item()
    line = (
        f"{len(images):,} images of {name}: their energy is higher than a test image's in {percent(auroc)} of all "
        f"pairs (AUROC; 50 % is chance). The model is {percent(sure)} sure of its answer to them, on average."
    )
    picture = Picture.of(plot_energies(known, ood, ("test images", name)), "Energies.")
    numbers = {"images": name, "auroc": auroc, "mean_confidence": sure}
    return Answer("foreign images", "Does it notice what is of no class?", [line], pictures=[picture], numbers=numbers)


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
    rows = [_seed_row(o.name, o.predictions) for o in runs] + [_seed_row("all together", found.mean)]
    numbers = {
        "accuracy": found.mean.accuracy, "gain": found.gain, "gain_interval": [low, high], "p": p,
        "disagreement": found.disagreement(), "calibration_error": found.mean.reliability().expected_error,
        "by_size": {str(n): o for n, o in sizes.items()},
    }  # fmt: skip
    header = ["seed", "images", "accuracy", "95 % interval", "calibration error"]
    return Answer("ensemble", "What do all seeds know together?", lines, header, rows, numbers=numbers)


def _seed_row(name: str, preds: Predictions) -> list[str]:
    low, high = share_interval(int(preds.right.sum()), len(preds.right))
    between, error = f"{percent(low)} to {percent(high)}", percent(preds.reliability().expected_error, 2)
    return [name, f"{len(preds.targs):,}", percent(preds.accuracy, 2), between, error]
