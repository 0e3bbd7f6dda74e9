"""Seeds that train at once: each is the one that trains alone, and all end together."""

import json
import os
import signal
import time

import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file

from cifar_fast.baselines import custom
from cifar_fast.errors import InputError
from cifar_fast.experiment import experiment
from cifar_fast.runs.overview import list_runs
from cifar_fast.training import turns
from cifar_fast.training.callbacks import measure
from cifar_fast.training.learner import custom_learner
from cifar_fast.training.turns import Turns

pytestmark = pytest.mark.usefixtures("no_pictures")
SMALL = {"data": "digits", "images": 600, "test_images": 100, "bs": 32, "epochs": 2, "device": "cpu", "quiet": True}


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(turns, "BATCHES", 3)


def weights(folder):
    return load_file(next(folder.glob("model/*.safetensors")))


@experiment
def small(dls):
    "Draws random numbers of torch, numpy and Python: dropout, MixUp, and their order."
    return custom_learner(dls, width=4, dense_width=8, precision="fp32")


def asked(folder, **changed):
    return {**SMALL, "seeds": 3, "flip": "random", "mixup": 0.4, "lr": 1e-2, "run": str(folder), **changed}


def test_seeds_at_once_are_those_that_train_alone(tmp_path):
    alone = small.run(**asked(tmp_path / "alone"))
    at_once = small.run(**asked(tmp_path / "at-once", at_once=2))
    assert at_once.accuracies == alone.accuracies and len(set(alone.accuracies)) > 1
    for a, b in zip(alone.runs, at_once.runs):
        mine, other = weights(a.folder), weights(b.folder)
        assert mine.keys() == other.keys() and all(mine[k].equal(other[k]) for k in mine)
        history = [[{k: v for k, v in row.items() if k != "time"} for row in o.history.epochs] for o in (a, b)]
        assert history[0] == history[1]
    assert [o.metrics["at_once"] for o in at_once.runs] == [2, 2, 1]
    assert "its share of 2 at once" in (at_once.first.folder / "report.html").read_text()
    assert not any("at_once" in o.settings for o in list_runs(tmp_path))


class Strikes(Callback):
    "Ends a training, as Ctrl-C or an error does."

    def __init__(self, seed, strike):
        self.seed, self.strike = seed, strike

    def before_epoch(self):
        if self.epoch == 1 and torch.initial_seed() == self.seed:
            self.strike()


@pytest.fixture
def struck():
    "An experiment in which `strike` is called when seed 1 begins its second epoch."

    def make(strike):
        @experiment
        def small(dls):
            return custom_learner(dls, width=4, dense_width=8, precision="fp32", cbs=Strikes(1, strike))

        return small

    return make


@pytest.fixture
def press(monkeypatch):
    "Presses Ctrl-C, which the main thread hears, as of a terminal; it has heard when this returns."
    made, init = [], Turns.__init__

    def noted(self, *args):
        made.append(self)
        init(self, *args)

    def press():
        os.kill(os.getpid(), signal.SIGINT)
        while not made[-1].stopping:
            time.sleep(0.01)

    monkeypatch.setattr(Turns, "__init__", noted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which pytest's side processes ignore
    yield press
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_ends_all_and_each_goes_on(tmp_path, struck, press):
    whole = small.run(**asked(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        struck(press).run(**asked(tmp_path / "run", at_once=3))
    states = [json.loads((tmp_path / f"run/seed-{o}/metrics.json").read_text()) for o in range(3)]
    assert all(o["interrupted"] for o in states) and not (tmp_path / "run/report.html").exists()
    gone_on = struck(lambda: None).run(resume=str(tmp_path / "run"), anyway=True, quiet=True, at_once=3)
    assert gone_on.accuracies == whole.accuracies


def test_a_second_ctrl_c_ends_all_at_once(tmp_path, struck, press):
    def press_twice():
        press()
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        struck(press_twice).run(**asked(tmp_path / "run", at_once=3))
    assert not list(tmp_path.glob("run/*/metrics.json"))  # which the first alone lets each write
    assert not (tmp_path / "run/seed-1/.lock").exists()


def test_a_training_time_leaves_out_the_turns_of_others(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(turns, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measure, "time_when_done", lambda device: clock[0])

    class Dawdles(Callback):
        def after_loss(self):
            if self.training and torch.initial_seed() == 1:
                clock[0] += 1

    @experiment
    def one_is_slow(dls):
        return custom_learner(dls, width=4, dense_width=8, precision="fp32", cbs=Dawdles())

    runs = one_is_slow.run(**asked(tmp_path / "run", seeds=2, at_once=2)).runs
    assert [o.metrics["train_seconds"] for o in runs] == [0, 2 * 19]  # epochs and batches


def test_remarks_say_whose_they_are(tmp_path, capsys):
    small.run(**asked(tmp_path / "run", seeds=2, at_once=2, epochs=1, quiet=False))
    said = capsys.readouterr().out
    for name in ("seed-0", "seed-1"):
        assert f"{name}  epoch " in said and f"{name}  0 " in said
    assert "2 trainings at once, on a CPU no faster" in said
    assert not json.loads((tmp_path / "run/seed-0/config.json").read_text())["quiet"]


def test_an_error_in_one_stops_all_and_is_told(tmp_path, struck):
    def fail():
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        struck(fail).run(**asked(tmp_path / "run", at_once=3))
    assert not (tmp_path / "run/report.html").exists()
    assert json.loads((tmp_path / "run/seed-0/metrics.json").read_text())["interrupted"]


def test_works_that_pass_turns_on_get_them_back_with_their_random_numbers():
    def work(seed, n):
        torch.manual_seed(seed)
        drawn = []
        for _ in range(n):
            drawn.append(torch.rand(()).item())
            shared.pass_on()
        return drawn

    shared = Turns(3, torch.device("cpu"))
    found = shared.do([lambda n=n: work(n, n) for n in (1, 4, 2)])
    for n, drawn in zip((1, 4, 2), found):
        torch.manual_seed(n)
        assert drawn == [torch.rand(()).item() for _ in range(n)]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"at_once": 2}, "--at-once is for --seeds or --folds"),
        ({"at_once": 2, "seeds": 2, "track": "mlflow"}, "mlflow logs one training at a time"),
    ],
)
def test_what_cannot_be_at_once_is_refused(tmp_path, changed, said):
    with pytest.raises(InputError, match=said):
        custom.run(**SMALL, run=str(tmp_path / "run"), **changed)
    assert not (tmp_path / "run").exists()
