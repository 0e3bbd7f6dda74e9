"""Several models of the same images together: what their mean says, and what of the gain is chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from random import Random

import numpy as np
import torch

from cifar_fast.analysis.predictions import Predictions
from cifar_fast.analysis.stats import CONFIDENCE
from cifar_fast.errors import InputError

MOST_SUBSETS = 200  # of each size


@dataclass(frozen=True)
class Ensemble:
    "The mean of several models' probabilities, beside the models."

    members: list[Predictions]
    mean: Predictions

    @property
    def gain(self) -> float:
        "Accuracy above the members' mean accuracy."
        return self.mean.accuracy - float(np.mean([o.accuracy for o in self.members]))

    def gain_test(self) -> tuple[float, float, float]:
        """Ends of the gain's 95 % interval over test images, and p that it is chance: a paired t-test.

        It speaks of these trained models; the members' own chance is theirs, which more seeds would show.
        """
        from scipy.stats import ttest_1samp

        mean_right = torch.stack([o.right for o in self.members]).double().mean(0)
        found = ttest_1samp((self.mean.right.double() - mean_right).numpy(), 0)
        low, high = found.confidence_interval(CONFIDENCE)
        if np.isnan(found.pvalue):  # all models say the same of every image
            return self.gain, self.gain, 1.0
        return float(low), float(high), float(found.pvalue)

    def disagreement(self) -> float:
        "Share of images, over all pairs of members, of which the two say different classes."
        pairs = combinations([o.decoded for o in self.members], 2)
        return float(np.mean([(one != other).double().mean().item() for one, other in pairs]))

    def by_size(self) -> dict[int, tuple[float, float, float]]:
        "Mean, least and largest accuracy of ensembles of so many of the members; where there are many, of 200 drawn."
        found, random = {}, Random(0)
        for n in range(1, len(self.members) + 1):
            subsets = combinations(self.members, n)
            if comb(len(self.members), n) > MOST_SUBSETS:
                subsets = (random.sample(self.members, n) for _ in range(MOST_SUBSETS))
            values = [_mean(list(o)).accuracy for o in subsets]
            found[n] = float(np.mean(values)), min(values), max(values)
        return found


def ensemble(
    members: Sequence[Predictions],  # two or more, of the same images
) -> Ensemble:
    "Average probabilities. Raises `InputError` for fewer than two, other images or other classes."
    members = list(members)
    if len(members) < 2:
        raise InputError("an ensemble needs two models or more: train with --seeds 3")
    first = members[0]
    if any(not torch.equal(o.targs, first.targs) or list(o.vocab) != list(first.vocab) for o in members):
        raise InputError("these predictions are of different images or classes: an ensemble needs the same")
    return Ensemble(members, _mean(members))


def _mean(members: list[Predictions]) -> Predictions:
    return Predictions(torch.stack([o.preds for o in members]).mean(0), members[0].targs, members[0].vocab)
