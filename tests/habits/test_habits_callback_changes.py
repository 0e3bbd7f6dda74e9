"""What callbacks read and change in a fit, as in fastai's notebook 13_callback.core."""

import pytest
import torch
from fastai.callback.core import Callback, FetchPredsCallback, TrainEvalCallback
from fastai.learner import Metric
from fastai.optimizer import SGD

from habits.probes import weights
from habits.table import only


def test_a_callback_reads_the_learner_as_itself(learn):
    class Reads(Callback):
        def before_fit(self):
            self.found = self.model, self.dls, self.opt, self.n_epoch, self.loss_func

    cb = Reads()
    learn.fit(1, cbs=cb)
    assert cb.found == (learn.model, learn.dls, learn.opt, 1, learn.loss_func)


def test_writing_to_the_learner_needs_its_name(learn):
    class Changes(Callback):
        def after_loss(self):
            self.learn.loss_grad = self.loss_grad * 0

    grads = []
    learn.fit(1, cbs=[Changes(), Callback(before_step=lambda self: grads.extend(self.model.parameters()))])
    assert learn.loss_grad == 0 and grads


def test_shadowing_an_attribute_warns(learn):
    class Shadows(Callback):
        def before_fit(self):
            self.model = 1

    with pytest.warns(UserWarning, match="shadowing"):
        learn.fit(1, cbs=Shadows())


def test_a_callback_keeps_what_it_has_collected(learn):
    class Collects(Callback):
        def before_fit(self):
            self.losses = []

        def after_batch(self):
            if self.training:
                self.losses.append(self.loss.item())

    cb = Collects()
    learn.fit(2, cbs=cb)
    assert len(cb.losses) == 4 and len(set(cb.losses)) > 1


def test_a_callback_changes_the_inputs(learn):
    class Zeros(Callback):
        def before_batch(self):
            self.learn.xb = (torch.zeros_like(self.xb[0]),)

    learn.validate(cbs=Zeros())
    preds = learn.get_preds(cbs=Zeros())[0]
    assert torch.allclose(preds, preds[:1].expand_as(preds), atol=1e-5)


def test_a_callback_changes_the_predictions(learn):
    class Sure(Callback):
        def after_pred(self):
            self.learn.pred = torch.nn.functional.one_hot(self.y.long(), 4).float() * 99

    assert learn.validate(cbs=Sure())[1] == 1.0


def test_a_callback_changes_the_targets(learn):
    class Shifted(Callback):
        def before_batch(self):
            self.learn.yb = ((self.y + 1) % 4,)

    plain, shifted = learn.get_preds()[1], learn.get_preds(cbs=Shifted())[1]
    assert torch.equal((plain + 1) % 4, shifted)


def test_a_callback_changes_the_gradients(learn):
    class Still(Callback):
        def before_step(self):
            for p in self.model.parameters():
                if p.grad is not None:
                    p.grad.zero_()

    learn.opt_func, learn.opt = SGD, None
    before = weights(learn)
    learn.fit(1, wd=0.0, cbs=Still())
    assert all(torch.allclose(a, b) for a, b in zip(before, weights(learn)))


def test_a_callback_changes_a_rate_in_a_fit(learn):
    class Halves(Callback):
        def before_epoch(self):
            self.opt.set_hyper("lr", 0.01 / (1 + self.epoch))

    learn.fit(2, 0.01, cbs=Halves())
    assert learn.recorder.lrs == [0.01, 0.01, 0.005, 0.005]


def test_a_callback_unfreezes_in_a_fit(learn):
    class Unfreezes(Callback):
        def before_epoch(self):
            if self.epoch == 1:
                self.learn.unfreeze()

    learn.freeze()
    learn.fit(2, cbs=Unfreezes())
    assert all(p.requires_grad for group in learn.opt.param_lists for p in group)


