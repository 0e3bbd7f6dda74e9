"""Figures of trainings."""

import pytest

from cifar_fast.analysis.charts import History, plot_complexity, plot_curves
from cifar_fast.training.learner import custom_learner


def values(line):
    return [float(o) for o in line.get_ydata()]


def test_curves_show_accuracies_losses_and_rates_of_several_trainings():
    rows = [{"accuracy": "0.5", "train_accuracy": 0.6, "valid_loss": 2, "train_loss": ""}, {"accuracy": 0.7}]
    fig = plot_curves(History("one", rows, [0.1, 0.01]), History("two", rows[:1]), title="what")
    lines = fig.axes[0].lines
    assert values(lines[1]) == [0.5, 0.7] and values(lines[3]) == [0.5]
    assert values(fig.axes[2].lines[0]) == [0.1, 0.01]
    assert {"one", "two"} <= {o.get_text() for o in fig.legends[0].texts}


def test_curves_of_a_fitted_learner(digits_dls):
    learn = custom_learner(digits_dls, width=4, dense_width=16, precision="fp32")
    learn.fit(2, 1e-3)
    fig = plot_curves(learn)
    assert values(fig.axes[0].lines[1]) == pytest.approx([o[2] for o in learn.recorder.values])
    assert len(fig.axes[2].lines[0].get_ydata()) == 2 * len(learn.dls.train)


def test_axes_show_whole_epochs_and_possible_accuracies():
    perfect = History(
        "perfect", [{"accuracy": 1.0, "train_accuracy": 1.0, "train_loss": 0.1, "valid_loss": 0.1}], [0.1]
    )
    ax = plot_curves(perfect).axes[0]
    low, high = ax.get_xlim()
    assert [o for o in ax.get_xticks() if low <= o <= high] == [1] and max(ax.get_yticks()) <= 1 + 1e-9


def test_complexity_sets_accuracy_against_operations():
    results = {
        "small": {"params": 1e6, "macs": 10e6, "accuracy": 0.7, "peak_memory_mb": 100, "images_per_second": 5000},
        "large": {"params": 10e6, "macs": 50e6, "accuracy": 0.6, "peak_memory_mb": 300, "images_per_second": None},
    }
    fig = plot_complexity(results, "what")
    fig.canvas.draw()
    points = [o.get_offsets()[0].tolist() for o in fig.axes[0].collections]
    assert points == [[10, 0.7], [50, 0.6]]
    sizes = [o.get_sizes()[0] for o in fig.axes[0].collections]
    assert sizes[1] > sizes[0]
    assert [o.get_width() for o in fig.axes[1].patches] == [100, 300]


def test_predicting_does_not_change_the_curves_of_the_last_fit(digits_dls):
    learn = custom_learner(digits_dls, width=4, dense_width=8, precision="fp32")
    learn.fit(2)
    before = History.of(learn)
    learn.validate()
    learn.get_preds()
    assert History.of(learn) == before and len(before.lrs) == 2 * 23 and "train_loss" in before.epochs[0]
    labels = [o.get_text() for o in plot_curves(learn, learn).legends[0].get_texts()]
    assert {"CustomCNN (1)", "CustomCNN (2)"} <= set(labels)
