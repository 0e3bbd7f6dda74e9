"""Planted wrong labels are found, by models that have not seen the images."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from cifar_fast.analysis.labels import Suspect, found_among, plot_suspects, suspicious_labels
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.errors import MissingExtra

VOCAB = ["a", "b", "c"]


@pytest.fixture
def planted():
    "Sure predictions of 600 images, the labels of 12 of which are wrong; and which."
    labels = torch.arange(600) % 3
    probs = torch.nn.functional.one_hot(labels, 3) * 0.85 + torch.rand(600, 3) * 0.1
    wrong = torch.arange(7, 600, 50)
    labels = labels.clone()
    labels[wrong] = (labels[wrong] + 1) % 3
    return Predictions(probs / probs.sum(1, keepdim=True), labels, VOCAB), wrong.tolist()


def test_planted_labels_are_found(planted):
    pytest.importorskip("cleanlab")
    preds, wrong = planted
    found = suspicious_labels(preds)
    precision, recall, _ = found_among(found, wrong)
    assert precision == 1 and recall > 0.8
    assert [o.quality for o in found] == sorted(o.quality for o in found)
    worst = found[0]
    assert worst.suggested == VOCAB[int(preds.decoded[worst.index])] != worst.label and worst.probability > 0.5
    images = np.zeros((600, 8, 8, 3), np.uint8)
    assert len(plot_suspects(found, images).axes) == 12


def test_shares_of_the_found():
    suspects = [Suspect(i, "a", "b", 0.9, 0.1) for i in (5, 1, 9, 2)]
    assert found_among(suspects, [5, 9]) == (0.5, 1, 0.5)
    assert found_among([], [5]) == (0, 0, 0)


def test_long_names_above_pictures_do_not_run_into_one_another():
    suspects = [Suspect(i, "Mixed Woodland " * 14, "NorthernOwls" * 20, 0.9, 0.1) for i in range(3)]
    figure = plot_suspects(suspects, np.zeros((3, 8, 8, 3), np.uint8))
    figure.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_without_cleanlab_the_extra_is_named(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(MissingExtra, match=r"cifar_fast\[labels\]"):
        suspicious_labels(planted[0])