def test_the_iteration_within_the_epoch(learn):
    seen = []
    learn.fit(2, cbs=Callback(after_batch=lambda self: seen.append((self.epoch, self.iter, self.n_iter))))
    assert seen == [(0, 0, 2), (0, 1, 2), (0, 0, 1), (1, 0, 2), (1, 1, 2), (1, 0, 1)]


def test_how_much_of_the_training_is_done(learn):
    seen = []
    learn.fit(2, cbs=Callback(before_batch=lambda self: self.training and seen.append(round(self.pct_train, 2))))
    assert seen == [0, 0.25, 0.5, 0.75]


def test_train_eval_resets_a_model_with_reset(learn):
    called = []
    learn.model.reset = lambda: called.append(1)
    learn.fit(1)
    assert called == [1]


def test_fetch_predictions_after_each_epoch(learn):
    class Keeps(FetchPredsCallback):
        shapes = []

        def after_validate(self):
            super().after_validate()
            self.shapes.append(self.preds[0].shape)

    cb = Keeps()
    cb.shapes = []
    learn.fit(2, cbs=cb)
    assert cb.shapes == [(8, 4)] * 2


def test_fetch_predictions_of_the_training_images(learn):
    cb = FetchPredsCallback(ds_idx=0, with_decoded=True)
    learn.fit(1, cbs=cb)
    assert len(cb.preds[0]) == 16


def test_get_preds_in_after_epoch(learn):
    class Looks(Callback):
        order = 70

        def after_fit(self):
            pass

        def after_epoch(self):
            learn.seen = self.learn.model(self.dls.valid.one_batch()[0]).shape

    learn.fit(1, cbs=Looks())
    assert learn.seen == (8, 4)


def test_train_eval_may_be_replaced(learn):
    class Quiet(TrainEvalCallback):
        name = "train_eval"

        def before_train(self):
            super().before_train()
            self.model.eval()

    learn.remove_cb(TrainEvalCallback)
    learn.add_cb(Quiet())
    modes = []
    learn.fit(1, cbs=Callback(after_pred=lambda self: modes.append(self.model.training)))
    assert modes == [False] * 3


@only("stock", "custom", "transfer", "cached")
def test_images_are_what_a_callback_sees(learn):
    shapes = []

    class Looking(Callback):
        def after_batch(self):
            shapes.append(tuple(self.x.shape))

    learn.fit(1, cbs=Looking())
    assert shapes == [(8, 3, 16, 16)] * 3


@only("stock", "custom", "transfer", "cached")
def test_images_are_what_a_call_of_ones_own_sees(learn):
    shapes = []

    class Hears(Callback):
        def __call__(self, event_name):
            if event_name == "after_pred":
                shapes.append(tuple(self.learn.x.shape))

    learn.fit(1, cbs=Hears())
    assert shapes == [(8, 3, 16, 16)] * 3


@only("stock", "custom", "transfer", "cached")
def test_images_are_what_a_callback_sees_after_the_batches(learn):
    shapes = []

    class Looking(Callback):
        def after_train(self):
            shapes.append(tuple(self.x.shape))

        after_epoch = after_train

    learn.fit(1, cbs=Looking())
    assert shapes == [(8, 3, 16, 16)] * 2


@only("stock", "custom", "transfer", "cached")
def test_images_are_what_a_metric_sees(learn):
    class Pixels(Metric):
        def reset(self):
            self.value = 0

        def accumulate(self, learn):
            self.value = learn.x.shape[-1]

        value = 0

    learn.metrics = Pixels()
    learn.fit(1)
    assert learn.recorder.values[-1][-1] == 16


@only("stock", "custom", "transfer", "cached")
def test_images_are_what_a_patched_batch_sees(learn):
    shapes, plain = [], learn._do_one_batch
    learn._do_one_batch = lambda: (shapes.append(tuple(learn.x.shape)), plain())
    learn.fit(1)
    assert shapes == [(8, 3, 16, 16)] * 3
