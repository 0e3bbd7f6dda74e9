"""What people do with fastai Learners and DataLoaders, done with these: it works as there, or is refused aloud."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.hook import ActivationStats
from fastai.callback.mixup import MixUp
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.data.core import DataLoaders, show_at
from fastai.learner import Recorder
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from torch import nn

import cifar_fast.training.schedules  # noqa: F401 - patches fit_decay onto Learner
from cifar_fast.data.loaders import image_dls
from cifar_fast.errors import InputError
from cifar_fast.models.networks import CustomCNN
from cifar_fast.records.recipes import record_learner
from cifar_fast.training.learner import custom_learner, fast_learner, transfer_learner

SMALL = dict(width=4, dense_width=8)


@pytest.fixture(scope="module")
def few(digits):
    return digits.fewer(160, 60)


@pytest.fixture
def dls(few):
    return image_dls(few, bs=16, device="cpu", flip="random")


def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging():
        learn.fit(n, **kwargs)
    return learn


# Loaders that a Learner is handed


def custom_at_16(dls):
    return custom_learner(dls, size=16, **SMALL)


def transfer_at_16(dls):
    return transfer_learner(dls, size=16, weights="none")


@pytest.mark.parametrize("make", [custom_at_16, transfer_at_16])
def test_the_callers_own_loaders_are_fed_as_the_model_needs_it(dls, make):
    learn = fit(make(dls))
    with learn.no_bar():
        wanted, preds = list(learn.validate()), learn.get_preds()[0]
        assert list(learn.validate(dl=dls.valid)) == pytest.approx(wanted)
        assert torch.allclose(learn.get_preds(dl=dls.test_dl(dls.valid_ds, with_labels=True))[0], preds, atol=1e-5)


def test_dls_put_in_place_of_the_learners_are_fed_so_too(few, dls):
    learn = custom_learner(dls, size=16, **SMALL)
    learn.dls = image_dls(few, bs=16, device="cpu", size=48)
    fit(learn)
    assert learn.dls.one_batch()[0].shape[-1] == 16


def test_folds_by_hand_are_augmented(dls):
    part = dls.train.new(dataset=dls.train_ds.subset(torch.arange(100)))
    assert part.dataset.split_idx == 0
    torch.manual_seed(0)
    part = part.new(shuffle=False)
    assert not torch.equal(*(part.one_batch()[0] for _ in range(2)))


@pytest.mark.parametrize("name", ["after_item", "before_batch", "create_item"])
def test_transforms_of_single_items_are_refused(dls, name):
    with pytest.raises(InputError, match=f"have no {name}"):
        dls.train.new(**{name: lambda o: o})
    with pytest.raises(InputError, match="have no after_item"):
        dls.add_tfms([lambda o: o], "after_item")
    dls.train.new()


def test_datasets_are_indexed_as_fastais(dls):
    ds = dls.train_ds
    assert len(ds[3:7]) == 4 and torch.equal(ds[[2, 5]][1][0], ds[5][0]) and torch.equal(ds[-1][0], ds[159][0])
    show_at(ds, 3)


def test_devices_may_be_named(dls):
    dls.to("cpu")
    fit(custom_learner(dls, **SMALL))


def test_plain_torch_loaders_are_enough():
    data = [(torch.rand(3, 32, 32), i % 10) for i in range(40)]
    loaders = [torch.utils.data.DataLoader(data, 8) for _ in range(2)]
    dls = DataLoaders(*loaders)
    dls.c = 10
    for learn in (custom_learner(dls, **SMALL), fast_learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))):
        fit(learn)
    with pytest.raises(InputError, match="plain DataLoaders"):
        custom_learner(dls, size=16)


def test_a_loss_by_hand(dls):
    model = custom_learner(dls, **SMALL).model
    xb, yb = dls.one_batch()
    F.cross_entropy(model(xb), yb).backward()


# Optimizers and keywords


def test_sgd_has_no_momentum_in_one_cycle_either(dls):
    learn = custom_learner(dls, opt="sgd", **SMALL)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    assert learn.opt.hypers[0]["mom"] == 0


def test_keywords_of_fastais_learner(dls):
    kwargs = dict(wd_bn_bias=True, train_bn=True, moms=(0.9, 0.8, 0.9), model_dir="kept")
    loss = CrossEntropyLossFlat(label_smoothing=0.1)
    learns = [
        custom_learner(dls, loss_func=loss, opt_func=Adam, wd=0.1, **kwargs, **SMALL),
        transfer_learner(dls, weights="none", loss_func=loss, opt_func=Adam, wd=0.1, **kwargs),
        record_learner(dls, 90, **kwargs),
    ]
    for learn in learns:
        assert learn.model_dir == "kept" and learn.moms == (0.9, 0.8, 0.9)
    assert fit(learns[0]).opt.hypers[0]["wd"] == 0.1 and learns[0].loss_func is loss


# Callbacks


def test_what_is_given_to_a_callback_between_fits_is_heard(dls):
    class Late(Callback):
        pass

    seen, learn = [], custom_learner(dls, cbs=Late(), **SMALL)
    fit(learn)
    Late.after_epoch = lambda self: seen.append("class")
    fit(learn)
    learn.late.after_train = lambda: seen.append("object")
    fit(learn)
    assert seen == ["class", "object", "class"]


def test_another_order_counts_from_the_next_epoch(dls):
    seen = []
    cbs = [Callback(before_epoch=lambda _: seen.append("a")), Callback(before_epoch=lambda _: seen.append("b"))]
    cbs[0].order, cbs[1].order = 1, 2
    learn = fit(custom_learner(dls, cbs=cbs, **SMALL))
    cbs[0].order = 3
    fit(learn)
    assert seen == ["a", "b", "b", "a"]


def test_an_event_that_there_is_not_is_named(dls):
    with pytest.raises(InputError, match="no event 'after_dinner'"):
        custom_learner(dls, **SMALL)("after_dinner")


def test_a_callback_that_chooses_hinders_no_prediction(dls):
    learn = custom_learner(dls, cbs=EarlyStoppingCallback(), **SMALL)
    with learn.no_bar():
        learn.validate()
        learn.get_preds()
    with pytest.raises(InputError, match="choose by the test images"):
        fit(learn)


def test_callbacks_of_a_fit_are_let_go(dls):
    import weakref

    class Heavy(Callback):
        def after_batch(self):
            self.kept = torch.zeros(10)

    learn, cb = custom_learner(dls, **SMALL), Heavy()
    gone = weakref.ref(cb)
    fit(learn, cbs=cb)
    del cb
    assert gone() is None


def test_a_learner_without_recorder(dls):
    learn = custom_learner(dls, **SMALL)
    learn.remove_cb(Recorder)
    fit(learn)


def test_csv_logger_in_the_constructor_survives_a_second_fit(dls, tmp_path):
    learn = custom_learner(dls, cbs=CSVLogger(), path=tmp_path, **SMALL)
    with learn.no_bar():
        learn.fit(1)
        learn.fit(2)
    assert len(learn.csv_logger.read_log()) == 2


class StopAt(Callback):
    def after_batch(self):
        if self.iter == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("cb", [MixUp, ActivationStats])
def test_after_an_interrupted_fit_nothing_stays_on(dls, cb):
    learn = custom_learner(dls, **SMALL)
    loss = learn.loss_func
    with pytest.raises(KeyboardInterrupt):
        fit(learn, cbs=[cb(), StopAt()])
    assert learn.loss_func is loss and not any(m._forward_hooks for m in learn.model.modules())
    assert all(p.grad is None for p in learn.model.parameters())
    fit(learn)


# Heads and cached features


class GeM(nn.Module):
    "Generalised mean pooling, whose exponent trains."

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x):
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)


def test_a_pooling_that_trains_is_trained(dls):
    learn = transfer_learner(dls, weights="none")
    learn.model[1][0] = GeM()
    learn.create_opt()
    learn.freeze()
    fit(learn, lr=1e-2)
    assert learn.model[1][0].p.item() != 3


def test_callbacks_see_images_in_a_frozen_fit(dls):
    shapes = []

    class Looking(Callback):
        def after_batch(self):
            shapes.append(self.x.shape)

    fit(transfer_learner(dls, weights="none"), cbs=Looking())
    assert all(len(o) == 4 for o in shapes)


def test_a_slice_of_the_network_is_a_network():
    model = CustomCNN()
    part = model[:4]
    assert len(part) == 4 and part[0] is model[0] and copy.deepcopy(part)(torch.rand(2, 3, 32, 32)).ndim == 4
