"""The learning rate of each batch is the schedule's."""

import numpy as np
import pytest
from fastai.callback.core import Callback

import cifar_fast.training.schedules  # noqa: F401 - fit_decay
from cifar_fast.data.loaders import image_dls
from cifar_fast.training.learner import custom_learner, transfer_learner
from cifar_fast.training.schedules import DECAYS, LRDecay, SchedStep


@pytest.fixture(scope="module")
def dls(digits):
    "Four training batches of 16."
    return image_dls(digits.fewer(64, 16), bs=16, device="cpu")


def rates(learn, *args, **kwargs):
    learn.fit_decay(*args, **kwargs)
    return np.array(learn.recorder.hps["lr"])


def small(dls):
    return custom_learner(dls, precision="fp32", width=4, dense_width=8)


@pytest.mark.parametrize("kind", sorted(set(DECAYS) - {"constant"}))
def test_the_first_batch_has_the_first_rate_and_the_last_the_last(dls, kind):
    lrs = rates(small(dls), 3, 1e-3, 8e-5, kind=kind)
    assert len(lrs) == 12
    assert lrs[0] == pytest.approx(1e-3, rel=1e-12) and lrs[-1] == pytest.approx(8e-5, rel=1e-12)
    assert (np.diff(lrs) <= 0).all()


def test_exponential_decay_multiplies_by_the_same_factor(dls):
    lrs = rates(small(dls), 3, 1e-3, 8e-5)
    np.testing.assert_allclose(lrs[1:] / lrs[:-1], 0.08 ** (1 / 11), rtol=1e-12)


def test_linear_decay_subtracts_the_same_amount(dls):
    np.testing.assert_allclose(np.diff(rates(small(dls), 1, 4e-3, 1e-3, kind="linear")), -1e-3)


def test_steps_are_levels_a_constant_factor_apart():
    step = SchedStep(1.0, 0.01)
    levels = [step(o) for o in np.linspace(0, 1, 30)]
    assert sorted(set(np.round(levels, 9))) == [0.01, 0.1, 1.0]


def test_a_constant_rate_stays_and_defaults_are_the_learners(dls):
    assert set(rates(small(dls), 2, 3e-3, kind="constant")) == {3e-3}
    lrs = rates(small(dls), 1)
    assert (lrs[0], lrs[-1]) == pytest.approx((1e-3, 1e-5))


def test_slices_spread_over_layer_groups(dls):
    learn = transfer_learner(dls, weights="none", precision="fp32")
    seen = []

    class Spy(Callback):
        def after_batch(self):
            if self.training:
                seen.append([h["lr"] for h in self.opt.hypers])

    rates(learn, 1, slice(1e-5, 1e-3), slice(1e-6, 1e-4), cbs=Spy())
    np.testing.assert_allclose(seen[0], [1e-5, 1e-4, 1e-3], rtol=1e-9)
    np.testing.assert_allclose(seen[-1], [1e-6, 1e-5, 1e-4], rtol=1e-9)


def test_a_fit_of_one_batch_takes_the_first_rate(digits):
    assert rates(small(image_dls(digits.fewer(16, 16), bs=16, device="cpu")), 1, 1e-3, 8e-5).tolist() == [1e-3]


@pytest.mark.parametrize("args", [(1e-3, 0.0), (-1.0, 1e-3), (1e-3, 1e-4, "spiral")])
def test_rates_that_make_no_sense_are_refused(args):
    with pytest.raises(ValueError, match=r"above 0|spiral"):
        LRDecay(*args)


def test_start_epoch_continues_the_schedule(dls):
    whole = rates(small(dls), 3, 1e-3, 8e-5)
    np.testing.assert_allclose(rates(small(dls), 3, 1e-3, 8e-5, start_epoch=2), whole[8:])
