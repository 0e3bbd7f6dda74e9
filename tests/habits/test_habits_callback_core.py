"""What people do with callbacks, as in fastai's notebook 13_callback.core."""

import weakref

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
    FetchPredsCallback,
    TrainEvalCallback,
)
from fastai.learner import Recorder
from fastai.optimizer import SGD

from habits.table import departs, is_stock, only


def listening(*events: str) -> tuple[list, Callback]:
    "A list, and a callback that writes into it when it is asked."
    seen = []
    return seen, Callback(**{e: (lambda self, e=e: seen.append(e)) for e in events})


def weights(learn) -> list[torch.Tensor]:
    return [o.detach().clone() for o in learn.model.parameters()]


def test_events_come_in_fastais_order(learn):
    events = "before_fit before_epoch before_train before_batch after_pred after_loss before_backward after_backward "
    events += "before_step after_step after_batch after_train before_validate after_validate after_epoch after_fit"
    seen, cb = listening(*events.split())
    learn.fit(1, cbs=cb)
    batch = "before_batch after_pred after_loss before_backward after_backward before_step after_step after_batch"
    tail = "after_train before_validate before_batch after_pred after_loss after_batch after_validate after_epoch"
    head = ["before_fit", "before_epoch", "before_train"]
    assert seen == [*head, *batch.split() * 2, *tail.split(), "after_fit"]


def test_an_unknown_event_is_refused_when_a_callback_is_made(learn):
    with pytest.raises(AssertionError, match="unknown events"):
        learn.fit(1, cbs=Callback(after_dinner=lambda self: None))


@departs("an event that there is not is an `InputError` here", "no event 'after_dinner'")
def test_an_event_that_there_is_not(learn):
    if is_stock(learn):
        with pytest.raises(Exception, match="missing after_dinner"):
            learn("after_dinner")
    else:
        learn("after_dinner")


def test_an_event_by_hand(learn):
    seen, cb = listening("before_epoch")
    learn.add_cb(cb)
    learn("before_epoch")
    assert seen == ["before_epoch"]


def test_several_events_by_hand(learn):
    seen, cb = listening("before_fit", "before_epoch")
    learn.add_cb(cb)
    learn(["before_fit", "before_epoch"])
    assert seen == ["before_fit", "before_epoch"]


def test_callbacks_run_by_their_order(learn):
    seen = []

    class Late(Callback):
        order = 5

        def before_fit(self):
            seen.append("late")

    class Early(Callback):
        order = -5

        def before_fit(self):
            seen.append("early")

    learn.fit(1, cbs=[Late(), Early()])
    assert seen == ["early", "late"]


def test_run_after_another(learn):
    seen = []

    class First(Callback):
        order = 3

        def before_fit(self):
            seen.append("first")

    class Second(Callback):
        run_after = First

        def before_fit(self):
            seen.append("second")

    cbs = [Second(), First()]
    cbs[0].order = 4
    learn.fit(1, cbs=cbs)
    assert seen == ["first", "second"]


def test_another_order_on_the_object(learn):
    seen = []
    a, b = (Callback(before_fit=lambda self, name=name: seen.append(name)) for name in "ab")
    a.order, b.order = 2, 1
    learn.fit(1, cbs=[a, b])
    assert seen == ["b", "a"]


def test_run_false_keeps_a_callback_out_of_a_fit(learn):
    seen, cb = listening("before_epoch")
    learn.add_cb(cb)
    cb.run = False
    learn.fit(1)
    assert seen == []
    learn.fit(1)
    assert seen == ["before_epoch"]


def test_run_false_from_within(learn):
    class Once(Callback):
        n = 0

        def after_batch(self):
            self.n += 1
            self.run = False

    cb = Once()
    learn.fit(1, cbs=cb)
    assert cb.n == 1


def test_run_valid_false(learn):
    seen, cb = listening("after_batch")
    cb.run_valid = False
    learn.fit(1, cbs=cb)
    assert len(seen) == 2


def test_run_train_false(learn):
    seen, cb = listening("after_batch")
    cb.run_train = False
    learn.fit(1, cbs=cb)
    assert len(seen) == 1


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


