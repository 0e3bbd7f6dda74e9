"""What a training script leaves behind, and what it refuses."""

import csv
import json
import os
import signal
import threading
from typing import Literal

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import load_learner

from bench.soak import outcome
from cifar_fast import baselines
from cifar_fast.baselines import custom, fine_tuned, transfer
from cifar_fast.device import parse_device
from cifar_fast.errors import InputError
from cifar_fast.experiment import Experiment
from cifar_fast.options import amount, rate
from cifar_fast.runs.folder import Run
from cifar_fast.runs.launch import train
from cifar_fast.runs.one_seed import OneSeed
from cifar_fast.training.learner import custom_learner, transfer_learner
from conftest import make_run

pytestmark = pytest.mark.usefixtures("no_pictures")
METRICS = set(
    "data data_is_cifar10 model weights params macs epochs bs opt schedule seed device accuracy train_accuracy loss "
    "per_class_accuracy train_seconds images_per_second peak_memory_mb versions".split()
)


def experiment_of(make, stages=None):
    "The experiment whose Learner `make(dls, opt)` makes."

    def custom(
        dls, opt: Literal["adam", "sgd", "both"] = "adam", unfreeze_epochs: amount = 0, unfreeze_lr: rate = 1e-3
    ):
        return make(dls, opt)

    return Experiment(custom, stages or fine_tuned)


def options(tmp_path, made, **kwargs):
    return made.options(**{"data": "digits", "epochs": 2, "device": "cpu", "run": str(tmp_path / "run"), **kwargs})


def small_cnn(dls, opt):
    return custom_learner(dls, opt=opt, width=4, dense_width=16, precision="fp32")


def run(tmp_path, make=small_cnn, **kwargs):
    made = experiment_of(make)
    code = OneSeed(made, options(tmp_path, made, **kwargs)).execute()
    folder = tmp_path / "run"
    path = folder / "history.csv"
    history = list(csv.DictReader(path.open())) if path.exists() else []
    return code, json.loads((folder / "metrics.json").read_text()), history, folder


def test_a_run_says_what_it_is(tmp_path, capsys):
    code, metrics, history, folder = run(tmp_path)
    assert code == 0
    assert METRICS <= set(metrics)
    assert (metrics["data"], metrics["data_is_cifar10"], metrics["model"]) == ("digits", False, "CustomCNN")
    assert metrics["accuracy"] == pytest.approx(float(history[-1]["accuracy"]), abs=1e-6)
    assert metrics["train_accuracy"] == pytest.approx(float(history[-1]["train_accuracy"]), abs=1e-6)
    assert [row["epoch"] for row in history] == ["0", "1"]
    assert json.loads((folder / "config.json").read_text())["precision"] == "fp32"
    last = capsys.readouterr().out.splitlines()[-1]
    assert "digits, not CIFAR-10" in last and f"{metrics['accuracy']:.2%}" in last and str(folder) in last


def test_the_exported_learner_predicts_as_measured(tmp_path, digits):
    _, metrics, _, folder = run(tmp_path)
    learn = load_learner(folder / "export.pkl")
    dl = learn.dls.test_dl(list(digits.test_x))
    preds = learn.get_preds(dl=dl)[0].argmax(1)
    assert (preds == digits.test_y).float().mean().item() == pytest.approx(metrics["accuracy"], abs=1e-6)


def test_a_learner_that_cannot_be_pickled_leaves_a_whole_run(tmp_path, capsys):
    class Holds(Callback):
        "Something that no pickle holds."

    def make(dls, opt):
        learn = small_cnn(dls, opt).add_cb(Holds())
        learn.holds.lock = threading.Lock()
        return learn

    code, metrics, _, folder = run(tmp_path, make)
    assert code == 0 and metrics["accuracy"] > 0.2 and not (folder / "export.pkl").exists()
    assert "export.pkl is left out" in capsys.readouterr().out and (folder / "model/model.json").exists()


@pytest.mark.slow
def test_macs_and_params_of_the_articles_network(tmp_path):
    _, metrics, _, _ = run(tmp_path, lambda dls, opt: custom_learner(dls, opt=opt, precision="fp32"), epochs=1)
    convs = 32 * 32 * 32 * 27 + 16 * 16 * 64 * 32 * 9 + 8 * 8 * 128 * 64 * 9
    assert metrics["params"] == 4_294_218
    assert metrics["macs"] == convs + 8192 * 512 + 512 * 10


