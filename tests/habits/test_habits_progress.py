"""What people do with progress, logs and trackers, as in fastai's notebooks 16 and 17 (callback.progress, .tracker)."""

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
from fastai.callback.tracker import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
    TerminateOnNaNCallback,
    TrackerCallback,
)

from habits.table import departs, fails_on_stock

HELD_OUT = "trackers choose by held-out images alone: the accuracy of what the test images chose says too much"


class Says(Callback):
    "Writes losses of one's own into the table."

    order = 51

    def __init__(self, *losses):
        self.losses = losses

    def after_epoch(self):
        self.recorder.values[-1][1] = self.losses[self.epoch]


# 16


def test_the_table_names_its_columns(learn, capsys):
    learn.fit(1)
    assert "valid_loss" in capsys.readouterr().out


def test_the_table_has_the_loss(learn, capsys):
    learn.fit(1)
    assert f"{learn.recorder.values[0][0]:.6f}" in capsys.readouterr().out


def test_progress_taken_away_for_good(learn):
    learn.remove_cb(ProgressCallback)
    learn.fit(1)
    assert not hasattr(learn, "progress")


def test_progress_added_again(learn):
    learn.remove_cb(ProgressCallback)
    learn.add_cb(ProgressCallback())
    learn.fit(1)
    assert isinstance(learn.progress, ProgressCallback)


def test_no_bar_within_no_logging(learn, capsys):
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert "[0," not in capsys.readouterr().out


def test_bars_in_validate_and_get_preds_leave_the_logger(learn):
    logger = learn.logger
    learn.validate()
    learn.get_preds()
    assert learn.logger is logger


@fails_on_stock("the logger of an interrupted fit stays the table's")
def test_an_interrupt_leaves_the_logger(learn):
    class Stops(Callback):
        def after_batch(self):
            raise KeyboardInterrupt

    logger = learn.logger
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Stops())
    assert learn.logger is logger


def test_a_graph_of_the_losses(learn):
    learn.fit(2, cbs=ShowGraphCallback())
    assert len(learn.recorder.values) == 2


def test_a_graph_in_the_constructor(again):
    learn = again(cbs=ShowGraphCallback())
    learn.fit(1)
    learn.get_preds()
    learn.lr_find(num_it=10, show_plot=False, suggest_funcs=None)


def test_rows_in_a_csv(learn):
    learn.fit(2, cbs=CSVLogger())
    table = pd.read_csv(learn.path / "history.csv")
    assert list(table.columns) == ["epoch", "train_loss", "valid_loss", "accuracy", "time"] and len(table) == 2


def test_a_csv_under_another_name(learn):
    learn.fit(1, cbs=CSVLogger(fname="mine.csv"))
    assert (learn.path / "mine.csv").exists()


def test_a_csv_that_goes_on(learn):
    learn.fit(1, cbs=CSVLogger())
    learn.fit(1, cbs=CSVLogger(append=True))
    assert len((learn.path / "history.csv").read_text().splitlines()) == 4


def test_a_csv_in_the_constructor(again):
    learn = again(cbs=CSVLogger())
    learn.fit(2)
    assert len(learn.csv_logger.read_log()) == 2


def test_a_csv_survives_predictions(again):
    learn = again(cbs=CSVLogger())
    learn.fit(1)
    learn.get_preds()
    assert len(learn.csv_logger.read_log()) == 1


def test_a_csv_without_bars(again):
    learn = again(cbs=CSVLogger())
    with learn.no_bar():
        learn.fit(1)
        learn.fit(2)
    assert len(learn.csv_logger.read_log()) == 2


def test_the_csv_says_what_the_table_says(learn):
    learn.fit(1, cbs=CSVLogger())
    table = pd.read_csv(learn.path / "history.csv")
    assert float(table.valid_loss[0]) == pytest.approx(learn.recorder.values[0][1], rel=1e-4)


# 17


@departs(
    HELD_OUT,
    "choose by the test images",
)
def test_early_stopping_by_the_test_images(learn):
    learn.fit(3, cbs=EarlyStoppingCallback(patience=1))


@departs(
    HELD_OUT,
    "choose by the test images",
)
def test_the_best_epoch_by_the_test_images(learn):
    learn.fit(1, cbs=SaveModelCallback())


@departs(
    HELD_OUT,
    "choose by the test images",
)
def test_a_rate_reduced_by_the_test_images(learn):
    learn.fit(1, cbs=ReduceLROnPlateau())


@pytest.mark.parametrize("cb", [EarlyStoppingCallback, SaveModelCallback, ReduceLROnPlateau], ids=lambda o: o.__name__)
def test_a_tracker_in_the_constructor_hinders_no_prediction(again, cb):
    learn = again(cbs=cb(monitor="train_loss"))
    learn.fit(1)
    assert len(learn.get_preds()[0]) == 8 and len(learn.validate()) == 2
    learn.lr_find(num_it=10, show_plot=False, suggest_funcs=None)


def test_a_tracker_in_the_constructor_hinders_no_prediction_of_an_untrained_learner(again):
    learn = again(cbs=[EarlyStoppingCallback(), ReduceLROnPlateau()])
    assert len(learn.get_preds()[0]) == 8 and len(learn.validate()) == 2


def test_early_stopping_ends_the_fit(choosing):
    choosing.fit(5, cbs=[Says(1, 2, 3, 4, 5), EarlyStoppingCallback(patience=2)])
    assert choosing.epoch == 2


def test_early_stopping_goes_on_while_it_gets_better(choosing):
    choosing.fit(3, cbs=[Says(3, 2, 1), EarlyStoppingCallback()])
    assert choosing.epoch == 2


