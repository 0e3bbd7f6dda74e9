"""Questions about single images: which are twice there, what lies near what, whose labels are wrong, where it looks."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cifar_fast.analysis.asking import features_of
from cifar_fast.analysis.explain import plot_looks
from cifar_fast.analysis.labels import Suspect, plot_suspects, suspicious_labels
from cifar_fast.analysis.names import file_line, short
from cifar_fast.analysis.neighbours import nearest, plot_grid, plot_map, plot_neighbours
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.data.duplicates import Pair, exact_duplicates, near_duplicates
from cifar_fast.errors import InputError
from cifar_fast.runs.page import Answer, Picture
from cifar_fast.runs.results import percent
from cifar_fast.runs.subject import Subject

SHOWN = 8  # images a figure
NEIGHBOURS = 5
LETTERS = 20  # of a file's path above an image


def ask_duplicates(subject: Subject) -> Answer:
    "Which test images were trained on, and what the accuracy is without them."
    images, tested = subject.images, subject.run.predictions
    exact = exact_duplicates(images.train_x, images.test_x)
    near = near_duplicates(images.train_x, images.test_x)
    fresh = torch.ones(len(tested.targs), dtype=torch.bool)
    fresh[[o.test for o in exact + near]] = False
    without = tested.right[fresh].double().mean().item()
    otherwise = sum(int(images.train_y[o.train] != images.test_y[o.test]) for o in exact + near)
    lines = [
        f"Of {len(fresh):,} test images {len(exact):,} are training images too, pixel by pixel, and {len(near):,} more "
        f"nearly (pixels correlate by 0.95 or more); {otherwise:,} of these pairs have different labels.",
        f"Accuracy without them: {percent(without, 2)}, with them {percent(tested.accuracy, 2)}.",
    ]
    pairs = _some(exact, SHOWN // 2) + _some(near, SHOWN)
    tests = [_test_image(subject, o.test, f"test: {short(subject.vocab[images.test_y[o.test]])}") for o in pairs]
    trains = [_train_image(subject, o.train, f"{o.similarity:.3f}") for o in pairs]
    side_by_side = plot_grid([o for pair in zip(tests, trains) for o in pair])
    pictures = [Picture.of(side_by_side, "Test images, each with the training image like it to its right.")]
    numbers = {
        "exact": len(exact), "near": len(near), "labelled_otherwise": otherwise, "accuracy_without": without,
        "pairs": [tuple(o) for o in exact + near],
        "files": images.files and [(images.files[1][o.test], images.files[0][o.train]) for o in exact + near],
    }  # fmt: skip
    return Answer("duplicates", "Are test images among the training images?", lines,
                  pictures=pictures if pairs else [], numbers=numbers)  # fmt: skip


def _some(pairs: list[Pair], n: int) -> list[Pair]:
    "`n` of the pairs, from the nearest to the farthest."
    return [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, n).astype(int))] if pairs else []


def _train_image(subject: Subject, i: int, text: str) -> tuple[np.ndarray, str]:
    "With its label and its file."
    pixels, label = subject.images.train_x[i].permute(1, 2, 0).numpy(), subject.vocab[subject.images.train_y[i]]
    return pixels, f"{short(label)}\n{text}{file_line(subject.files[0], i, LETTERS)}"


def _test_image(subject: Subject, i: int, text: str) -> tuple[np.ndarray, str]:
    "With its file."
    return subject.test_images[i], text + file_line(subject.files[1], i, LETTERS)


def ask_neighbours(subject: Subject) -> Answer:
    "A map of the test images, and the training images that are most like the surest mistakes."
    images, tested = subject.images, subject.run.predictions
    own, known = features_of(subject, subject.test_images), features_of(subject, subject.train_images)
    _, idxs = nearest(own, known, NEIGHBOURS)
    labels = images.train_y[idxs]
    agree = (labels[:, 0] == images.test_y).double().mean().item()
    wrong = (~tested.right).nonzero().flatten()
    line = (
        f"In the features of the last layer, the training image most like a test image has its class in "
        f"{percent(agree)} of all cases."
    )
    numbers, pictures = {"nearest_has_its_class": agree, "mistakes": len(wrong)}, []
    if len(wrong):
        misled = (labels[wrong, 0] == tested.decoded[wrong]).double().mean().item()
        numbers["mistakes_nearest_to_what_was_said"] = misled
        line += (
            f" Of {len(wrong):,} mistakes, {percent(misled)} are nearest to a training image of the class that they "
            "were taken for."
        )
        surest = wrong[tested.preds[wrong].max(1).values.argsort(descending=True)][:SHOWN].tolist()
        pictures.append(Picture.of(_plot_mistakes(subject, surest, idxs[surest].tolist()),
                                   "The surest mistakes, left, and the training images most like them, with their "
                                   "labels."))  # fmt: skip
    if len(own) > 1:  # one image alone has no place on a map
        pictures.append(Picture.of(plot_map(own, images.test_y, subject.vocab, subject.test_images),
                                   "Test images by class."))  # fmt: skip
    return Answer("neighbours", "What lies near what?", [line], pictures=pictures, numbers=numbers)


def _plot_mistakes(subject: Subject, idxs: Sequence[int], neighbours: Sequence[Sequence[int]]):
    tested, rows = subject.run.predictions, []
    for i in idxs:
        true, said = (short(subject.vocab[o[i]]) for o in (tested.targs, tested.decoded))
        rows.append(_test_image(subject, i, f"{true}, taken for\n{said} ({tested.preds[i].max():.0%})"))
    return plot_neighbours(rows, [[_train_image(subject, j, "training") for j in o] for o in neighbours])


LABELS_FILE = "suspicious_labels.csv"


def ask_labels(
    subject: Subject,
    unseen: Predictions,  # of `read_out_of_fold`
) -> Answer:
    "Training images whose labels look wrong, and a csv of them."
    suspects = suspicious_labels(unseen)
    share = len(suspects) / len(unseen.targs)
    lines = [
        f"cleanlab suspects {len(suspects):,} of {len(unseen.targs):,} training images ({percent(share)}), each "
        "predicted by a model trained without it. Many of them are hard images, not wrong labels: look first.",
        f"{LABELS_FILE} lists them, the worst first; --drop-labels FILE trains without the images that a file lists.",
    ]
    table, known = pd.DataFrame(suspects, columns=[o.name for o in fields(Suspect)]), subject.files[0]
    if known:
        table["file"] = [known[o.index] for o in suspects]
    picture = Picture.of(plot_suspects(suspects, subject.train_images, files=known),
                         "The worst: label, and what is suggested.")  # fmt: skip
    files = {LABELS_FILE: table.to_csv(index=False, lineterminator="\n")}
    return Answer("labels", "Which labels look wrong?", lines, pictures=[picture] if suspects else [],
                  numbers={"suspects": len(suspects), "share": share}, files=files)  # fmt: skip


def ask_looks(subject: Subject) -> Answer:
    "Where the network looks in its worst mistakes, and in those between the classes that it confuses most."
    tested = subject.run.predictions
    largest = tested.cross_entropy().topk(min(SHOWN, len(tested.targs))).indices
    pictures = [_looks(subject, largest, "The largest losses.")]
    for true, said, n in tested.most_confused()[:2]:
        row, col = (list(subject.vocab).index(o) for o in (true, said))
        idxs = ((tested.targs == row) & (tested.decoded == col)).nonzero().flatten()[: SHOWN // 2]
        pictures.append(_looks(subject, idxs, f"{true} taken for {said} ({n} images)."))
    line = "Bright is what speaks for the class above: Grad-CAM in the last maps, integrated gradients in the pixels."
    return Answer("looks", "Where does it look?", [line], pictures=pictures, numbers={"images": len(tested.targs)})


def _looks(subject: Subject, idxs: Tensor, text: str) -> Picture:
    if subject.model is None:
        raise InputError(f"{subject.run.folder} has its network as an ONNX graph only: ask the Learner, by plot_looks")
    images, tested = subject.test_images[idxs.numpy()], subject.run.predictions
    xb, said = subject.inputs(images), tested.decoded[idxs]
    return Picture.of(plot_looks(subject.model, xb, images, said, tested.targs[idxs], subject.vocab), text)
