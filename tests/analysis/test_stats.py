"""Intervals and tests."""

import pytest
import torch

from cifar_fast.analysis.stats import (
    accuracy_interval,
    compare_methods,
    compare_models,
    holm,
    mean_interval,
    seeds_needed,
    share_interval,
)


def right(*spans, n=1000):
    res = torch.zeros(n, dtype=torch.bool)
    for a, b in spans:
        res[a:b] = True
    return res


def test_mcnemar_counts_only_the_images_that_one_has_right():
    found = compare_models(right((0, 500)), right((10, 540)))  # 10 lost, 40 won
    assert found.difference == pytest.approx(0.03)
    assert found.p == pytest.approx(2.386e-05, rel=1e-3)  # exact binomial, 10 of 50
    assert found.verdict == "better" and found.low < 0.03 < found.high
    assert "40 won, 10 lost" in found.test


def test_the_same_predictions_do_not_differ():
    found = compare_models(right((0, 500)), right((0, 500)))
    assert (found.difference, found.p, found.verdict) == (0, 1, "no detectable difference")


def test_as_many_won_as_lost_is_no_difference_and_fewer_is_worse():
    assert compare_models(right((0, 500)), right((20, 520))).verdict == "no detectable difference"
    assert compare_models(right((0, 500)), right((100, 510))).verdict == "worse"


def test_methods_are_compared_over_seeds():
    found = compare_methods([0.70, 0.71, 0.72], [0.75, 0.76, 0.77])
    assert found.verdict == "better" and found.difference == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05 - 2.776 * 0.01 * (2 / 3) ** 0.5, abs=1e-4)  # t of 4 degrees of freedom
    assert compare_methods([0.70, 0.80], [0.72, 0.83]).verdict == "no detectable difference"


def test_the_interval_of_a_mean_is_students():
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert mean_interval([5.0]) == (5.0, None)


def test_an_interval_of_accuracies_goes_from_0_to_1_at_most():
    assert accuracy_interval([0.1, 0.9]) == (0.0, 1.0) and accuracy_interval([0.5]) is None


def test_the_interval_of_a_share_stays_within_its_bounds():
    low, high = share_interval(100, 100)
    assert high == pytest.approx(1) and 0.95 < low < 0.97
    assert share_interval(50, 100)[0] == pytest.approx(0.4038, abs=1e-3)


def test_several_tests_are_corrected_by_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.02]) == [0.02]


def test_seeds_needed_are_those_of_a_t_test():
    assert seeds_needed(0.5, 1.0) == 64  # Cohen 1988, table 2.4.1: d = 0.5 at 80 % power and 5 %, two-sided
    assert seeds_needed(0.8, 1.0) == 26
    assert seeds_needed(0.001, 1.0) is None and seeds_needed(0.0, 1.0) is None and seeds_needed(0.1, 0.0) == 2


@pytest.mark.filterwarnings("error")
def test_accuracies_without_spread_tell_nothing_and_warn_of_nothing():
    assert compare_methods([0.5, 0.5], [0.5, 0.5]).verdict == "no detectable difference"
    found = compare_methods([0.5, 0.5], [0.6, 0.6])
    assert found.verdict == "no detectable difference" and "no spread" in found.test
