"""What people do after training, as in fastai's notebook 20_interpret."""

import numpy as np
import pytest
import torch
from fastai.interpret import ClassificationInterpretation, Interpretation

from habits.table import only


def test_interpretation_from_a_learner(learn):
    interp = Interpretation.from_learner(learn)
    assert interp.losses.shape == (8,)


def test_losses_are_those_of_validate(learn):
    interp = Interpretation.from_learner(learn)
    assert interp.losses.mean().item() == pytest.approx(learn.validate()[0], rel=1e-3)


def test_interpretation_of_the_training_images(learn):
    assert len(ClassificationInterpretation.from_learner(learn, ds_idx=0).losses) == 16


def test_interpretation_of_a_loader(learn, photos):
    files = sorted((photos / "valid").rglob("*.png"))
    dl = learn.dls.test_dl(files, with_labels=True)
    interp = ClassificationInterpretation.from_learner(learn, dl=dl)
    assert interp.confusion_matrix().sum() == 8


def test_confusion_matrix(learn):
    matrix = ClassificationInterpretation.from_learner(learn).confusion_matrix()
    assert matrix.shape == (4, 4) and matrix.sum(1).tolist() == [2, 2, 2, 2]


def test_the_diagonal_is_the_accuracy(learn):
    matrix = ClassificationInterpretation.from_learner(learn).confusion_matrix()
    assert np.trace(matrix) / 8 == pytest.approx(learn.validate()[1])


def test_plot_confusion_matrix(learn):
    import matplotlib.pyplot as plt

    ClassificationInterpretation.from_learner(learn).plot_confusion_matrix(figsize=(3, 3), normalize=True)
    labels = [o.get_text() for o in plt.gca().get_xticklabels()]
    plt.close("all")
    assert labels == ["bird", "cat", "dog", "frog"]


def test_most_confused(learn):
    pairs = ClassificationInterpretation.from_learner(learn).most_confused()
    assert sum(n for _, _, n in pairs) == 8 - round(8 * learn.validate()[1])
    assert all(a in learn.dls.vocab and b in learn.dls.vocab for a, b, _ in pairs)


def test_classification_report(learn, capsys):
    ClassificationInterpretation.from_learner(learn).print_classification_report()
    said = capsys.readouterr().out
    assert "precision" in said and "frog" in said


def test_top_losses(learn):
    losses, idxs = Interpretation.from_learner(learn).top_losses(3)
    assert len(losses) == len(idxs) == 3 and losses[0] >= losses[1] >= losses[2]


def test_all_losses_in_order(learn):
    _, idxs = Interpretation.from_learner(learn).top_losses()
    assert sorted(idxs.tolist()) == list(range(8))


def test_the_least_losses(learn):
    losses, _ = Interpretation.from_learner(learn).top_losses(2, largest=False)
    assert losses[0] <= losses[1]


def test_plot_top_losses(learn):
    import matplotlib.pyplot as plt

    ClassificationInterpretation.from_learner(learn).plot_top_losses(4, nrows=2)
    titles = [ax.get_title() for ax in plt.gcf().axes]
    plt.close("all")
    assert any(" / " in o for o in titles)


def test_plot_the_least_losses(learn):
    ClassificationInterpretation.from_learner(learn).plot_top_losses(2, largest=False)


def test_plot_a_range_of_losses(learn):
    ClassificationInterpretation.from_learner(learn).plot_top_losses(range(2), figsize=(4, 4))


def test_show_results_of_some(learn):
    ClassificationInterpretation.from_learner(learn).show_results([0, 3])


def test_one_item_of_an_interpretation(learn):
    inputs, preds, targs, decoded, loss = Interpretation.from_learner(learn)[[1, 2]]
    assert inputs.shape == (2, 3, 16, 16) and preds.shape == (2, 4) and len(targs) == len(decoded) == len(loss) == 2


def test_items_of_the_greatest_losses(learn):
    _, _, items = Interpretation.from_learner(learn).top_losses(2, items=True)
    assert len(items) == 2


@only("stock", "custom", "transfer", "cached")  # the record recipe's loss smooths labels
def test_the_greatest_loss_is_of_that_image(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    losses, idxs = interp.top_losses(1)
    _, preds, targs, _, _ = interp[idxs]
    assert -preds[0, targs[0]].log().item() == pytest.approx(losses[0].item(), rel=0.05)


def test_the_vocab_of_an_interpretation(learn):
    assert list(ClassificationInterpretation.from_learner(learn).vocab) == ["bird", "cat", "dog", "frog"]


def test_an_interpretation_after_a_fit(learn):
    learn.fit(1)
    assert ClassificationInterpretation.from_learner(learn).confusion_matrix().sum() == 8


def test_an_interpretation_by_an_activation_of_ones_own(learn):
    interp = Interpretation.from_learner(learn, act=torch.sigmoid)
    assert (interp[[0]][1] <= 1).all()
