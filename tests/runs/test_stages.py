"""Trainings of several stages, and stages of several fits: resumed, and cut to the epochs that were chosen."""

import collections
import csv
import enum
import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from bench.soak import outcome
from cifar_fast.errors import InputError
from cifar_fast.experiment import Experiment, Stage, shared_stage
from cifar_fast.models.networks import CustomCNN
from cifar_fast.options import count
from cifar_fast.runs.launch import train
from cifar_fast.training.callbacks.guards import only_predicts
from cifar_fast.training.learner import fast_learner
from conftest import with_cbs
from processes import Kill, Killed

pytestmark = pytest.mark.usefixtures("no_pictures")
SMALL = {"data": "digits", "device": "cpu", "precision": "fp32", "images": 300, "test_images": 60, "epochs": 3}


def twice(epochs: count, warm: count):
    "One stage, which fits twice: fastai's fine_tune."
    return [Stage("all", epochs + warm, lambda learn, cbs: learn.fine_tune(epochs, 1e-3, warm, cbs=cbs))]


def warmed(epochs: count, warm: count):
    "Two stages."
    return [Stage("warm", warm, lambda learn, cbs: learn.fit(warm, 1e-4, cbs=cbs)), Stage("train", epochs)]


def staged(stages):
    def small(dls, warm: count = 2):
        return fast_learner(dls, CustomCNN(dls.c, n_convs=2, width=4, dense_width=16))

    return Experiment(small, stages)


def kill_in(epoch):
    "A kill in this epoch, counted over all fits: each has five batches."
    return Kill(5 * epoch + 2)


class Plan(Callback):
    "Makes what each epoch is said to have reached: the accuracies of choosing, then of the training that counts."

    order = 55  # after the Recorder, before what chooses

    def __init__(self, *accuracies):
        self.left = list(accuracies)

    def after_epoch(self):
        if self.left and not only_predicts(self.learn):
            self.recorder.log[list(self.recorder.metric_names).index("accuracy")] = self.left[0]
            self.recorder.values[-1][list(self.recorder.metric_names).index("accuracy") - 1] = self.left.pop(0)


