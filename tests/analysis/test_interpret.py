"""Figures of predictions say what the predictions say, for few and for many classes."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure

from cifar_fast.analysis.interpret import (
    TestInterpretation,
    plot_calibration,
    plot_confused,
    plot_confusion,
    plot_confusion_difference,
    plot_per_class,
    plot_top_losses,
)
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.data.loaders import image_dls
from cifar_fast.training.learner import custom_learner


@pytest.fixture(scope="module")
def interp(digits):
    learn = custom_learner(image_dls(digits, device="cpu"), width=4, dense_width=16, precision="fp32")
    learn.fit(1)
    return TestInterpretation.from_learner(learn)


def random_predictions(n_classes):
    gen = torch.Generator().manual_seed(0)
    preds = torch.randn(500, n_classes, generator=gen).softmax(1)
    vocab = [f"a class with a long name {i}" for i in range(n_classes)]
    return Predictions(preds, torch.randint(0, n_classes, (500,), generator=gen), vocab)


def drawn(fig: Figure) -> str:
    fig.canvas.draw()
    titles = [fig.get_suptitle()] + [ax.get_title(loc) for ax in fig.axes for loc in ("left", "center")]
    return "\n".join(titles + [o.get_text() for ax in fig.axes for o in ax.texts])


def test_a_long_path_below_an_image_shows_that_it_is_cut(interp, monkeypatch):
    monkeypatch.setattr(interp.dl.dataset, "files", ["cat/0.png", "airplane/a_very_long_name_000043.png"])
    assert interp.caption(0) == "\ncat/0.png" and interp.caption(1, 20) == "\n…ong_name_000043.png"


@pytest.mark.parametrize("n_classes", [2, 10, 100])
@pytest.mark.parametrize("plot", [plot_confusion, plot_per_class, plot_calibration])
def test_figures_are_drawn_for_2_to_100_classes(plot, n_classes):
    fig = plot(random_predictions(n_classes), title="what this is")
    assert isinstance(fig, Figure) and "what this is" in drawn(fig)
    assert not any(ax.get_legend() for ax in fig.axes)  # which would hide what is drawn
    assert max(fig.get_size_inches()) <= 30


def test_figures_of_many_classes_name_those_that_matter_and_say_so():
    first, second = random_predictions(300), random_predictions(300)
    second.preds = second.preds.roll(1, 0)
    for fig in (plot_confusion(first), plot_confusion_difference(first, second)):
        assert "the 20 of 300 classes with most mistakes" in drawn(fig)
        assert len(fig.axes[0].get_xticks()) == 20
    counts = first.confusion_matrix()
    mistakes = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    named = [o.get_text() for o in plot_confusion(first).axes[0].get_xticklabels()]
    assert any(o.endswith(f" {mistakes.argmax()}") for o in named)
    fig = plot_per_class(first)
    assert "the 20 best and the 20 worst recognised of 300 classes" in drawn(fig)
    assert len(fig.axes[0].get_yticks()) == 40


def test_confusion_writes_counts_or_shares():
    preds = Predictions(torch.eye(2)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1]), ["cat", "dog"])
    assert [o.get_text() for o in plot_confusion(preds).axes[0].texts] == ["2", "0", "1", "1"]
    assert [o.get_text() for o in plot_confusion(preds, normalize=True).axes[0].texts] == ["100", "0", "50", "50"]


def test_confusion_difference_writes_what_the_second_has_more():
    first = Predictions(torch.eye(2)[[0, 0]], torch.tensor([0, 1]), ["cat", "dog"])
    second = Predictions(torch.eye(2)[[0, 1]], torch.tensor([0, 1]), ["cat", "dog"])
    texts = [o.get_text() for o in plot_confusion_difference(first, second).axes[0].texts]
    assert texts == ["+0", "+0", "-1", "+1"]


def test_top_losses_name_true_class_guess_probability_and_loss(interp):
    loss, i = (o[0].item() for o in interp.top_losses(1))
    text = drawn(plot_top_losses(interp, 5))
    guess = int(interp.preds[i].argmax())
    sides = [f"{interp.vocab[o]} ({interp.preds[i, o]:.0%})" for o in (int(interp.targs[i]), guess)]
    assert f"{sides[0]},\ntaken for\n{sides[1]}\nloss {loss:.1f}" in text


def test_top_losses_work_whichever_package_is_imported_last(interp):
    names = {}
    exec("from cifar_fast.all import *\nfrom fastai.vision.all import *", names)
    assert isinstance(names["plot_top_losses"](interp, 2), Figure)
    assert len(names["plot_top_losses"](interp, k=3, title="what").axes) == 3
    interp.plot_top_losses(2)  # fastai's own


def test_confused_images_are_of_the_one_class_and_taken_for_the_other(interp):
    true, other, n = interp.most_confused()[0]
    idxs = interp.confused(true, other)
    assert len(idxs) == n
    for i in idxs:
        assert interp.vocab[int(interp.targs[i])] == true and interp.vocab[int(interp.decoded[i])] == other
    assert f"{true}, taken for {other}: {n}" in drawn(plot_confused(interp))


def test_no_mistakes_is_a_figure_too(interp):
    perfect = TestInterpretation(interp.learn, interp.dl, interp.losses)
    perfect.preds, perfect.targs = torch.eye(10)[interp.targs], interp.targs
    assert "No image was taken for another class." in drawn(plot_confused(perfect))


def test_calibration_names_the_error():
    preds = random_predictions(10)
    assert f"{preds.reliability().expected_error:.1%}" in drawn(plot_calibration(preds))


def test_fastais_own_methods_work(interp):
    interp.plot_confusion_matrix()
    assert interp.most_confused(min_val=1) and interp.accuracy > 0.1


def test_no_figure_is_left_open_for_pyplot(interp):
    plt.close("all")
    plot_confusion(interp)
    plot_top_losses(interp, 2)
    assert plt.get_fignums() == []
