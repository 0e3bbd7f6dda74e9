"""What a run says of a model that is shipped without the callbacks it was tested with."""

import json

import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from cifar_fast.deploy.modelcard import ModelCard
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.experiment import Experiment
from cifar_fast.runs.launch import train
from cifar_fast.training.learner import fast_learner

pytestmark = pytest.mark.usefixtures("no_pictures")


class Changed(Callback):
    "Gives the network other images than the loader's."

    def __init__(self, change):
        self.change = change

    def before_batch(self):
        self.learn.xb = (self.change(self.x),)


def run_with(change, folder, channels=3):
    "The folder of a run whose images a callback changes, in tests too."

    def small(dls):
        net = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 256, dls.c))
        return fast_learner(dls, net, cbs=Changed(change))

    made = Experiment(small)
    asked = dict(data="digits", epochs=3, device="cpu", precision="fp32", images=300, test_images=60, lr=3e-3)
    train(made, made.options(**asked, run=str(folder)))
    return json.loads((folder / "metrics.json").read_text())


def test_a_model_that_predicts_otherwise_without_a_callback_says_its_own_accuracy(digits, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    metrics = run_with(lambda x: -3 * x, tmp_path / "run")
    alone, test = metrics["model_alone"], digits.fewer(300, 60)
    found = Predictor(tmp_path / "run/model").logits(test.test_x.permute(0, 2, 3, 1).numpy()).argmax(1)
    right = (torch.from_numpy(found) == test.test_y).double().mean().item()
    assert alone["without"] == ["Changed"] and metrics["accuracy"] > 0.5 > alone["accuracy"]
    card = ModelCard.read(tmp_path / "run/model/model.json")
    assert alone["accuracy"] == card.metrics["accuracy"] == pytest.approx(right)
    said = f"which model/ is without: alone, as evaluate and predict ask it, it has {right:.2%}".replace("%", " %")
    assert said in capsys.readouterr().out and said in (tmp_path / "run/report.html").read_text()


def test_a_network_that_needs_a_callback_ends_with_a_report_that_says_so(tmp_path, capsys):
    metrics = run_with(lambda x: torch.cat([x, -x], 1), tmp_path / "run", channels=6)
    assert metrics["model_alone"] == {
        "without": ["Changed"], "accuracy": None, "loss": None, "per_class_accuracy": None, "taken_for": None
    }  # fmt: skip
    assert metrics["macs"] is None and metrics["accuracy"] > 0.5
    said = "Tested with Changed, which model/ is without: alone the network cannot predict these images."
    assert said in capsys.readouterr().out and said in (tmp_path / "run/report.html").read_text()


def test_a_callback_that_changes_nothing_is_not_mentioned(tmp_path):
    assert "model_alone" not in run_with(lambda x: x, tmp_path / "run")