def test_the_name_of_a_callback(learn):
    class MyOwnCallback(Callback):
        pass

    learn.add_cb(MyOwnCallback())
    assert learn.my_own.name == "my_own"


def test_add_a_class(learn):
    class Mine(Callback):
        pass

    learn.add_cb(Mine)
    assert isinstance(learn.mine, Mine) and learn.mine.learn is learn


def test_add_several(learn):
    class One(Callback):
        pass

    class Two(Callback):
        pass

    learn.add_cbs([One(), Two])
    assert learn.one in learn.cbs and learn.two in learn.cbs


def test_adding_gives_the_learner_for_chaining(learn):
    assert learn.add_cb(Callback()) is learn and learn.remove_cb(Callback) is learn


def test_remove_by_class(learn):
    class Mine(Callback):
        pass

    learn.add_cb(Mine())
    learn.remove_cb(Mine)
    assert not hasattr(learn, "mine") and not any(isinstance(o, Mine) for o in learn.cbs)


def test_remove_by_object(learn):
    seen, cb = listening("before_fit")
    learn.add_cb(cb)
    learn.remove_cb(cb)
    learn.fit(1)
    assert seen == [] and cb.learn is None


def test_callbacks_for_a_while(learn):
    seen, cb = listening("before_fit")
    with learn.added_cbs(cb):
        learn.fit(1)
    learn.fit(1)
    assert seen == ["before_fit"]


def test_without_callbacks_for_a_while(learn):
    seen, cb = listening("before_fit")
    learn.add_cb(cb)
    with learn.removed_cbs(cb):
        learn.fit(1)
    learn.fit(1)
    assert seen == ["before_fit"]


def test_a_callback_that_adds_another_in_a_fit(learn):
    seen, cb = listening("after_batch")

    class Adds(Callback):
        def before_train(self):
            self.learn.add_cb(cb)

    learn.fit(1, cbs=Adds())
    assert len(seen) == 3


def test_a_callback_that_removes_itself_in_a_fit(learn):
    class Leaves(Callback):
        n = 0

        def after_batch(self):
            Leaves.n += 1
            self.learn.remove_cb(self)

    learn.add_cb(Leaves())
    learn.fit(1)
    assert Leaves.n == 1


def test_an_event_given_to_the_object_between_fits(learn):
    seen, cb = [], Callback()
    learn.add_cb(cb)
    learn.fit(1)
    cb.after_epoch = lambda: seen.append(1)
    learn.fit(1)
    assert seen == [1]


def test_an_event_patched_onto_the_class_between_fits(learn):
    class Mine(Callback):
        pass

    seen = []
    learn.add_cb(Mine())
    learn.fit(1)
    Mine.after_epoch = lambda self: seen.append(1)
    learn.fit(1)
    assert seen == [1]


def test_an_event_given_to_the_object_in_a_fit(learn):
    class Late(Callback):
        n = 0

        def before_train(self):
            self.after_batch = self.count

        def count(self):
            self.n += 1

    cb = Late()
    learn.fit(1, cbs=cb)
    assert cb.n == 3


def test_a_callback_with_a_call_of_its_own_hears_all(learn):
    class Hears(Callback):
        def __call__(self, event_name):
            heard.append(event_name)
            super().__call__(event_name)

    heard = []
    learn.fit(1, cbs=Hears())
    assert {"before_fit", "after_pred", "before_step", "after_epoch", "after_fit"} <= set(heard)


def test_an_order_changed_between_fits(learn):
    seen = []
    a, b = (Callback(before_epoch=lambda self, name=name: seen.append(name)) for name in "ab")
    a.order, b.order = 1, 2
    learn.add_cbs([a, b])
    learn.fit(1)
    a.order = 3
    learn.fit(1)
    assert seen == ["a", "b", "b", "a"]


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


def test_callbacks_of_a_fit_are_let_go(learn):
    class Heavy(Callback):
        pass

    cb = Heavy()
    gone = weakref.ref(cb)
    learn.fit(1, cbs=cb)
    del cb
    assert gone() is None


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


def test_after_create_is_called_when_the_learner_is_made(again):
    seen = []
    again(cbs=Callback(after_create=lambda self: seen.append(self.learn)))
    assert len(seen) == 1


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
