"""A Learner that was trained by hand gets a run's folder."""

import json

import pytest
from fastai.learner import Learner
from fastai.vision.learner import vision_learner
from torch import nn
from torchvision.models import squeezenet1_1

from cifar_fast.data.loaders import image_dls
from cifar_fast.deploy.modelcard import ModelCard
from cifar_fast.errors import InputError
from cifar_fast.runs.by_hand import write_run
from cifar_fast.runs.compare import compare
from cifar_fast.runs.folder import Run

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def learn(digits_dls):
    "A plain fastai Learner, fitted for two epochs."
    from fastai.metrics import accuracy

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    learn = Learner(digits_dls, model, loss_func=nn.CrossEntropyLoss(), metrics=accuracy)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-3)
    return learn


def test_the_folder_is_a_runs_and_says_what_is_not_known(learn, digits_run, tmp_path):
    found = write_run(learn, tmp_path / "run")
    with learn.no_bar():
        assert found.accuracy == pytest.approx(learn.validate()[1])
    assert len(found.first.history.epochs) == 2
    assert found.metrics["seed"] is None and found.metrics["train_seconds"] is None
    assert "seed unknown" in found.report.read_text() and (found.folder / "model/model.safetensors").exists()
    assert "McNemar" in compare(digits_run, found.folder).test
    assert len(found.first.history.lrs) == 2 * 23
    assert json.loads((found.folder / "config.json").read_text())["experiment"]["name"] == "by hand"


def test_a_history_that_fastai_has_forgotten_is_not_invented(learn, tmp_path, capsys):
    with learn.no_bar():
        learn.validate()
    found = write_run(learn, tmp_path / "run")
    assert found.first.history.epochs == [] and "not known any more" in capsys.readouterr().out


@pytest.mark.slow
def test_a_vision_learners_network_has_its_name_and_its_weights(digits, tmp_path):
    dls = image_dls(digits.fewer(100, 40), device="cpu")
    learn = vision_learner(dls, squeezenet1_1, pretrained=False, loss_func=nn.CrossEntropyLoss(), normalize=False)
    learn.pretrained = True
    run = write_run(learn, tmp_path / "run")
    assert ": squeezenet1_1 with imagenet weights, seed" in run.metrics["title"]
    assert ModelCard.read(run.folder / "model/model.json").weights == "imagenet"


def test_a_report_that_fails_leaves_nothing_in_the_way_of_the_next(learn, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_predictions", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_run(learn, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert write_run(learn, tmp_path / "run").accuracy > 0.5


def test_what_cannot_be_written_is_one_line(learn, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty: give another folder"):
        write_run(learn, tmp_path)
    with pytest.raises(InputError, match="this is a NoneType"):
        write_run(None, tmp_path / "run")
    learn.dls = learn.dls.new_empty()
    with pytest.raises(InputError, match="DataLoaders of this package"):
        write_run(learn, tmp_path / "run")
    assert not (tmp_path / "run").exists()
