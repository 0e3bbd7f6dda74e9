"""What a Learner is made with and what it has, as in fastai's notebook 13a_learner."""

from functools import partial

import pytest
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.progress import ProgressCallback
from fastai.learner import Recorder, before_batch_cb
from fastai.optimizer import SGD, Adam

from habits.table import departs, only


def test_what_a_learner_lacks_its_model_has(learn):
    assert len(list(learn.parameters())) == len(list(learn.model.parameters()))


def test_a_default_callback_by_its_name(learn):
    assert isinstance(learn.recorder, Recorder) and isinstance(learn.train_eval, TrainEvalCallback)


def test_show_training_loop(learn, capsys):
    learn.show_training_loop()
    said = capsys.readouterr().out
    assert "Start Fit" in said and "Recorder" in said


def test_ordered_callbacks_of_an_event(learn):
    assert any(isinstance(o, Recorder) for o in learn.ordered_cbs("after_batch"))


def test_x_and_y_are_the_batch(learn):
    shapes = []
    learn.fit(1, cbs=Callback(after_batch=lambda self: shapes.append((self.x.shape[-1], len(self.y)))))
    assert shapes == [(16, 8)] * 3


def test_before_batch_cb_changes_the_batch(learn):
    @before_batch_cb
    def dark(self, xb, yb):
        return (xb[0] * 0,), yb

    seen = []
    learn.fit(1, cbs=[dark, Callback(after_batch=lambda self: seen.append(self.x.abs().max().item()))])
    assert seen == [0, 0, 0]


def test_default_cbs_may_be_left_out(again):
    learn = again(default_cbs=False, cbs=TrainEvalCallback)
    learn.fit(1)
    assert not hasattr(learn, "recorder")


def test_callbacks_as_a_keyword(again):
    class Mine(Callback):
        pass

    assert isinstance(again(cbs=[Mine()]).mine, Mine)


def test_an_optimizer_of_fastai(again):
    learn = again()
    learn.opt_func = partial(SGD, mom=0.9)
    learn.fit(1)
    assert len(learn.recorder.losses) == 2


@departs("its optimizer is the recipe's", "a recipe has no 'opt_func'", of=("record",))
def test_a_rate_within_the_optimizers_partial(again):
    learn = again(opt_func=partial(Adam, lr=0.02))
    learn.create_opt()
    assert learn.lr == 0.02


def test_to_detach(learn):
    xb, _ = learn.dls.one_batch()
    assert not learn.to_detach(learn.model(xb)).requires_grad


def test_a_model_on_the_loaders_device(learn):
    learn.fit(1)
    assert next(learn.model.parameters()).device.type == "cpu"


def test_dls_to_a_named_device(learn):
    learn.dls.to("cpu")
    learn.fit(1)


def test_a_learner_without_recorder(learn):
    learn.remove_cbs([Recorder, ProgressCallback])
    learn.fit(1)
    assert learn.get_preds()[0].shape == (8, 4)


def test_lr_as_a_keyword(again):
    learn = again(lr=0.004)
    learn.fit(1)
    assert learn.opt.hypers[-1]["lr"] == 0.004


@only("stock", "custom", "transfer", "cached")  # of the record recipe it is a number of its own
def test_wd_as_a_keyword(again):
    learn = again(wd=0.1)
    learn.fit(1)
    assert learn.opt.hypers[0]["wd"] == 0.1


def test_moms_as_a_keyword(again):
    learn = again(moms=(0.9, 0.8, 0.9))
    learn.fit_one_cycle(1)
    assert learn.recorder.hps["mom"][0] in (0.9, pytest.approx(0.9))


def test_model_dir_as_a_keyword(again):
    assert again(model_dir="kept").save("stage").parent.name == "kept"


def test_loss_not_reduced(learn):
    xb, yb = learn.dls.valid.one_batch()
    with learn.loss_not_reduced(), torch.no_grad():
        assert learn.loss_func(learn.model(xb), yb).shape == (8,)