def test_a_folder_with_something_in_it_is_refused_and_kept(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        Run(tmp_path / "run")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        Run(tmp_path / "file" / "run")


def test_both_optimizers_are_compared_on_held_out_images_only(tmp_path, monkeypatch):
    seen = []

    def make(dls, opt):
        seen.append((opt, len(dls.train_ds), len(dls.valid_ds), dls.valid_ds.is_test))
        return small_cnn(dls, opt)

    _, metrics, history, _ = run(tmp_path, make, opt="both", epochs=1)
    n, held_out = 1437, 144
    assert seen[:2] == [("adam", n - held_out, held_out, False), ("sgd", n - held_out, held_out, False)]
    winner = max(metrics["choice"]["candidates"], key=lambda o: o["held_out_accuracy"])["opt"]
    assert seen[2:] == [(winner, n, 360, True)]
    assert metrics["opt"] == winner and metrics["epochs"] == 1
    assert [row["stage"] for row in history] == ["choose-adam", "choose-sgd", "train"]


def test_early_stopping_chooses_the_first_epochs_of_the_schedule_that_was_validated(tmp_path, capsys):
    _, metrics, history, folder = run(tmp_path, epochs=20, early_stop=1, lr=1e-2, lr_end=1e-3, swa=0.05)
    assert "early stopping ends before the last 5 %" in capsys.readouterr().out
    held_out = [float(row["accuracy"]) for row in history if row["stage"] == "choose-adam"]
    assert metrics["epochs"] == held_out.index(max(held_out)) + 1 < 20
    assert metrics["choice"]["chosen"]["held_out_accuracy"] == pytest.approx(max(held_out))
    with (folder / "batches.csv").open() as file:
        lrs = [float(o["lr"]) for o in csv.DictReader(file) if o["stage"] == "train"]
    done = metrics["epochs"] / 20
    assert lrs[-1] == pytest.approx(1e-2 * 0.1**done, rel=0.02)  # of the whole decay, not one squeezed into them


@pytest.mark.slow
def test_unfreezing_adds_epochs_that_change_the_body(tmp_path, resnet18_file):
    def make(dls, opt):
        return transfer_learner(dls, weights=resnet18_file, opt=opt, precision="fp32")

    _, metrics, history, folder = run(
        tmp_path, make, epochs=1, images=200, test_images=60, unfreeze_epochs=1, unfreeze_lr=1e-3
    )
    assert [row["stage"] for row in history] == ["train", "fine-tune"]
    assert metrics["weights"] == "resnet18-random" and metrics["epochs"] == 2
    state = torch.load(resnet18_file, weights_only=True)
    assert not torch.equal(load_learner(folder / "export.pkl").model[0][0].weight, state["conv1.weight"])


def test_lr_auto_finds_a_rate_and_saves_its_plot(tmp_path):
    _, metrics, _, folder = run(tmp_path, lr="auto", epochs=1)
    assert 1e-7 < metrics["lr"] < 10
    assert (folder / "lr_find.png").stat().st_size > 1000


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_other_schedules(tmp_path, schedule):
    _, metrics, _, _ = run(tmp_path, schedule=schedule, epochs=1)
    assert metrics["schedule"] == schedule


class PressCtrlC(Callback):
    "At the third batch of an epoch."

    def __init__(self, epoch):
        self.at = epoch

    def after_batch(self):
        if self.training and (self.epoch, self.iter) == (self.at, 2):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_what_has_been_learnt(tmp_path, monkeypatch, capsys):
    def make(dls, opt):
        return small_cnn(dls, opt).add_cb(PressCtrlC(epoch=1))

    before = signal.getsignal(signal.SIGINT)
    code, metrics, history, folder = run(tmp_path, make, epochs=5)
    assert code == 130 and metrics["interrupted"] and metrics["epochs"] == len(history) == 1
    assert "interrupted after 1 epochs" in capsys.readouterr().out
    assert load_learner(folder / "export.pkl").dls.vocab == [str(i) for i in range(10)]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_choosing_keeps_what_has_been_learnt(tmp_path):
    learners = []

    def make(dls, opt):
        learners.append(small_cnn(dls, opt).add_cb(PressCtrlC(epoch=0)))
        return learners[-1]

    code, metrics, history, folder = run(tmp_path, make, opt="both")
    weight = load_learner(folder / "export.pkl").model.conv1.weight
    assert code == 130 and metrics["interrupted"] and len(learners) == 2 and history == []
    assert torch.equal(weight, learners[0].model.conv1.weight)


@pytest.mark.parametrize(
    "bad, said",
    [({"data": "nowhere"}, "does not exist"), ({"opt": "adagrad"}, "adagrad"), ({"images": 2000}, "ask for fewer")],
)
def test_unusable_input_leaves_no_folder(tmp_path, bad, said):
    made = experiment_of(small_cnn)
    with pytest.raises(InputError, match=said):
        OneSeed(made, options(tmp_path, made, **bad)).execute()
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match="warp"):
        parse_device("warp")