def test_early_stopping_by_a_metric(choosing):
    choosing.fit(2, cbs=EarlyStoppingCallback(monitor="accuracy", comp=np.greater, min_delta=0.1, patience=5))
    assert choosing.epoch == 1


def test_early_stopping_with_a_least_gain(choosing):
    choosing.fit(3, cbs=[Says(1.0, 0.95, 0.9), EarlyStoppingCallback(min_delta=0.1)])
    assert choosing.epoch == 1


def test_early_stopping_of_an_unknown_column(choosing):
    with pytest.raises((AssertionError, IndexError)):
        choosing.fit(1, cbs=EarlyStoppingCallback(monitor="valid_los"))


def test_early_stopping_in_one_cycle(choosing):
    choosing.fit_one_cycle(4, 0.01, cbs=[Says(1, 2, 3, 4), EarlyStoppingCallback()])
    assert choosing.epoch == 1


def test_early_stopping_begins_anew_in_the_next_fit(choosing):
    cb = EarlyStoppingCallback(patience=1)
    choosing.fit(3, cbs=[Says(1, 2, 3), cb])
    choosing.fit(2, cbs=[Says(9, 8), cb])
    assert choosing.epoch == 1


def test_the_best_epoch_is_loaded(choosing):
    kept = []

    class Keeps(Callback):
        order = 70

        def after_epoch(self):
            kept.append([p.detach().clone() for p in self.model.parameters()])

    choosing.fit(3, 0.01, cbs=[Says(2, 1, 3), SaveModelCallback(fname="best"), Keeps()])
    assert all(torch.equal(a, b) for a, b in zip(kept[1], choosing.model.parameters()))
    assert (choosing.path / "models/best.pth").exists()


def test_every_epoch_is_saved(choosing):
    choosing.fit(2, cbs=SaveModelCallback(every_epoch=True, fname="stage"))
    assert [(choosing.path / f"models/stage_{i}.pth").exists() for i in range(3)] == [True, True, False]


def test_every_epoch_is_saved_whatever_the_images(learn):
    learn.fit(2, cbs=SaveModelCallback(every_epoch=True, fname="stage"))
    assert (learn.path / "models/stage_1.pth").exists()


def test_saved_at_the_end(choosing):
    choosing.fit(2, cbs=[Says(1, 2), SaveModelCallback(at_end=True, fname="last")])
    saved = torch.load(choosing.path / "models/last.pth")
    assert all(torch.equal(saved[k], v) for k, v in choosing.model.state_dict().items())


def test_saved_with_the_optimizer(choosing):
    choosing.fit(1, cbs=SaveModelCallback(with_opt=True))
    assert "opt" in torch.load(choosing.path / "models/model.pth", weights_only=False)


def test_the_best_by_accuracy(choosing):
    choosing.fit(2, cbs=SaveModelCallback(monitor="accuracy"))
    assert choosing.get_preds()[0].shape[1] == 4


def test_two_trackers_at_once(choosing):
    choosing.fit(4, cbs=[Says(1, 2, 3, 4), EarlyStoppingCallback(patience=2), SaveModelCallback(fname="best")])
    assert choosing.epoch == 2


def test_a_rate_reduced_on_a_plateau(choosing):
    rates = []

    class Looks(Callback):
        order = 80

        def after_epoch(self):
            rates.append(self.opt.hypers[-1]["lr"])

    choosing.fit(3, 0.01, cbs=[Says(1, 2, 3), ReduceLROnPlateau(patience=1), Looks()])
    assert rates == pytest.approx([0.01, 0.001, 0.0001])


def test_a_rate_reduced_to_its_floor(choosing):
    choosing.fit(3, 0.01, cbs=[Says(1, 2, 3), ReduceLROnPlateau(patience=1, min_lr=0.005)])
    assert choosing.opt.hypers[-1]["lr"] == pytest.approx(0.005)


def test_a_rate_reduced_by_another_factor(choosing):
    choosing.fit(2, 0.01, cbs=[Says(1, 2), ReduceLROnPlateau(patience=1, factor=2)])
    assert choosing.opt.hypers[-1]["lr"] == pytest.approx(0.005)


def test_a_reduced_rate_says_so(choosing, capsys):
    choosing.fit(2, 0.01, cbs=[Says(1, 2), ReduceLROnPlateau(patience=1)])
    assert "reducing lr to 0.001" in capsys.readouterr().out


def test_a_rate_is_reduced_in_all_groups(choosing):
    choosing.fit(2, 0.01, cbs=[Says(1, 2), ReduceLROnPlateau(patience=1)])
    assert [h["lr"] for h in choosing.opt.hypers] == pytest.approx([0.001] * len(choosing.opt.hypers))


def test_an_own_tracker(choosing):
    class Counts(TrackerCallback):
        n = 0

        def after_epoch(self):
            super().after_epoch()
            Counts.n += self.new_best

    choosing.fit(3, cbs=[Says(3, 2, 5), Counts()])
    assert Counts.n == 2


def test_a_fit_ends_at_nan(learn):
    learn.loss_func = lambda pred, y: pred.sum() * float("nan")
    learn.fit(2, cbs=TerminateOnNaNCallback())
    assert learn.epoch == 0


def test_a_fit_goes_on_where_nothing_is_nan(learn):
    learn.fit(2, cbs=TerminateOnNaNCallback())
    assert learn.epoch == 1


@pytest.mark.parametrize("rows", [1, 2])
def test_tensorboard(learn, tmp_path, rows):
    pytest.importorskip("tensorboard")
    from fastai.callback.tensorboard import TensorBoardCallback

    learn.fit(rows, cbs=TensorBoardCallback(tmp_path / "logs", trace_model=False, log_preds=False))
    assert list((tmp_path / "logs").iterdir())
