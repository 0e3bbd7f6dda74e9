"""Temperature, selective accuracy, images of no class, and several models together."""

import pytest
import torch

from cifar_fast.analysis.confidence import (
    fit_temperature,
    ood_auroc,
    plot_energies,
    plot_selective,
    selective_accuracy,
    with_temperature,
)
from cifar_fast.analysis.ensemble import ensemble
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.errors import InputError

VOCAB = ["a", "b", "c"]


@pytest.fixture
def boastful():
    "Predictions three times as sure as they are right."
    logits = torch.randn(4000, 3) * 1.5
    labels = torch.multinomial(logits.softmax(1), 1).flatten()
    return Predictions((logits * 3).softmax(1), labels, VOCAB)


def test_the_temperature_undoes_what_made_them_too_sure(boastful):
    temperature = fit_temperature(boastful)
    after = with_temperature(boastful, temperature)
    assert temperature == pytest.approx(3, rel=0.1)
    assert after.decoded.equal(boastful.decoded)
    assert after.reliability().expected_error < 0.03 < 0.1 < boastful.reliability().expected_error
    with pytest.raises(InputError, match="held-out"):
        fit_temperature(Predictions(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), VOCAB))


def test_fewer_answers_are_better_ones(boastful):
    found = selective_accuracy(boastful)
    assert found.accuracy_at(1) == pytest.approx(boastful.accuracy)
    assert found.accuracy_at(0.2) > found.accuracy_at(0.6) > found.accuracy_at(1)
    share = found.share_at(0.9)
    assert 0 < share < 1 and found.accuracy_at(share) >= 0.9 and found.share_at(1.1) == 0
    assert plot_selective(boastful).axes


def test_energy_tells_what_is_foreign():
    known, ood = torch.eye(3).repeat(10, 1) * 9, torch.randn(50, 3)
    assert ood_auroc(known, ood) == 1 and ood_auroc(ood, known) == 0
    assert ood_auroc(known, known) == 0.5 and plot_energies(known, ood).axes


def members():
    "Three models, each sure and right but for a third of its own, where it is wrong and not so sure."
    labels = torch.arange(300) % 3
    found = []
    for i in range(3):
        probs = torch.full((300, 3), 0.05)
        probs[torch.arange(300), labels] = 0.9
        wrong = torch.arange(i * 100, i * 100 + 100)
        probs[wrong] = 0.2
        probs[wrong, (labels[wrong] + 1) % 3] = 0.6
        found.append(Predictions(probs, labels, VOCAB))
    return found


def test_an_ensemble_gains_where_its_members_err_apart():
    found = ensemble(members())
    assert found.mean.accuracy == 1 and found.gain == pytest.approx(1 / 3)
    low, high, p = found.gain_test()
    assert 0.3 < low < 0.34 and high < 0.36 and p < 1e-9
    assert found.disagreement() == pytest.approx(2 / 3)
    assert found.by_size()[1] == pytest.approx((2 / 3, 2 / 3, 2 / 3)) and found.by_size()[3][0] == 1


def test_of_many_ensembles_some_are_drawn_whichever_the_first_member_is():
    labels = torch.zeros(4, dtype=torch.long)
    sure, unsure = (Predictions(torch.tensor([o] * 4), labels, VOCAB) for o in ([1.0, 0, 0], [0.45, 0.55, 0]))
    mean, least, most = ensemble([sure, *[unsure] * 11]).by_size()[6]  # right with the first, which half of them have
    assert (least, most) == (0, 1) and 0.4 < mean < 0.6


def test_copies_of_one_model_gain_nothing():
    found = ensemble([members()[0]] * 2)
    assert found.gain == 0 and found.gain_test() == (0, 0, 1) and found.disagreement() == 0


def test_what_makes_no_ensemble_is_refused():
    one = members()[0]
    for other in ([], [Predictions(one.preds, one.targs.flip(0), VOCAB)], [Predictions(one.preds, one.targs, "xyz")]):
        with pytest.raises(InputError):
            ensemble([one, *other])
