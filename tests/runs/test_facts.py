"""What a run says of a model that is shipped without the callbacks it was tested with."""

import json

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.preds import MCDropoutCallback
from fastai.torch_core import TensorImage
from fasttransform import Transform
from torch import nn

from cifar_fast.analysis.interpret import TestInterpretation
from cifar_fast.deploy.modelcard import ModelCard
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.experiment import Experiment
from cifar_fast.runs.facts import model_alone
from cifar_fast.runs.launch import train
from cifar_fast.training.callbacks.guards import only_predicts
from cifar_fast.training.learner import fast_learner

pytestmark = pytest.mark.usefixtures("no_pictures")


class Changed(Callback):
    "Gives the network other images than the loader's."

    def __init__(self, change):
        self.change = change

    def before_batch(self):
        self.learn.xb = (self.change(self.x),)


class Noise(nn.Module):
    "Adds other noise each time."

    def forward(self, x):
        return x + torch.randn_like(x) * 3


class Swaps(Callback):
    "Puts another network in place while it is asked."

    def before_fit(self):
        if only_predicts(self.learn):
            self.kept, self.learn.model = self.model, nn.Sequential(self.model, Flip())

    def after_fit(self):
        if only_predicts(self.learn):
            self.learn.model = self.kept


class Flip(nn.Module):
    "The classes the other way around."

    def forward(self, x):
        return x.flip(1)


def run_with(change, folder, channels=3, cb=None, layer=nn.ReLU):
    "The metrics of a run whose predictions a callback changes."

    def small(dls):
        net = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), layer(), nn.Flatten(), nn.Linear(8 * 256, dls.c))
        return fast_learner(dls, net, cbs=cb or Changed(change))

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


def test_a_network_that_draws_is_not_said_to_lack_a_callback_that_does_nothing(tmp_path):
    assert "model_alone" not in run_with(lambda x: x, tmp_path / "run", layer=Noise)


@pytest.mark.parametrize("cb", [MCDropoutCallback, Swaps])
def test_whatever_a_callback_does_to_predictions_is_said(cb, tmp_path):
    metrics = run_with(None, tmp_path / "run", cb=cb(), layer=lambda: nn.Dropout(0.99))
    assert metrics["model_alone"]["without"] == [cb.__name__]
    assert metrics["model_alone"]["accuracy"] > metrics["accuracy"]


class Inverted(Transform):
    "Of all loaders' images, after they are normalised."

    order = 110

    def encodes(self, x: TensorImage):
        return -x


def test_a_batch_transform_that_is_not_shipped_is_said(tmp_path):
    def small(dls):
        dls.add_tfms([Inverted()], "after_batch")
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 256, dls.c))
        return fast_learner(dls, net)

    made = Experiment(small)
    asked = dict(data="digits", epochs=3, device="cpu", precision="fp32", images=300, test_images=60, lr=3e-3)
    train(made, made.options(**asked, run=str(tmp_path / "run")))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["model_alone"]["without"] == ["Inverted"]
    assert metrics["accuracy"] > 0.5 > metrics["model_alone"]["accuracy"]


def test_callbacks_keep_their_order(digits_dls):
    learn = fast_learner(digits_dls, nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
    learn.add_cbs([Changed(lambda x: -x), Callback(), Changed(lambda x: x + 1)])
    tested = TestInterpretation.from_learner(learn)
    before = list(learn.cbs)
    assert model_alone(learn, tested)["without"] == ["Changed", "Changed"] and list(learn.cbs) == before
