"""Callbacks measure, clip, refuse and stop as they say."""

import os
import signal
from contextlib import nullcontext

import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from fastai.callback.progress import ShowGraphCallback
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.learner import AvgSmoothLoss, load_learner
from fastai.torch_core import TensorImage, set_seed
from torch import nn

from cifar_fast import progress
from cifar_fast.data.augment import TrainTransform
from cifar_fast.data.feeding import copy_dls
from cifar_fast.data.loaders import image_dls
from cifar_fast.errors import InputError, RunError
from cifar_fast.training.callbacks.clip import AdaptiveGradientClip, unit_norm
from cifar_fast.training.callbacks.compiled import Compiled
from cifar_fast.training.callbacks.guards import Interruptible, StopOnNaN
from cifar_fast.training.callbacks.measure import Stopwatch, TrainAccuracy, some_train_dl
from cifar_fast.training.learner import custom_learner
from cifar_fast.training.precision import resolve_precision


def small(dls, **kwargs):
    return custom_learner(dls, **{"precision": "fp32", "width": 4, "dense_width": 16, **kwargs})


def fit(learn, n_epoch=1, cbs=()):
    learn.fit(n_epoch, 1e-3, cbs=list(cbs))
    return learn


@pytest.mark.parametrize(("processor", "precision"), [
    ({"cpu_name": "AMD EPYC 9R14", "avx512_bf16": True}, "bf16"),
    ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, "fp32"),  # slower in bf16
    ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bf16"),
    ({"architecture": "arm64"}, "fp32"),
])  # fmt: skip
def test_precision_auto_is_the_processors_faster_one(processor, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert resolve_precision("auto", torch.device("cpu")) == precision


def test_precision_is_what_was_asked_for():
    cpu = torch.device("cpu")
    assert resolve_precision("fp16", cpu) == "fp16"
    with pytest.raises(InputError, match="fp8"):
        resolve_precision("fp8", cpu)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_layers_compute_in_the_precision_asked_for(digits_dls, precision, dtype, tmp_path):
    learn, seen = small(digits_dls, precision=precision, path=tmp_path), set()
    handle = learn.model.conv2.register_forward_hook(lambda m, i, o: seen.add(o.dtype))
    fit(learn)
    handle.remove()
    assert seen == {dtype}
    assert learn.recorder.losses[0].dtype == torch.float32
    learn.export("a.pkl")
    loaded = load_learner(tmp_path / "a.pkl")
    assert not hasattr(loaded, "mixed_precision")
    image = digits_dls.valid_ds[0][0]
    torch.testing.assert_close(loaded.predict(image)[2], learn.predict(image)[2], atol=0.02, rtol=0.1)


def test_a_cancelled_batch_leaves_half_precision(digits_dls):
    class Cancels(Callback):
        order = 20

        def before_batch(self):
            if self.iter == 1:
                raise CancelBatchException

    fit(small(digits_dls, precision="bf16"), cbs=[Cancels()])
    assert not torch.is_autocast_enabled("cpu")


def test_fastais_graph_is_left_out_where_no_bars_show(digits_dls, capsys):
    learn = small(digits_dls)
    learn.fit(1, cbs=ShowGraphCallback())
    assert "valid_loss" in capsys.readouterr().out


@pytest.mark.slow
def test_many_networks_of_a_class_are_compiled(digits):
    dls, compiled = image_dls(digits.fewer(60, 20), bs=20, device="cpu"), []

    def backend(module, inputs):
        compiled.append(len(learners))
        return module.forward

    learners = []
    for width in range(2, 13):
        learners.append(small(dls, width=width, cbs=Compiled(backend=backend)))
        fit(learners[-1])
    assert set(compiled) == set(range(1, 12))


def test_a_loaded_learner_predicts_uncompiled_and_compiles_when_it_trains(digits_dls, tmp_path):
    learn = fit(small(digits_dls, path=tmp_path, cbs=Compiled(backend="eager")))
    learn.export()
    loaded = load_learner(tmp_path / "export.pkl")
    loaded.predict(digits_dls.valid_ds.x[0])
    assert loaded.model._compiled_call_impl is None
    loaded.dls = learn.dls
    fit(loaded)
    assert loaded.model._compiled_call_impl is not None


def test_rows_show_metrics_of_any_kind(digits_dls, capsys):
    def rates(pred, targ):
        return torch.tensor([0.25, 0.5]).numpy()

    small(digits_dls, metrics=rates).fit(1)
    assert "[0.25 0.5 ]" in capsys.readouterr().out


def test_bars_left_out_come_back_as_they_were(digits_dls):
    learn = small(digits_dls)
    before = learn.progress
    with learn.no_bar() as same:
        assert same is learn and not hasattr(learn, "progress")
        with learn.no_bar():
            pass
    assert learn.progress is before


def test_train_accuracy_is_that_of_eval_mode_on_fixed_images(digits_dls):
    learn = small(digits_dls)
    cb = TrainAccuracy(n=100)
    fit(learn, 2, [cb])
    values = [row[-1] for row in learn.recorder.values]
    assert list(learn.recorder.metric_names)[-2:] == ["train_accuracy", "time"] and values[-1] == cb.value
    idxs = torch.randperm(1437, generator=torch.Generator().manual_seed(0))[:100].sort().values
    preds = learn.get_preds(ds_idx=0)[0].argmax(1)
    assert cb.value == pytest.approx((preds == digits_dls.train_ds.y)[idxs].float().mean().item(), abs=1e-6)
    assert len(learn.metrics) == 1


class Blank(TrainTransform):
    "Leaves nothing of a training image."

    order = 100

    def encodes(self, x: TensorImage):
        return x * 0


def test_train_accuracy_is_of_images_as_they_are(digits):
    dls = image_dls(digits.fewer(60, 20), bs=20, device="cpu")
    dls.add_tfms([Blank()], "after_batch")
    assert some_train_dl(dls).one_batch()[0].any() and not dls.one_batch()[0].any()


def test_validating_with_train_accuracy_on_the_learner_does_not_hang(digits_dls):
    learn = small(digits_dls, cbs=TrainAccuracy(n=50))
    fit(learn)
    assert len(learn.validate()) == 2


class Ticks(Callback):
    "A clock of its own: a training batch takes a second, a validation batch a minute."

    order, now = -100, 0.0

    def after_batch(self):
        self.now += 1.0 if self.training else 60.0


def test_the_stopwatch_counts_training_alone_over_fits(digits_dls, monkeypatch):
    watch, learn, ticks = Stopwatch(), small(digits_dls), Ticks()
    monkeypatch.setattr("cifar_fast.device.time.perf_counter", lambda: ticks.now)
    fit(learn, 2, [watch, ticks])
    assert (watch.seconds, watch.images) == (2 * 23, 2 * 1437)
    fit(learn, 1, [watch, ticks])
    assert (watch.seconds, watch.images) == (3 * 23, 3 * 1437)
    with learn.added_cbs([watch, ticks]):
        learn.validate()
    assert (watch.seconds, watch.images) == (3 * 23, 3 * 1437)


class Fails(Callback):
    order, at = 90, 3

    def after_batch(self):
        if self.training and self.iter == self.at:
            raise ZeroDivisionError("on purpose")


def test_a_failed_fit_leaves_nothing_behind(digits_dls, monkeypatch):
    learn, watch, ticks = small(digits_dls), Stopwatch(), Ticks()
    monkeypatch.setattr("cifar_fast.device.time.perf_counter", lambda: ticks.now)
    handler, n_metrics = signal.getsignal(signal.SIGINT), len(learn.metrics)
    with pytest.raises(ZeroDivisionError):
        fit(learn, 1, [TrainAccuracy(n=50), Interruptible(), watch, ticks, Fails()])
    assert len(learn.metrics) == n_metrics and len(learn.validate()) == 2
    assert signal.getsignal(signal.SIGINT) is handler
    ticks.now += 1000
    fit(learn, 1, [watch, ticks])
    assert watch.seconds == 4 + 23


class FailsAtOnce(Callback):
    order = -5

    def before_fit(self):
        raise ZeroDivisionError("on purpose")


def test_a_fit_that_fails_before_it_begins_says_why(digits_dls):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        fit(small(digits_dls), 1, [Interruptible(), Stopwatch(), FailsAtOnce()])
    assert signal.getsignal(signal.SIGINT) is handler


class FailsToTidyUp(Callback):
    order = -70

    def after_failed_fit(self):
        raise RuntimeError("broken too")


def test_what_fails_while_tidying_up_hides_nothing(digits_dls):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        fit(small(digits_dls), 1, [FailsToTidyUp(), Interruptible(), Fails()])
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("fails", [ZeroDivisionError, CancelFitException])
def test_a_fit_that_ends_in_half_precision_leaves_the_next_one_its_own(digits_dls, fails):
    class Ends(Callback):
        def after_pred(self):
            raise fails("on purpose")

    with pytest.raises(ZeroDivisionError) if fails is ZeroDivisionError else nullcontext():
        fit(small(digits_dls, precision="bf16"), 1, [Ends()])
    assert not torch.is_autocast_enabled("cpu")


class Diverges(Callback):
    "The epoch's last step makes a weight infinite; no loss has seen it yet."

    def after_step(self):
        if self.iter == self.n_iter - 1:
            self.model.conv1.weight.data[0] = float("inf")


def test_weights_that_diverge_in_an_epochs_last_step_end_the_run(digits_dls):
    learn = small(digits_dls)
    with pytest.raises(RunError, match="lower the learning rate"):
        fit(learn, 2, [StopOnNaN(), Diverges()])
    assert not learn.recorder.values  # before anything of this epoch is written


def test_gradients_are_clipped_unit_by_unit_but_for_the_last_layer():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    cb = AdaptiveGradientClip(clip=0.01)
    cb.learn = type("L", (), {"model": model})()
    cb.before_fit()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    model[0].weight.grad[0] = 1e-6
    before = [p.grad.clone() for p in model.parameters()]
    cb.before_step()
    weight = model[0].weight
    ratio = (unit_norm(weight.grad) / unit_norm(weight.detach())).flatten()
    assert ratio[1:].tolist() == pytest.approx([0.01] * 2, rel=1e-4)
    assert torch.equal(weight.grad[0], before[0][0])
    torch.testing.assert_close(weight.grad[1] / weight.grad[1].norm(), before[0][1] / before[0][1].norm())
    assert torch.equal(model[1].weight.grad, before[2]) and torch.equal(model[1].bias.grad, before[3])


def test_clipping_trains(digits_dls):
    learn = small(digits_dls, bn=False, cbs=AdaptiveGradientClip())
    before = learn.model.conv1.weight.clone()
    fit(learn)
    assert not torch.equal(before, learn.model.conv1.weight)


CHOOSING = [EarlyStoppingCallback, SaveModelCallback, ReduceLROnPlateau]


@pytest.mark.parametrize("choosing", CHOOSING)
def test_nothing_chooses_by_the_test_images(digits_dls, choosing):
    with pytest.raises(InputError, match=choosing.__name__):
        fit(small(digits_dls), 1, [choosing()])


@pytest.mark.parametrize("choosing", CHOOSING)
def test_what_watches_the_training_images_may_choose(digits_dls, choosing, tmp_path):
    learn = small(digits_dls, path=tmp_path)
    assert len(fit(learn, 1, [choosing(monitor="train_loss")]).recorder.values) == 1


@pytest.mark.parametrize("choosing", CHOOSING)
def test_held_out_images_may_choose(digits, choosing, tmp_path):
    learn = small(image_dls(digits, valid="holdout", device="cpu"), path=tmp_path)
    assert len(fit(learn, 1, [choosing()]).recorder.values) == 1


def test_saving_every_epoch_chooses_nothing(digits_dls, tmp_path):
    fit(small(digits_dls, path=tmp_path), 2, [SaveModelCallback(every_epoch=True)])
    assert len(list((tmp_path / "models").iterdir())) == 2


class PressCtrlC(Callback):
    def after_batch(self):
        if self.training and self.iter == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def after_fit(self):
        self.learn.fit_ended = True


def test_ctrl_c_ends_the_fit_through_its_events(digits_dls):
    handler = signal.getsignal(signal.SIGINT)
    learn, cb = small(digits_dls), Interruptible()
    fit(learn, 5, [cb, PressCtrlC()])
    assert cb.interrupted and learn.fit_ended and len(learn.recorder.losses) == 4
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(fit(learn, 1, [cb]).recorder.values) == 1 and not cb.interrupted


def test_rows_are_plain_text_where_no_terminal_looks_on(digits_dls, capsys):
    learn = small(digits_dls)
    learn.fit(2)
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["epoch", "0", "1"]
    assert "\r" not in out and "\x1b" not in out


def test_losses_can_be_plotted_after_a_fit(digits_dls):
    learn = fit(small(digits_dls), 2)
    assert len(learn.recorder.losses) == 46 and learn.recorder.losses[-1] < learn.recorder.losses[0]
    assert len(learn.recorder.plot_loss().lines) == 2


def test_the_smoothed_loss_is_fastais(digits_dls):
    curves = []
    for stock in (False, True):
        set_seed(0)
        learn = small(copy_dls(digits_dls))
        if stock:
            learn.recorder.smooth_loss = AvgSmoothLoss()
        curves.append(torch.stack([o.cpu() for o in fit(learn).recorder.losses]))
    torch.testing.assert_close(*curves)


@pytest.mark.parametrize(("name", "bars"), [("JPY_SESSION_NAME", True), ("VSCODE_PID", False)])
def test_notebooks_have_bars_but_in_vs_code_plain_lines(name, bars, monkeypatch):
    for other in ("VSCODE_PID", "VSCODE_CWD"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(progress, "IN_NOTEBOOK", True)
    monkeypatch.setenv(name, "1")
    assert progress.shows_bars() is bars