def history_of(folder):
    with (folder / "history.csv").open() as file:
        return [row["stage"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("stages, killed", [(twice, 1), (twice, 2), (twice, 3), (warmed, 3)])
def test_a_run_of_several_fits_goes_on_in_each(stages, killed, tmp_path, capsys):
    made = staged(stages)
    train(made, made.options(**SMALL, run=str(tmp_path / "whole")))
    with pytest.raises(Killed):
        train(with_cbs(made, kill_in(killed)), made.options(**SMALL, run=str(tmp_path / "killed")))
    train(made, made.options(resume=str(tmp_path / "killed")))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    if stages is twice:
        assert f"Going on after {killed} epochs of the stage 'all'" in capsys.readouterr().out


def test_tensorboard_follows_from_one_fit_of_a_stage_to_the_next(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = staged(twice)
    with pytest.raises(Killed):
        asked = made.options(**SMALL, track="tensorboard", run=str(tmp_path / "run"))
        train(with_cbs(made, kill_in(3)), asked)
    train(made, made.options(resume=str(tmp_path / "run")))
    found = EventAccumulator(str(tmp_path / "run/tensorboard/all")).Reload()
    assert [o.step for o in found.Scalars("accuracy")] == [5, 10, 15, 20, 25]  # 300 images in batches of 64


@pytest.mark.parametrize("held_out, chosen, chose", [
    ((0.1, 0.2, 0.5, 0.4, 0.3), 3, 4),  # the best is of the second fit, and the next is the one too many
    ((0.3, 0.2), 1, 2),  # stopped in the first fit, the second does not begin
])  # fmt: skip
def test_early_stopping_counts_the_epochs_of_all_fits_of_a_stage(held_out, chosen, chose, tmp_path):
    made = staged(twice)
    planned = with_cbs(made, Plan(*held_out))
    train(planned, planned.options(**SMALL, early_stop=1, run=str(tmp_path / "run")))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert history_of(tmp_path / "run") == ["choose-epochs"] * chose + ["all"] * chosen
    assert metrics["epochs"] == metrics["choice"]["chosen"]["epochs"] == chosen


def test_the_last_stage_is_what_is_chosen_by_and_cut(tmp_path, capsys):
    made = staged(warmed)
    planned = with_cbs(made, Plan(0.9, 0.8, 0.3, 0.2))
    train(planned, planned.options(**SMALL, early_stop=1, run=str(tmp_path / "run")))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    choosing = ["choose-epochs-warm"] * 2 + ["choose-epochs"] * 2
    assert history_of(tmp_path / "run") == [*choosing, "warm", "warm", "train"]
    assert metrics["choice"]["chosen"] == {"opt": None, "epochs": 1, "held_out_accuracy": 0.3}
    assert "Chosen: 1 of 3 epochs of train." in capsys.readouterr().out


class Dimmer(Callback):
    "Shows darker images from epoch to epoch, and keeps what it has seen; it says nothing of a state."

    def __init__(self):
        self.epochs, self.seen = 0, [0]

    def before_batch(self):
        if self.training:
            self.learn.xb = (self.x / (1 + self.epochs + self.seen[-1] / 100),)

    def after_train(self):
        if not only_predicts(self.learn):
            self.epochs += 1
            self.seen = [*self.seen, self.epochs]


def test_a_users_callback_without_state_dict_goes_on_where_it_was(tmp_path):
    def made(*more):
        return with_cbs(staged(shared_stage), Dimmer(), *more)

    train(made(), made().options(**SMALL, run=str(tmp_path / "whole")))
    with pytest.raises(Killed):
        train(made(kill_in(2)), made().options(**SMALL, run=str(tmp_path / "killed")))
    with pytest.raises(Killed):
        train(made(kill_in(0)), made().options(resume=str(tmp_path / "killed")))
    train(made(), made().options(resume=str(tmp_path / "killed")))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


class Pace(enum.IntEnum):
    SLOW = 2


class Odd(Callback):
    "Holds what a checkpoint can keep, what it cannot, and what must not be kept."

    def __init__(self, shared):
        self.shared, self.pace, self.counts = shared, Pace.SLOW, collections.defaultdict(int)
        self.numbers = {"batches": np.int64(0)}
        self.scale = np.float64(1)

    def before_fit(self):
        self.since = time.time()
        self.weights = [p for p in self.model.parameters() if p.ndim > 1]

    def after_step(self):
        with torch.no_grad():
            self.weights[0].mul_(1 - len(self.shared) / 1000)
        self.counts[len(self.shared)] += self.pace
        self.scale = self.scale * 2

    def after_train(self):
        if not only_predicts(self.learn):
            assert time.time() - self.since < 300 and self.counts[len(self.shared)] == 10
            self.shared.append(self.epoch)


class Reads(Callback):
    "Shares a list with another callback."

    def __init__(self, shared):
        self.shared = shared

    def before_batch(self):
        if self.training:
            self.learn.xb = (self.x / (1 + len(self.shared)),)


class Asks(Callback):
    "Predicts within the fit."

    order = 90  # after what is written

    def after_epoch(self):
        if not only_predicts(self.learn):
            learn = self.learn
            with learn.removed_cbs([self]):
                learn.validate()


def odd_ones():
    shared = []
    return [Odd(shared), Reads(shared)]


@pytest.mark.parametrize("cbs", [odd_ones, lambda: [Asks()]])
def test_a_run_goes_on_whatever_its_callbacks_hold_and_do(cbs, tmp_path, monkeypatch):
    def made(*more):
        return with_cbs(staged(twice), *cbs(), *more)

    train(made(), made().options(**SMALL, run=str(tmp_path / "whole")))
    with pytest.raises(Killed):
        train(made(kill_in(3)), made().options(**SMALL, run=str(tmp_path / "killed")))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1000)  # the clock has gone on
    train(made(), made().options(resume=str(tmp_path / "killed")))
    # metrics and weights: predictions within a fit reset the smoothed loss, in fastai too
    assert outcome(tmp_path / "killed")[2:] == outcome(tmp_path / "whole")[2:]


class Scaled(nn.Module):
    "A loss with a scale that is learnt."

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, preds, targs):
        return nn.functional.cross_entropy(preds * self.scale, targs)


def unfrozen(epochs: count, warm: count):
    "The body is let train by one stage, and trained on by another."

    def unfreeze(learn, cbs):
        learn.unfreeze()
        learn.fit(warm, 1e-3, cbs=cbs)

    return [Stage("all", warm, unfreeze), Stage("slow", epochs, lambda learn, cbs: learn.fit(epochs, 1e-3, cbs=cbs))]


def test_what_an_earlier_stage_let_train_and_what_a_loss_has_learnt_go_on(tmp_path):
    def small(dls, warm: count = 2):
        net, loss = CustomCNN(dls.c, n_convs=2, width=4, dense_width=16), Scaled()
        learn = fast_learner(
            dls, net, loss_func=loss,
            splitter=lambda m: [list(m.conv1.parameters()), [p for p in m.parameters() if p.shape[0] != 4],
                                list(loss.parameters())],
        )  # fmt: skip
        learn.freeze_to(1)
        return learn

    made = Experiment(small, unfrozen)
    train(made, made.options(**SMALL, run=str(tmp_path / "whole")))
    with pytest.raises(Killed):
        train(with_cbs(made, kill_in(3)), made.options(**SMALL, run=str(tmp_path / "killed")))
    train(made, made.options(resume=str(tmp_path / "killed")))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


class CtrlC(Callback):
    "In the second epoch."

    def after_batch(self):
        if self.training and (self.epoch, self.iter) == (1, 2):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_the_first_fit_of_a_stage_ends_the_stage(tmp_path):
    made = with_cbs(staged(twice), CtrlC())
    assert train(made, made.options(**SMALL, run=str(tmp_path / "run")))[0] == 130
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["interrupted"] and history_of(tmp_path / "run") == ["all"]


class FailsIn(Callback):
    "At the first batch of the second fit."

    fits = 0

    def before_fit(self):
        self.fits += not only_predicts(self.learn)

    def before_batch(self):
        if self.training and self.fits == 2:
            raise ValueError("the second fit fails")


@pytest.mark.parametrize("stages", [twice, warmed])
def test_what_fails_after_epochs_is_no_input_that_cannot_be_trained(stages, tmp_path):
    made = with_cbs(staged(stages), FailsIn())
    with pytest.raises(Exception, match="the second fit fails") as caught:
        train(made, made.options(**SMALL, run=str(tmp_path / "run")))
    assert not isinstance(caught.value, InputError) and len(history_of(tmp_path / "run")) == 2