@pytest.mark.slow
def test_compiling_is_timed_apart_from_training(tmp_path):
    def make(dls, opt):
        return custom_learner(dls, opt=opt, width=4, dense_width=16, precision="fp32", compile=True)

    _, metrics, _, folder = run(tmp_path, make, epochs=1, compile=True)
    assert metrics["compile_seconds"] > 0 and metrics["train_seconds"] > 0
    assert load_learner(folder / "export.pkl").dls.vocab == [str(i) for i in range(10)]


def test_seeds_give_a_folder_each_and_their_mean(tmp_path, capsys):
    folder = tmp_path / "run"
    made = experiment_of(small_cnn)
    code, where, _ = train(made, options(tmp_path, made, seed=3, seeds=2, epochs=1))
    found = json.loads((folder / "seeds.json").read_text())
    single = [json.loads((folder / f"seed-{o}" / "metrics.json").read_text()) for o in (3, 4)]
    assert code == 0 and where == folder
    assert [o["seed"] for o in single] == [3, 4]
    assert found["accuracies"] == [o["accuracy"] for o in single] and found["accuracies"][0] != found["accuracies"][1]
    assert found["interval"][0] < found["mean"] < found["interval"][1]
    assert f"{found['mean']:.2%}" in capsys.readouterr().out.splitlines()[-1]
    assert "2 seeds" in (folder / "report.html").read_text()


def test_seeds_with_unusable_input_leave_no_folder(tmp_path):
    with pytest.raises(InputError, match="ask for fewer"):
        train(custom, options(tmp_path, custom, seeds=2, images=10**6))
    assert not (tmp_path / "run").exists()


def test_seeds_share_the_features_of_a_frozen_body(tmp_path, resnet18_file, capsys, monkeypatch):
    monkeypatch.setattr(baselines, "FEATURES", {})
    changed = {"weights": str(resnet18_file), "epochs": 1, "seeds": 2, "images": 200, "test_images": 60}
    train(transfer, options(tmp_path, transfer, precision="fp32", **changed))
    assert capsys.readouterr().out.count("Features of 200 training images") == 1


def test_fewer_images_keep_all_classes_and_are_called_a_part(tmp_path, capsys):
    _, metrics, _, _ = run(tmp_path, images=200, test_images=100, epochs=1)
    assert metrics["title"].startswith("part of digits, not CIFAR-10 (200 + 100 images)")
    assert not any(o != o for o in metrics["per_class_accuracy"].values())


def test_deterministic_asks_torch_for_it_and_learns_the_same_on_a_cpu(digits_run, tmp_path):
    try:
        make_run(tmp_path / "run", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert outcome(tmp_path / "run") == outcome(digits_run)


ONE_BY_ONE = {"images": 20, "test_images": 10, "epochs": 1, "bs": 1}


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        (custom, {"width": 4}),
        (custom, {"width": 4, "opt": "both", "lr": "auto"}),
        (transfer, {"weights": "none", "unfreeze_epochs": 1}),
    ],
    ids=["custom", "choosing", "transfer"],
)
def test_batches_of_one_image_are_refused_before_training_where_batch_norm_is(tmp_path, made, changed, capsys):
    with pytest.raises(InputError, match=r"batches of one image: give --bs 2"):
        train(made, options(tmp_path, made, **ONE_BY_ONE, **changed))
    assert not (tmp_path / "run").exists() and "train_accuracy" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "changed"),
    [(custom, {"width": 4, "bn": False}), (transfer, {"weights": "none"})],
    ids=["custom", "frozen"],
)
def test_batches_of_one_image_train_without_batch_norm(tmp_path, made, changed):
    assert train(made, options(tmp_path, made, **ONE_BY_ONE, **changed))[0] == 0
    assert len(list(csv.DictReader((tmp_path / "run/batches.csv").open()))) == 20


def test_compiling_without_a_compiler_is_one_line(tmp_path, monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    asked = options(tmp_path, custom, width=4, images=40, test_images=20, epochs=1, compile=True)
    with pytest.raises(InputError, match=r"C\+\+ compiler: install g\+\+"):
        train(custom, asked)
    assert not (tmp_path / "run").exists()
