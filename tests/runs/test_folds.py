"""Folds: every training image predicted by a model that has not seen it, and test images have no part."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cifar_fast.analysis.stats import mean_interval
from cifar_fast.baselines import custom
from cifar_fast.data.image_set import fold_indices
from cifar_fast.errors import InputError
from cifar_fast.files import read_tensors
from cifar_fast.runs import launch
from cifar_fast.runs.compare import compare
from cifar_fast.runs.folds import OUT_OF_FOLD, read_out_of_fold
from cifar_fast.runs.overview import list_runs
from cifar_fast.runs.results import FinishedRun, Runs
from conftest import make_run

SMALL = {"data": "digits", "epochs": 2, "width": 8, "precision": "fp32", "device": "cpu"}


def options(folder, **changed) -> SimpleNamespace:
    return custom.options(**{**SMALL, "folds": 3, "run": str(folder), **changed})


@pytest.fixture
def seen(monkeypatch):
    "The images of each training that is started."
    found, init = [], launch.OneSeed.__init__

    def record(self, experiment, options, images=None, *args, **kwargs):
        found.append(images)
        init(self, experiment, options, images, *args, **kwargs)

    monkeypatch.setattr(launch.OneSeed, "__init__", record)
    return found


def rows(x) -> set[bytes]:
    return {o.numpy().tobytes() for o in x}


def test_folds_share_no_image_and_have_all(digits):
    folds = fold_indices(digits.train_y, 5)
    assert torch.cat(folds).sort().values.equal(torch.arange(len(digits.train_y)))
    parts = digits.fold(2, 5)
    assert not rows(parts.train_x) & rows(parts.test_x) and not rows(parts.train_x) & rows(digits.test_x)
    assert len(parts.train_y) + len(parts.test_y) == len(digits.train_y)
    assert parts.mean != digits.mean  # of the pixels that are trained on
    for n in (1, 200):
        with pytest.raises(InputError, match="folds is"):
            fold_indices(digits.train_y, n)


def test_test_images_have_no_part_in_folds(digits, tmp_path, monkeypatch, no_pictures, seen):
    found = []
    poisoned = replace(digits, test_x=255 - digits.test_x, test_y=digits.test_y.flip(0))
    for name, images in (("clean", digits), ("poisoned", poisoned)):
        monkeypatch.setattr(launch, "images_from_options", lambda o, images=images: images)
        assert launch.train(custom, options(tmp_path / name, epochs=1))[0] == 0
        found.append(read_tensors(tmp_path / name / OUT_OF_FOLD)[0]["preds"])
    assert torch.equal(*found) and len(found[0]) == len(digits.train_y)
    tests = rows(digits.test_x) | rows(poisoned.test_x)
    assert len(seen) == 6 and not any(rows(torch.cat([o.train_x, o.test_x])) & tests for o in seen)


def test_folds_are_a_run_with_mean_interval_and_page(
    tmp_path, no_pictures, digits, digits_run, other_digits_run, capsys
):
    runs = custom.run(**SMALL, folds=3, run=str(tmp_path / "runs/folds"))
    about = json.loads((tmp_path / "runs/folds/folds.json").read_text())
    assert len(runs.runs) == 3 and runs.are_folds
    assert about["mean"] == pytest.approx(runs.accuracy) and runs.accuracy > 0.8
    assert "held-out training images" in str(runs) and "test accuracy" not in str(runs)
    assert str(runs).startswith("digits, custom: CustomCNN, 3 folds") and repr(runs) == str(runs)
    metrics = runs.first.metrics
    assert metrics["tested_on"] == "held-out training images" and metrics["data"] == "fold 1 of 3 of digits"
    assert "not CIFAR-10 results" in runs.report.read_text()
    assert "of 479 held-out training images right" in (runs.first.folder / "report.html").read_text()
    assert "loss on held-out training images" in (runs.first.folder / "report.html").read_text()
    assert "seed 0: accuracy on held-out training images" in capsys.readouterr().out
    preds = read_out_of_fold(runs.folder, FinishedRun.read(digits_run))
    assert preds.targs.equal(digits.train_y) and preds.accuracy == pytest.approx(runs.accuracy, abs=0.01)
    (row,) = list_runs(tmp_path / "runs")
    assert row.state == "finished" and "3 folds" in row.cells[4] and row.data == "digits"
    with pytest.raises(InputError, match="folds"):
        compare(runs, digits_run)
    with pytest.raises(InputError, match="schedule"):
        read_out_of_fold(runs.folder, FinishedRun.read(other_digits_run))
    with pytest.raises(InputError, match="no finished folds"):
        read_out_of_fold(digits_run, FinishedRun.read(digits_run))


@pytest.mark.slow
def test_folds_that_were_stopped_go_on_and_a_fold_alone_does_not(tmp_path, no_pictures, monkeypatch, seen):
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    launch.train(custom, options(whole, epochs=1))
    train = launch.Series.train
    monkeypatch.setattr(launch.Series, "train", lambda self, number: 130 if number == 3 else train(self, number))
    assert launch.train(custom, options(folder, epochs=1))[0] == 130 and not (folder / OUT_OF_FOLD).exists()
    monkeypatch.setattr(launch.Series, "train", train)
    n = len(seen)
    assert custom.run(resume=str(folder)).are_folds and len(seen) == n + 1
    preds = [read_tensors(o / OUT_OF_FOLD)[0]["preds"] for o in (whole, folder)]
    assert torch.equal(*preds)
    (folder / "fold-2/report.html").unlink()
    with pytest.raises(InputError, match="other images"):
        custom.run(resume=str(folder / "fold-2"))


def test_seeds_and_folds_exclude_each_other(tmp_path):
    for changed in ({"seeds": 2}, {"folds": 1}):
        with pytest.raises(InputError, match="--folds"):
            launch.train(custom, options(tmp_path / "run", **changed))
    assert not (tmp_path / "run").exists()


def test_the_interval_of_folds_is_wider():
    values = [0.7, 0.72, 0.71, 0.69, 0.73]
    assert mean_interval(values, True)[1] == pytest.approx(mean_interval(values)[1] * (1 + 5 / 4) ** 0.5)


def test_listed_images_are_left_out(tmp_path, no_pictures, digits):
    (tmp_path / "bad.csv").write_text(f"index,label\n0,{digits.train_y[0]}\n5,{digits.train_y[5]}\n")
    folder = make_run(tmp_path / "run", epochs=1, drop_labels=str(tmp_path / "bad.csv"))
    assert "(1,435 + 360 images)" in FinishedRun.read(folder).metrics["title"]
    kept = digits.without([0, 5])
    assert kept.train_y.equal(torch.cat([digits.train_y[1:5], digits.train_y[6:]])) and kept.test_x is digits.test_x
    of_others = f"index,label\n5,{(digits.train_y[5] + 1) % 10}\n"
    for text, match in (
        ("index\n9999\n", "is to be left out"), ("label\n1\n", "no column"), ("index\nx\n", "no csv"),
        (of_others, "of other images: the label of training image 5"),
    ):  # fmt: skip
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError, match=match):
            make_run(tmp_path / "other", drop_labels=str(tmp_path / "bad.csv"))
    assert Runs.read(folder).are_folds is False
