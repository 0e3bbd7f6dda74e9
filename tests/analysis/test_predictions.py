"""Numbers that follow from predictions."""

import math

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from cifar_fast.analysis.predictions import Predictions


def of(sure, said, true, n=3):
    preds = torch.full((len(said), n), 0.0)
    for i, (p, j) in enumerate(zip(sure, said)):
        preds[i] = (1 - p) / (n - 1)
        preds[i, j] = p
    return Predictions(preds, torch.tensor(true), [f"class{i}" for i in range(n)])


def test_scores_are_scikit_learns():
    gen = torch.Generator().manual_seed(0)
    preds, targs = torch.rand(200, 5, generator=gen).softmax(1), torch.randint(0, 5, (200,), generator=gen)
    found = Predictions(preds, targs, list("abcde")).per_class()
    wanted = precision_recall_fscore_support(targs, preds.argmax(1))
    for name, *scores in zip("abcde", *wanted):
        assert [found[name].precision, found[name].recall, found[name].f1, found[name].images] == pytest.approx(scores)


def test_a_class_that_is_never_seen_nor_said_has_no_scores():
    scores = of([0.9, 0.9], [0, 1], [0, 1]).per_class()["class2"]
    assert math.isnan(scores.precision) and math.isnan(scores.recall) and scores.images == 0


def test_confusion_and_most_confused():
    preds = of([0.9] * 5, [0, 1, 1, 1, 2], [0, 0, 0, 1, 1])
    assert preds.confusion_matrix().tolist() == [[1, 2, 0], [0, 1, 1], [0, 0, 0]]
    assert [tuple(o) for o in preds.most_confused()] == [("class0", "class1", 2), ("class1", "class2", 1)]
    assert preds.accuracy == pytest.approx(0.4)


def test_calibration_error_is_the_distance_of_sureness_and_accuracy():
    perfect = of([1.0] * 4, [0, 1, 2, 0], [0, 1, 2, 0]).reliability()
    assert perfect.expected_error == pytest.approx(0, abs=1e-6)
    boastful = of([0.9] * 4, [0, 0, 0, 0], [0, 0, 1, 2]).reliability(10)
    assert boastful.expected_error == pytest.approx(0.4, abs=1e-6)
    assert boastful.counts.sum() == 4 and math.isnan(boastful.accuracy[0])
