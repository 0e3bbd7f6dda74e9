"""Is a difference real? Intervals over seeds and over test images, and tests for two models or two methods."""

import warnings
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import inf, isnan, sqrt
from statistics import fmean, stdev, variance

import numpy as np
from torch import Tensor

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    "Two accuracies, the second minus the first, and whether chance alone would explain the difference."

    test: str  # what was compared, and how
    difference: float  # in [-1, 1]
    low: float  # of the 95 % interval
    high: float
    p: float  # chance of such a difference, or a larger one, without any reason
    deviation: float | None = None  # over the seeds of one method, pooled; None for two trained models
    names: str = "the second against the first"

    @property
    def verdict(self) -> str:
        "Better, worse, or no detectable difference, at 5 %."
        if not self.p < 1 - CONFIDENCE:
            return "no detectable difference"
        return "better" if self.difference > 0 else "worse"

    def __str__(self) -> str:
        points = f"{self.difference * 100:+.2f} points ({self.low * 100:+.2f} to {self.high * 100:+.2f})"
        return f"{self.names}: {points}, p = {self.p:.3g}: {self.verdict}. {self.test}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"


def mean_interval(
    values: Sequence[float],  # one a seed, or one a fold
    are_folds: bool = False,  # whether the trainings share images, as those of folds do
) -> tuple[float, float | None]:  # mean, and half of its 95 % interval; None for a single value
    """Student's interval of the mean over seeds; over folds, whose trainings are no independent ones, a wider one.

    Source: Nadeau and Bengio 2003, "Inference for the Generalization Error", the corrected resampled t-test.
    """
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return fmean(values), None
    share = 1 / n + (1 / (n - 1) if are_folds else 0)  # of the variance; 1 / (n - 1): images tested over trained
    return fmean(values), float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(values) * sqrt(share)


def accuracy_interval(values: Sequence[float], are_folds: bool = False) -> tuple[float, float] | None:
    "Ends of `mean_interval`, as of accuracies, which lie in [0, 1] whatever Student says of two seeds."
    mean, half = mean_interval(values, are_folds)
    return None if half is None else (max(0.0, mean - half), min(1.0, mean + half))


def share_interval(
    hits: int,  # right predictions
    n: int,  # images
) -> tuple[float, float]:  # ends of the 95 % interval
    "Wilson's interval of one model's accuracy over test images."
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def compare_models(
    first: Tensor,  # bool (N,): which test images the first model has right
    second: Tensor,  # bool (N,): the same images, the second model
) -> Comparison:
    """McNemar's exact test: do two trained models differ on these images?

    Only images that one has right and the other wrong count. The interval is the paired normal one. It speaks of
    these two models, not of the methods that trained them: another seed gives others. Source: McNemar 1947, "Note on
    the sampling error of the difference between correlated proportions or percentages".
    """
    from scipy.stats import binomtest

    n = len(first)
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    p = binomtest(won, won + lost).pvalue if won + lost else 1.0
    difference = (won - lost) / n
    half = 1.96 * sqrt(max(won + lost - (won - lost) ** 2 / n, 0)) / n
    test = f"McNemar's test on {n:,} images, two trained models: {won} won, {lost} lost"
    return Comparison(test, difference, difference - half, difference + half, float(p))


def compare_sets(
    first: Tensor,  # bool (N,): which images of one set the model has right
    second: Tensor,  # bool (M,): the same model, other images
) -> Comparison:
    """Fisher's exact test: is one set of images harder than the other for this model, by more than chance?

    The interval is Newcombe's, from Wilson's of each. Source: Newcombe 1998, "Interval estimation for the difference
    between independent proportions", method 10.
    """
    from scipy.stats import fisher_exact

    hits = [(int(o.sum()), len(o)) for o in (first, second)]
    (one, other), (bounds, other_bounds) = [o / n for o, n in hits], [share_interval(*o) for o in hits]
    low = sqrt((other - other_bounds[0]) ** 2 + (bounds[1] - one) ** 2)
    high = sqrt((other_bounds[1] - other) ** 2 + (one - bounds[0]) ** 2)
    p = fisher_exact([[o, n - o] for o, n in hits]).pvalue
    test = f"Fisher's exact test, {len(first):,} and {len(second):,} different images, one trained model"
    return Comparison(test, other - one, other - one - low, other - one + high, float(p))


def compare_methods(
    first: Sequence[float],  # accuracies, one a seed; at least two
    second: Sequence[float],
) -> Comparison:
    """Welch's test: do two ways of training differ, whatever the seed?

    Source: Welch 1947, "The generalization of Student's problem when several different population variances are
    involved".
    """
    from scipy.stats import ttest_ind

    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of accuracies without any spread
        result = ttest_ind(second, first, equal_var=False)
        low, high = result.confidence_interval(CONFIDENCE)
    test = f"Welch's test over seeds ({len(first)} and {len(second)}), two methods"
    deviation = sqrt((variance(first) + variance(second)) / 2)
    p = float(result.pvalue)
    low, high = (0.0, 0.0) if isnan(low) else (float(low), float(high))
    if not deviation:  # the test would be sure of whatever differs
        test, p = f"{test}, whose accuracies have no spread: nothing can be said", 1.0
    return Comparison(test, fmean(second) - fmean(first), low, high, p, deviation)


def holm(
    ps: Sequence[float],  # of several tests
) -> list[float]:  # in the same order
    """p-values corrected for being several: the chance of any false alarm among all of them stays at 5 %.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order, res = np.argsort(ps, kind="stable"), np.empty(len(ps))
    res[order] = np.maximum.accumulate(np.array(ps)[order] * np.arange(len(ps), 0, -1)).clip(max=1)
    return res.tolist()


MOST_SEEDS = 1000


def seeds_needed(
    difference: float,  # of two mean accuracies, in [0, 1]
    deviation: float,  # of one method's accuracy over seeds
    power: float = 0.8,  # chance of seeing the difference
) -> int | None:  # seeds of each of the two methods; None: more than 1,000
    """How many seeds a two-sided t-test at 5 % needs to see a difference that is really there.

    Source: Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", by the noncentral t distribution.
    """
    from scipy.stats import nct, t

    if not difference:
        return None

    def power_of(n: int) -> float:
        shift = difference / deviation * sqrt(n / 2) if deviation else inf
        return 1.0 if shift > 30 else nct.sf(t.ppf((1 + CONFIDENCE) / 2, 2 * n - 2), 2 * n - 2, shift)

    found = 2 + bisect_left(range(2, MOST_SEEDS + 1), power, key=power_of)
    return found if found <= MOST_SEEDS else None
