"""A run folder read back."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from cifar_fast.errors import InputError
from cifar_fast.runs.folder import Run, count_macs
from cifar_fast.runs.results import FinishedRun, read_rows
from cifar_fast.training.learner import fast_learner
from processes import Bomb


def test_what_was_written_is_read_back(digits_run, digits):
    run = FinishedRun.read(digits_run)
    assert run.predictions.accuracy == pytest.approx(run.metrics["accuracy"])
    assert run.predictions.targs.tolist() == digits.test_y.tolist()
    assert len(run.history.epochs) == 2 and len(run.history.lrs) == 2 * 23
    assert run.history.lrs[0] == pytest.approx(1e-3) and run.history.lrs[-1] == pytest.approx(8e-5)


def test_a_run_leaves_these_files(digits_run):
    assert {o.name for o in digits_run.iterdir()} == {
        "config.json", "history.csv", "batches.csv", "metrics.json", "predictions.safetensors", "export.pkl",
        "checkpoint.pt", "model", "report.html", "curves.png", "confusion.png", "confusion_shares.png",
        "per_class.png", "top_losses.png", "confused.png", "calibration.png", "channel6.png", "channel11.png",
    }  # fmt: skip


@pytest.mark.parametrize("missing", ["metrics.json", "predictions.safetensors", "config.json"])
def test_a_folder_without_a_finished_run_is_one_line(digits_run, tmp_path, missing):
    shutil.copytree(digits_run, tmp_path / "run")
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(InputError, match="no finished run"):
        FinishedRun.read(tmp_path / "run")


@pytest.mark.parametrize("name", ["metrics.json", "predictions.safetensors", "config.json", "export.pkl"])
def test_a_pickle_in_the_folder_is_never_run(digits_run, tmp_path, name):
    shutil.copytree(digits_run, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(pickle.dumps(Bomb()))
    if name == "export.pkl":
        FinishedRun.read(tmp_path / "run")
    else:
        with pytest.raises(InputError):
            FinishedRun.read(tmp_path / "run")
    assert not Path("exploded").exists()


def test_what_a_later_stage_measures_more_is_kept(tmp_path):
    run = Run(tmp_path / "run")
    run.add_epoch({"accuracy": 0.5, "stage": "train"})
    run.add_epoch({"accuracy": 0.6, "f1": 0.7, "stage": "tune"})
    rows = read_rows(run.folder / "history.csv")
    assert [o["f1"] for o in rows] == ["", "0.7"] and [o["epoch"] for o in rows] == ["0", "1"]


def test_operations_of_attention_are_counted(digits_dls):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(96, 48)

        def forward(self, x):
            q, k, v = self.qkv(x.flatten(2).transpose(1, 2).reshape(len(x), 32, 96)).chunk(3, -1)
            return torch.nn.functional.scaled_dot_product_attention(q, k, v).mean(1)[:, :10]

    macs = count_macs(fast_learner(digits_dls, Attention(), precision="fp32"))
    assert macs == 32 * 96 * 48 + 2 * 32 * 32 * 16


class Rows(nn.Module):
    "Reads an image row by row."

    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.LSTM(96, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def test_recurrent_layers_are_counted(digits_dls):
    learn = fast_learner(digits_dls, Rows())
    assert count_macs(learn) == 32 * 4 * 16 * (96 + 16) + 160  # rows x gates x units x inputs, and the head
