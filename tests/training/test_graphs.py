"""Training batches as graphs: the same weights, the same events, and a word where a batch cannot be one."""

import random
from copy import deepcopy
from weakref import ref

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Learner
from fastai.optimizer import Adam
from torch import nn

import cifar_fast.training.schedules  # noqa: F401 - patches fit_decay onto Learner
from cifar_fast.data.augment import Cutout
from cifar_fast.data.loaders import image_dls
from cifar_fast.training.callbacks.clip import AdaptiveGradientClip
from cifar_fast.training.graphs import BatchGraphs
from cifar_fast.training.learner import custom_learner, fast_learner, transfer_learner

SMALL = dict(width=4, dense_width=8, dropout=0.0, logit_dropout=0.0, bn=False)


class HostGraph:
    "What stands in for a `DeviceGraph` where there is no GPU: the work is done again, from the host."

    def __init__(self, work, stream=None):
        self.work = work

    def start(self):
        return self.work()


@pytest.fixture(scope="module")
def few(digits):
    return digits.fewer(150, 40)


@pytest.fixture
def dls(few):
    "9 training batches of 16 images, and one of 6."
    return image_dls(few, bs=16, device="cpu")


def fitted(learn, graphs, cbs=(), how="fit_decay", seed=0, epochs=2):
    "`learn`, fitted with or without graphs."
    torch.manual_seed(seed)
    learn.remove_cb(BatchGraphs)
    if graphs:
        learn.add_cb(BatchGraphs(HostGraph))
    getattr(learn, how)(epochs, 1e-3, cbs=list(cbs))
    return learn


def both(make, **kwargs):
    "Weights of a Learner after a fit without and with graphs, and the second Learner."
    learns = []
    for graphs in (False, True):
        torch.manual_seed(0)
        learn = make()
        learn.dls.train.rng.seed(0)
        learn.dls.train.epoch = 0
        learns.append(fitted(learn, graphs, **kwargs))
    plain, captured = (torch.cat([p.detach().flatten() for p in o.model.parameters()]) for o in learns)
    return plain, captured, learns[1]


class CountingGraph(HostGraph):
    "Counts the batches that graphs ran."

    n = 0

    def start(self):
        CountingGraph.n += 1
        return super().start()


@pytest.mark.parametrize(
    "opt, how",
    [("adam", "fit_decay"), ("sgd", "fit_decay"), ("adam", "fit_one_cycle"), ("sgd", "fit_one_cycle"), (Adam, "fit")],
)
def test_weights_and_losses_are_those_of_a_fit_without_graphs(few, opt, how):
    dls = image_dls(few, bs=16, device="cpu", flip="alternating")
    plain, captured, learn = both(lambda: custom_learner(dls, opt=opt, **SMALL), how=how)
    assert learn.batch_graphs.reason == ""
    assert torch.allclose(plain, captured, atol=1e-6)
    assert len(learn.recorder.losses) == len(learn.recorder.lrs) == 2 * len(dls.train)


def count_graphs(learn, cbs=None):
    "How many batches of two epochs run as graphs."
    learn.remove_cb(BatchGraphs).add_cb(BatchGraphs(CountingGraph))
    CountingGraph.n = 0
    learn.fit(2, cbs=cbs)
    assert learn.batch_graphs.reason == ""
    return CountingGraph.n


@pytest.mark.parametrize(
    "make",
    [
        lambda dls: custom_learner(dls, **SMALL),
        lambda dls: custom_learner(dls, opt=Adam, **SMALL),  # fastai's own, which steps on the host
        lambda dls: transfer_learner(dls, weights="none"),
    ],
)
def test_all_batches_but_the_first_and_those_of_another_size_run_as_graphs(dls, make):
    assert count_graphs(make(dls)) == 2 * 9 - 3


def other_images(learn):
    learn.dls.train.dataset = learn.dls.train_ds.replace(255 - learn.dls.train_ds.x, learn.dls.train_ds.y)


@pytest.mark.parametrize(
    "change",
    [
        other_images,
        lambda learn: setattr(learn.dls.train.after_batch.fs[0], "p_flip", 1.0),
        lambda learn: learn.dls.train.after_batch.add([Cutout(4)]),
        lambda learn: setattr(learn.loss_func.func, "label_smoothing", 0.3),
        lambda learn: setattr(learn.loss_func.func, "weight", torch.ones(10)),
        lambda learn: setattr(learn.model, "conv2", deepcopy(learn.model.conv2)),
    ],
)
def test_what_a_callback_changes_between_epochs_is_captured_anew(few, change):
    class Changes(Callback):
        def before_epoch(self):
            if self.epoch == 1:
                change(self.learn)

    learn = custom_learner(image_dls(few, bs=16, device="cpu", flip="random"), **SMALL)
    assert count_graphs(learn, Changes()) == 2 * (9 - 3)


def test_what_a_graph_was_captured_with_lives_as_long_as_the_graph(dls):
    class Weighing(Callback):
        def before_epoch(self):
            weight = torch.rand(10)
            self.learn.loss_func.func.weight = weight
            found.append(ref(weight))  # nothing else holds it once the next takes its place

        def after_epoch(self):
            alive.append([o() is not None for o in found])

    found, alive = [], []
    learn = custom_learner(dls, **SMALL)
    count_graphs(learn, Weighing())
    assert alive[-1] == [True] * 2


