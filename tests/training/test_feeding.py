"""Loaders, keywords and heads that a Learner is handed. What holds of stock Learners too stands in tests/habits."""

import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from fastai.torch_core import TensorCategory
from fastai.vision.augment import RandomResizedCropGPU
from fastai.vision.data import ImageDataLoaders
from fasttransform import Pipeline, Transform
from torch import nn

import cifar_fast.training.schedules  # noqa: F401 - patches fit_decay onto Learner
from cifar_fast.data.loaders import image_dls
from cifar_fast.errors import InputError
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
    wanted, preds = list(learn.validate()), learn.get_preds()[0]
    assert list(learn.validate(dl=dls.valid)) == pytest.approx(wanted)
    assert torch.allclose(learn.get_preds(dl=dls.test_dl(dls.valid_ds, with_labels=True))[0], preds, atol=1e-5)


def test_the_callers_loaders_of_fastai_are_fed_so_too(image_folder):
    tfms = [Normalize.from_stats([0.1] * 3, [0.5] * 3, cuda=False)]
    folder = image_folder({f"{o}/{c}": 4 for o in ("train", "test") for c in ("cat", "dog")}, (24, 24))
    dls = ImageDataLoaders.from_folder(folder, valid="test", bs=2, device="cpu", num_workers=0, batch_tfms=tfms)
    learn = transfer_learner(dls, size=24, weights="none")
    assert list(learn.validate(dl=dls.valid)) == pytest.approx(list(learn.validate()))


def test_shown_results_are_fed_so_too(dls, monkeypatch):
    shown = []
    monkeypatch.setattr(type(dls.valid), "show_results", lambda dl, b, *args, **kwargs: shown.append(b[0].shape))
    learn = custom_at_16(dls)
    learn.show_results(dl=dls.valid)
    learn.dls = dls
    learn.show_results()
    assert [o[-1] for o in shown] == [16, 16]


@pytest.mark.parametrize("size", [0, -3, 2.5, "32"])
def test_a_size_that_is_none_is_refused(dls, size):
    for make in (custom_learner, transfer_learner):
        with pytest.raises(InputError, match="size"):
            make(dls, size=size)


def test_loaders_that_do_not_say_their_classes_are_refused():
    loader = torch.utils.data.DataLoader([(torch.rand(3, 32, 32), 0)] * 4, 2)
    for make in (custom_learner, transfer_learner):
        with pytest.raises(InputError, match="how many classes"):
            make(DataLoaders(loader, loader))


def test_dls_put_in_place_of_the_learners_are_fed_so_too(few, dls):
    learn = custom_learner(dls, size=16, **SMALL)
    learn.dls = image_dls(few, bs=16, device="cpu", size=48)
    fit(learn)
    assert learn.dls.one_batch()[0].shape[-1] == 16


class Counted(Transform):
    "A transform of labels, without split_idx, as users write them."

    order, n = Normalize.order, 0

    def encodes(self, y: TensorCategory):
        self.n += 1
        return y


def before_normalize(dls, tfm):
    dls.train.after_batch = Pipeline([tfm, *dls.train.after_batch.fs])


@pytest.mark.parametrize(
    "add",
    [lambda dls, o: dls.train.after_batch.add(o), lambda dls, o: dls.add_tfms([o], "after_batch"), before_normalize],
)
def test_a_transform_that_a_user_has_added_runs_in_the_fit_and_keeps_its_place(few, dls, add):
    learn = custom_learner(dls, size=16, **SMALL)
    for given in (learn.dls, image_dls(few, bs=16, device="cpu", size=48)):
        learn.dls, counted = given, Counted()
        add(given, counted)
        before = [type(o) for o in given.train.after_batch.fs]
        fit(learn)
        assert counted.n >= len(given.train)
        assert [type(o) for o in learn.dls.train.after_batch.fs] == before
        assert learn.dls.one_batch()[0].shape[-1] == 16


def test_of_two_transforms_of_a_kind_both_run(few):
    dls, counted = image_dls(few, bs=16, device="cpu"), [Counted(), Counted()]
    dls.add_tfms(counted[:1], "after_batch")
    learn = custom_learner(dls, size=16, **SMALL)
    learn.dls.train.after_batch.add(counted[1])
    n = len([o for o in fit(learn).dls.train.after_batch.fs if isinstance(o, Counted)])
    assert n == 2 and counted[1].n >= len(dls.train)


def test_fastais_augmentations_that_resize_give_way(few, dls):
    learn = custom_learner(dls, size=16, **SMALL)
    learn.dls = image_dls(few, bs=16, device="cpu")
    learn.dls.add_tfms([RandomResizedCropGPU(24)], "after_batch")
    assert fit(learn).dls.one_batch()[0].shape[-1] == 16


def test_folds_by_hand_are_augmented(dls):
    part = dls.train.new(dataset=dls.train_ds.subset(torch.arange(100)))
    assert part.dataset.split_idx == 0
    torch.manual_seed(0)
    part = part.new(shuffle=False)
    assert not torch.equal(*(part.one_batch()[0] for _ in range(2)))


def test_plain_torch_loaders_are_enough():
    data = [(torch.rand(3, 32, 32), i % 10) for i in range(40)]
    loaders = [torch.utils.data.DataLoader(data, 8) for _ in range(2)]
    dls = DataLoaders(*loaders)
    dls.c = 10
    for learn in (custom_learner(dls, **SMALL), fast_learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))):
        fit(learn)
    with pytest.raises(InputError, match="plain DataLoaders"):
        custom_learner(dls, size=16)


# Optimizers and keywords


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


# Heads


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


def test_what_differs_from_batch_to_batch_before_a_flatten_runs_in_each(dls, capsys):
    learn = transfer_learner(dls, weights="none")
    learn.model[1].insert(1, nn.Dropout2d())
    learn.fit(1)
    assert "its pooling is another in each batch" in capsys.readouterr().out
