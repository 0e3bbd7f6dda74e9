"""What people do with metrics, the recorder and its table, as in fastai's notebook 13a_learner."""

from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import AvgLoss, AvgMetric, Metric
from fastai.metrics import F1Score, Perplexity, RocAuc, accuracy, error_rate, top_k_accuracy
from fastcore.foundation import L


def test_no_logging(learn, capsys):
    with learn.no_logging():
        learn.fit(1)
    assert "valid_loss" not in capsys.readouterr().out


def test_no_bar_takes_the_progress_away_for_a_while(learn):
    with learn.no_bar():
        assert not hasattr(learn, "progress")
        learn.fit(1)
    assert isinstance(learn.progress, ProgressCallback)


def test_no_bar_shows_rows_all_the_same(learn, capsys):
    with learn.no_bar():
        learn.fit(1)
    assert "[0," in capsys.readouterr().out


def test_an_own_logger(learn):
    lines = []
    learn.logger = lines.append
    with learn.no_bar():
        learn.fit(2)
    assert [o[0] for o in lines] == [0, 1]


def test_an_own_logger_is_there_again_after_a_fit_with_bars(learn):
    lines = []
    learn.logger = lines.append
    learn.fit(1)
    assert learn.logger == lines.append


def test_metrics_may_be_replaced(learn):
    learn.metrics = [error_rate, accuracy]
    learn.fit(1)
    assert list(learn.recorder.metric_names)[:5] == ["epoch", "train_loss", "valid_loss", "error_rate", "accuracy"]


def test_a_partial_is_a_metric(learn):
    learn.metrics = AvgMetric(partial(top_k_accuracy, k=2))
    assert learn.validate()[1] >= 0.0 and learn.metrics[0].name == "top_k_accuracy"


@pytest.mark.parametrize("metric", [F1Score(average="macro"), Perplexity()], ids=["F1Score", "Perplexity"])
def test_metrics_of_whole_data_sets(learn, metric):
    learn.metrics = metric
    learn.fit(1)
    assert learn.recorder.values[-1][2] >= 0


def test_roc_auc_takes_probabilities(learn):
    learn.metrics = RocAuc()
    assert 0 <= learn.validate()[1] <= 1


def test_an_own_metric(learn):
    class Images(Metric):
        def reset(self):
            self.n = 0

        def accumulate(self, learn):
            self.n += len(learn.y)

        @property
        def value(self):
            return self.n

    learn.metrics = Images()
    learn.fit(1)
    assert learn.recorder.values[-1][-1] == 8 and learn.recorder.metric_names[3] == "images"


def test_metrics_as_a_keyword(again):
    assert again(metrics=[error_rate, accuracy]).metrics.attrgot("name") == ["error_rate", "accuracy"]


def test_without_metrics(learn):
    learn.metrics = None
    assert len(learn.validate()) == 1


def test_a_further_metric_by_adding(learn):
    learn.metrics = learn.metrics + L(AvgMetric(error_rate))
    _, acc, error = learn.validate()
    assert acc + error == pytest.approx(1)


def test_avg_loss_as_a_metric(learn):
    learn.metrics = AvgLoss()
    loss, again = learn.validate()
    assert loss == pytest.approx(again)


def test_the_table_has_a_row_an_epoch(learn):
    learn.fit(3)
    assert [len(o) for o in learn.recorder.values] == [3, 3, 3]


def test_names_of_the_columns(learn):
    learn.fit(1)
    assert list(learn.recorder.metric_names) == ["epoch", "train_loss", "valid_loss", "accuracy", "time"]


def test_losses_and_rates_of_each_batch(learn):
    learn.fit(2, 0.01)
    assert len(learn.recorder.losses) == 4 and learn.recorder.lrs == [0.01] * 4


def test_losses_are_plain_numbers_on_the_cpu(learn):
    learn.fit(1)
    assert np.array(torch.stack(list(map(torch.as_tensor, learn.recorder.losses)))).shape == (2,)


def test_batches_at_the_end_of_each_epoch(learn):
    learn.fit(2)
    assert list(learn.recorder.iters) == [2, 4]


def test_final_record(learn):
    learn.fit(1)
    assert list(learn.final_record) == list(learn.recorder.values[-1])


def test_the_valid_loss_of_the_table_is_that_of_validate(learn):
    learn.fit(1)
    wanted = learn.recorder.values[-1][1]
    assert learn.validate()[0] == pytest.approx(wanted)


def test_plot_loss(learn):
    learn.fit(4)
    axes = learn.recorder.plot_loss(skip_start=0)
    assert len(axes.lines[0].get_xdata()) == 8


def test_plot_loss_by_epochs(learn):
    learn.fit(3)
    learn.recorder.plot_loss(skip_start=0, show_epochs=True, with_valid=True)


def test_metrics_of_training_batches(learn):
    learn.recorder.train_metrics = True
    learn.fit(1)
    names = list(learn.recorder.metric_names)
    assert "train_accuracy" in names and "valid_accuracy" in names


def test_without_the_seconds(learn):
    learn.recorder.add_time = False
    learn.fit(1)
    assert "time" not in learn.recorder.metric_names


def test_smooth_loss(learn):
    learn.fit(1)
    assert float(learn.smooth_loss) > 0
