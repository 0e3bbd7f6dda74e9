"""Trackers, quiet runs, and that neither changes what is learnt."""

import json
import os
import sys

import pytest

from bench.soak import outcome
from cifar_fast.baselines import custom
from cifar_fast.deploy.safemodel import load_safe
from cifar_fast.errors import InputError, MissingExtra, RunError
from cifar_fast.progress import be_quiet
from cifar_fast.runs.launch import train as launch
from cifar_fast.runs.trackers import TRACKERS, find_trackers, numbers
from conftest import with_cbs, without_pictures
from processes import Dying, Killed

SMALL = {"data": "digits", "epochs": 2, "width": 8, "precision": "fp32", "device": "cpu", "images": 300,
         "test_images": 60}  # fmt: skip


@pytest.fixture(autouse=True)
def loud():
    "Later tests are not quiet."
    yield
    be_quiet(False)


def train(folder, made=custom, **changed):
    code = launch(made, custom.options(**{**SMALL, "run": str(folder), **changed}))[0]
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "A run without tracker, to be read only."
    with without_pictures():
        return train(tmp_path_factory.mktemp("runs") / "plain")


def test_tensorboard_has_curves_numbers_and_figures_over_a_kill_and_learns_the_same(plain, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "tracked"
    with pytest.raises(Killed):
        train(folder, with_cbs(custom, Dying()), track="csv,tensorboard")
    assert launch(custom, custom.options(resume=str(folder)))[0] == 0
    fit, result = (EventAccumulator(str(folder / "tensorboard" / o)).Reload() for o in ("train", "result"))
    assert {"train_loss", "lr_0", "accuracy", "valid_loss"} <= set(fit.Tags()["scalars"])
    accuracy = json.loads((folder / "metrics.json").read_text())["accuracy"]
    assert fit.Scalars("accuracy")[-1].value == pytest.approx(accuracy, abs=1e-4)
    assert result.Scalars("accuracy")[0].value == pytest.approx(accuracy, abs=1e-6)
    assert {"curves", "confusion"} <= set(result.Tags()["images"])
    assert [o.step for o in fit.Scalars("accuracy")] == [5, 10]
    assert outcome(folder) == outcome(plain)
    assert load_safe(folder / "model").card.data == "part of digits"  # shipped as any other


def test_quiet_says_the_result_alone_and_learns_the_same(plain, tmp_path, capsys, no_pictures):
    folder = train(tmp_path / "quiet", quiet=True)
    out = capsys.readouterr().out.strip()
    assert out.count("\n") == 0 and "test accuracy" in out
    assert outcome(folder) == outcome(plain)


def test_an_unknown_tracker_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="csv, tensorboard"):
        train(tmp_path / "run", track="scroll")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, module", [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"),
                                          ("mlflow", "mlflow")])  # fmt: skip
def test_a_missing_extra_is_named(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"cifar_fast\[{name}\]"):
        find_trackers(name)


def test_a_trackers_run_is_opened_after_the_checks_and_closed_however_the_run_ends(tmp_path, monkeypatch, no_pictures):
    seen = []

    class Tracker:
        logs_batches, needs = False, "json"

        def __init__(self, folder, opened):
            seen.append("opened")
            opened.callback(seen.append, "closed")

        def log(self, values, fit):
            raise RunError("the tracker's server is gone")

    monkeypatch.setitem(TRACKERS, "wandb", Tracker)
    for unusable in ({"data": "nowhere"}, {"also_test": ["nowhere"]}, {"width": 2**30}, {"bs": 1}):
        with pytest.raises((InputError, RuntimeError)):
            train(tmp_path / "refused", track="wandb", **unusable)
    assert not seen
    with pytest.raises(RunError):
        train(tmp_path / "run", track="wandb")
    assert seen == ["opened", "closed"]


def test_only_numbers_are_logged_as_numbers():
    assert numbers({"a": 1, "b": 0.5, "c": True, "d": None, "e": "x", "f": [1]}) == {"a": 1.0, "b": 0.5}


@pytest.mark.slow
def test_wandb_works_offline_in_the_runs_folder(plain, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = train(tmp_path / "run", track="wandb")
    wandb.teardown()  # ends its process, which may still be writing after the run is finished
    [logged] = folder.glob("wandb/offline-run-*/*.wandb")
    assert all(o in logged.read_bytes() for o in (b"train_loss", b"lr_0", b"valid_loss", b"calibration_error"))
    assert list(folder.glob("wandb/offline-run-*/files/media/images/curves*"))
    assert outcome(folder) == outcome(plain)


@pytest.mark.slow
def test_mlflow_keeps_numbers_and_figures_in_the_runs_folder(plain, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = train(tmp_path / "run", track="mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    found = mlflow.search_runs(experiment_names=["cifar_fast"])
    accuracy = json.loads((folder / "metrics.json").read_text())["accuracy"]
    assert found["metrics.accuracy"].tolist() == [pytest.approx(accuracy)] and found["params.width"].tolist() == ["8"]
    losses = mlflow.MlflowClient().get_metric_history(found["run_id"][0], "train/valid_loss")
    assert [o.step for o in losses] == [0, 1] and list(folder.glob("mlruns/*/artifacts/curves.png"))
    assert outcome(folder) == outcome(plain)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "MLFLOW_EXPERIMENT_ID" not in os.environ  # which a notebook's own runs would go to
    assert (train(tmp_path / "next", track="mlflow") / "mlflow.db").exists()