def test_an_optimizer_that_is_not_fused_steps_outside_the_graph(dls):
    learn = custom_learner(dls, opt="nadam", **SMALL)
    learn.create_opt()
    assert not learn.batch_graphs.can_step()  # its counts of steps lie on the CPU


@pytest.mark.parametrize("cb", [lambda: GradientClip(0.1), lambda: AdaptiveGradientClip(0.05)])
def test_clipping_is_a_part_of_the_graph(dls, cb):
    plain, captured, learn = both(lambda: custom_learner(dls, cbs=cb(), **SMALL))
    assert learn.batch_graphs.reason == "" and torch.allclose(plain, captured, atol=1e-6)


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_features_of_a_frozen_body_and_their_flips_are_gathered_in_the_graph(few, flip):
    dls = image_dls(few, bs=16, device="cpu", flip=flip)
    plain, captured, learn = both(lambda: transfer_learner(dls, weights="none"), epochs=4)
    assert learn.batch_graphs.reason == "" and learn.cached_body.cache
    assert torch.allclose(plain, captured, atol=1e-6)


class Doubling(Callback):
    "Changes the batch before the model sees it, as MixUp does."

    def before_batch(self):
        if self.training:
            self.learn.xb = (self.xb[0] * 2,)


def test_what_a_callback_makes_of_the_batch_is_what_the_graph_is_given(dls):
    plain, captured, learn = both(lambda: custom_learner(dls, cbs=Doubling(), **SMALL))
    assert learn.batch_graphs.reason == "" and torch.allclose(plain, captured, atol=1e-6)


class Shrinking(Callback):
    "Feeds smaller images in the first epoch."

    order = 50

    def before_batch(self):
        if self.training and self.epoch == 0:
            self.learn.xb = (self.xb[0][..., ::2, ::2],)


def test_batches_of_another_kind_get_another_graph(dls):
    def make():
        model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
        return fast_learner(dls, model, cbs=Shrinking())

    plain, captured, learn = both(make)
    assert learn.batch_graphs.reason == "" and torch.allclose(plain, captured, atol=1e-6)


class Collecting(Callback):
    "Keeps what each batch came to."

    def __init__(self):
        self.seen = []

    def after_batch(self):
        if self.training:
            self.seen.append((self.iter, self.loss, self.pred, self.y))


def test_a_callback_may_keep_losses_and_predictions(dls):
    seen = [Collecting(), Collecting()]
    for graphs, cb in enumerate(seen):
        torch.manual_seed(0)
        learn = custom_learner(dls, **SMALL)
        learn.dls.train.rng.seed(0)
        fitted(learn, bool(graphs), cbs=[cb])
    for (i, loss, pred, y), (j, loss2, pred2, y2) in zip(*(o.seen for o in seen), strict=True):
        assert i == j and torch.equal(y, y2)
        assert torch.allclose(loss, loss2, atol=1e-5) and torch.allclose(pred, pred2, atol=1e-4)


class Drawing(nn.Linear):
    "Drops its whole input by a number that Python draws."

    def forward(self, x):
        return super().forward(x * (random.random() < 0.5))


class Counting(nn.Linear):
    "Behaves otherwise after some batches."

    n = 0

    def forward(self, x):
        self.n += 1
        return super().forward(x / self.n)


class OnceOnly(HostGraph):
    "As capturing on a GPU: the host's part of the work is done once, while it is captured."

    def __init__(self, work, stream=None):
        super().__init__(work)
        work()


@pytest.mark.parametrize("layer", [Drawing, Counting])
def test_a_model_with_a_state_in_python_is_not_captured(dls, layer, capsys):
    learn = fast_learner(dls, nn.Sequential(nn.Flatten(), layer(3 * 32 * 32, 10)))
    learn.remove_cb(BatchGraphs).add_cb(BatchGraphs(OnceOnly))
    learn.fit(1)
    assert "in Python" in learn.batch_graphs.reason
    assert capsys.readouterr().out.count("Batches run from the host") == 1


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(cbs=GradientAccumulation(32)), "gradient_accumulation"),
        (dict(cbs=MixUp()), "the loss is a callback's"),
    ],
)
def test_what_no_graph_can_hold_runs_as_ever_and_says_why(dls, change, reason, capsys):
    learn = fitted(custom_learner(dls, **change, **SMALL), True)
    assert reason in learn.batch_graphs.reason and len(learn.recorder.losses) == 2 * len(dls.train)
    assert capsys.readouterr().out.count(f"Batches run from the host: {learn.batch_graphs.reason}") == 1


def test_patched_batches_run_from_the_host(dls, monkeypatch):
    seen, plain = [], Learner.one_batch
    monkeypatch.setattr(Learner, "one_batch", lambda self, i, b: (seen.append(i), plain(self, i, b)))
    learn = fitted(custom_learner(dls, **SMALL), True)
    assert learn.batch_graphs.reason == "one_batch is patched"
    assert len(seen) == 2 * (len(learn.dls.train) + len(learn.dls.valid))


def test_the_optimizer_and_the_learner_are_afterwards_as_without_graphs(dls, tmp_path):
    learn = fitted(custom_learner(dls, path=tmp_path, **SMALL), True, how="fit_one_cycle")
    assert all(isinstance(o, float) for o in (learn.opt.hypers[0]["lr"], learn.opt.hypers[0]["mom"]))
    assert learn.opt.hypers[0]["fused"] and not learn.batch_graphs.graphs
    learn.export()
    learn.validate()
    fitted(learn, False)
