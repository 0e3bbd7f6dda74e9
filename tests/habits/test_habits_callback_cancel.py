"""How people end a fit early, on purpose or by an error, as in fastai's notebook 13_callback.core."""

import pytest
import torch
from fastai.callback.core import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
from fastai.learner import Recorder

from habits.probes import listening, weights
from habits.table import departs


def test_cancel_fit(learn):
    seen, cb = listening("after_cancel_fit", "after_fit", "after_epoch")

    class Stops(Callback):
        def after_batch(self):
            raise CancelFitException

    learn.fit(3, cbs=[Stops(), cb])
    assert seen == ["after_cancel_fit", "after_fit"] and learn.epoch == 0


def test_cancel_epoch(learn):
    seen, cb = listening("after_cancel_epoch", "before_validate")

    class Stops(Callback):
        def before_train(self):
            raise CancelEpochException

    learn.fit(2, cbs=[Stops(), cb])
    assert seen == ["after_cancel_epoch"] * 2


def test_cancel_train(learn):
    seen, cb = listening("after_cancel_train", "before_validate")

    class Stops(Callback):
        def after_batch(self):
            if self.training:
                raise CancelTrainException

    learn.fit(1, cbs=[Stops(), cb])
    assert seen == ["after_cancel_train", "before_validate"] and learn.train_iter == 1


def test_cancel_validate(learn):
    seen, cb = listening("after_cancel_validate", "after_pred")

    class Stops(Callback):
        def before_validate(self):
            raise CancelValidException

    learn.fit(1, cbs=[Stops(), cb])
    assert seen == ["after_pred"] * 2 + ["after_cancel_validate"]


def test_cancel_batch(learn):
    class Stops(Callback):
        def before_batch(self):
            raise CancelBatchException

    before = weights(learn)
    learn.metrics = None
    learn.remove_cbs([Recorder, *[cb for cb in learn.cbs if cb.name == "progress"]])
    learn.fit(1, cbs=Stops())
    assert all(torch.equal(a, b) for a, b in zip(before, weights(learn)))


def test_cancel_step(learn):
    class Stops(Callback):
        def before_step(self):
            raise CancelStepException

    before = weights(learn)
    learn.fit(1, cbs=Stops())
    assert all(torch.equal(a, b) for a, b in zip(before, weights(learn)))


def test_cancel_backward(learn):
    seen, cb = listening("after_cancel_backward", "after_backward")

    class Stops(Callback):
        def before_backward(self):
            raise CancelBackwardException

    before = weights(learn)
    learn.create_opt()
    learn.fit(1, cbs=[Stops(), cb])
    assert seen == ["after_cancel_backward", "after_backward"] * 2
    assert all(torch.equal(a, b) for a, b in zip(before, weights(learn)))


def test_an_error_in_a_callback_names_callback_and_event(learn):
    class Breaks(Callback):
        def after_pred(self):
            raise ValueError("too bad")

    with pytest.raises(ValueError, match="`Breaks` when calling event `after_pred`"):
        learn.fit(1, cbs=Breaks())


def test_an_error_leaves_no_callback_of_the_fit_behind(learn):
    class Breaks(Callback):
        def after_pred(self):
            raise ValueError("too bad")

    with pytest.raises(ValueError):
        learn.fit(1, cbs=Breaks())
    assert not hasattr(learn, "breaks")
    learn.fit(1)


def test_an_interrupted_fit_is_begun_anew(learn):
    class Stops(Callback):
        def after_batch(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Stops())
    learn.fit(1)
    assert len(learn.recorder.values) == 1


@departs("gradients of an interrupted batch are set to zero: on stock they count in the next fit")
def test_gradients_after_an_interrupted_batch(learn):
    class Stops(Callback):
        def after_backward(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Stops())
    left = any(p.grad is not None and p.grad.any() for p in learn.model.parameters())
    assert left == (learn.kind == "stock")
