"""How people write, order, add and remove callbacks, as in fastai's notebook 13_callback.core."""

import weakref

import pytest
from fastai.callback.core import Callback

from habits.probes import listening
from habits.table import departs, is_stock


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


def test_callbacks_of_a_fit_are_let_go(learn):
    class Heavy(Callback):
        pass

    cb = Heavy()
    gone = weakref.ref(cb)
    learn.fit(1, cbs=cb)
    del cb
    assert gone() is None


@pytest.mark.parametrize("how", ["validate", "get_preds"])
def test_callbacks_of_a_prediction_are_let_go(learn, how):
    class Heavy(Callback):
        pass

    cb = Heavy()
    gone = weakref.ref(cb)
    getattr(learn, how)(cbs=cb)
    del cb
    assert gone() is None


def test_after_create_is_called_when_the_learner_is_made(again):
    seen = []
    again(cbs=Callback(after_create=lambda self: seen.append(self.learn)))
    assert len(seen) == 1
