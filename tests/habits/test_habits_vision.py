"""What people do with images, as in fastai's notebooks 09_vision.augment and 21_vision.learner."""

import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropy
from fastai.optimizer import Adam
from fastai.torch_core import TensorImage
from fastai.vision.augment import (
    Brightness,
    Contrast,
    Dihedral,
    Flip,
    Hue,
    RandomErasing,
    RandomResizedCropGPU,
    Resize,
    Rotate,
    Saturation,
    Warp,
    Zoom,
    aug_transforms,
)
from fastai.vision.learner import create_body, create_head, default_split
from fasttransform import Transform
from torch import nn

from habits.probes import rate
from habits.table import departs, is_stock, only


def with_tfms(make_dls, kind, tfms):
    made = make_dls(kind)
    made.add_tfms(tfms, "after_batch")
    return made


# Augmentation


@pytest.mark.parametrize(
    "tfm",
    [
        lambda: Flip(p=1.0),
        lambda: Dihedral(p=1.0),
        lambda: Rotate(30, p=1.0),
        lambda: Zoom(max_zoom=1.5, p=1.0),
        lambda: Warp(0.4, p=1.0),
        lambda: Brightness(0.5, p=1.0),
        lambda: Contrast(0.5, p=1.0),
        lambda: Saturation(0.5, p=1.0),
        lambda: Hue(0.3, p=1.0),
        lambda: RandomErasing(p=1.0),
    ],
    ids="Flip Dihedral Rotate Zoom Warp Brightness Contrast Saturation Hue RandomErasing".split(),
)
def test_batch_transforms_of_fastai(dls, tfm):
    before = dls.valid.one_batch()[0]
    dls.add_tfms([tfm()], "after_batch")
    assert torch.allclose(dls.valid.one_batch()[0], before, atol=1e-3)
    train = dls.train.new(shuffle=False, drop_last=False)
    plain = train.new(after_batch=[o for o in train.after_batch.fs if type(o) is not type(tfm())]).one_batch()[0]
    assert any(not torch.allclose(train.one_batch()[0], plain, atol=1e-2) for _ in range(3))


def test_aug_transforms(dls):
    dls.add_tfms(aug_transforms(size=16), "after_batch")
    assert dls.one_batch()[0].shape == (8, 3, 16, 16) and dls.valid.one_batch()[0].shape == (8, 3, 16, 16)


def test_aug_transforms_train(learn, make_dls):
    learn.dls = with_tfms(make_dls, learn.kind, aug_transforms(flip_vert=True, max_rotate=20.0, max_warp=0.0))
    learn.fit(1)
    assert len(learn.recorder.losses) == 2


def test_loaders_without_augmentations_put_in_place(learn, make_dls, again):
    other = again(with_tfms(make_dls, learn.kind, [Flip(p=1.0), Brightness(0.5, p=1.0)]))
    other.dls = make_dls(learn.kind)
    other.fit(1)
    wanted = make_dls(learn.kind).train.new(shuffle=False).one_batch()[0]
    assert torch.allclose(other.dls.train.new(shuffle=False).one_batch()[0], wanted, atol=1e-3)


def test_random_crops_on_the_device(dls):
    dls.add_tfms([RandomResizedCropGPU(8)], "after_batch")
    assert dls.one_batch()[0].shape[-1] == 8


def test_a_transform_from_torchvision(dls):
    from torchvision.transforms import v2

    grey = v2.Grayscale(num_output_channels=3)

    def greyed(x: TensorImage):
        return TensorImage(grey(x))

    dls.train.after_batch.add(Transform(greyed, order=200))
    xb, _ = dls.one_batch()
    assert torch.allclose(xb[:, 0], xb[:, 1], atol=1e-3)


@departs("batches are made whole, and have no single items to transform", "have no after_item")
def test_resize_as_an_item_transform(dls):
    dls.add_tfms([Resize(8)], "after_item")


def test_normalise_by_other_numbers(dls):
    dls.valid.after_batch.normalize.mean = torch.zeros(1, 3, 1, 1)
    dls.valid.after_batch.normalize.std = torch.ones(1, 3, 1, 1)
    assert dls.valid.one_batch()[0].min() >= 0


def test_without_normalising(dls):
    dl = dls.valid.new(after_batch=[o for o in dls.valid.after_batch.fs if not isinstance(o, Normalize)])
    assert dl.one_batch()[0].min() >= 0


# Test-time augmentation


def test_tta(learn):
    preds, targs = learn.tta(n=2)
    assert preds.shape == (8, 4) and targs.shape == (8,) and torch.allclose(preds.sum(1), torch.ones(8), atol=1e-4)


def test_tta_of_the_maximum(learn):
    assert learn.tta(n=2, use_max=True)[0].shape == (8, 4)


def test_tta_without_mixing(learn):
    (aug, plain), _ = learn.tta(n=2, beta=None)
    assert torch.allclose(plain, learn.get_preds()[0], atol=1e-4) and aug.shape == plain.shape


def test_tta_of_files(learn, photos):
    files = sorted((photos / "valid").rglob("*.png"))
    assert learn.tta(dl=learn.dls.test_dl(files), n=2)[0].shape == (8, 4)


def test_tta_of_the_training_images(learn):
    assert len(learn.tta(ds_idx=0, n=1)[0]) == 16


def test_a_fit_after_tta(learn):
    learn.tta(n=1)
    learn.fit(1)
    assert len(learn.recorder.values) == 1


# Models


@only("stock", "transfer", "cached")
def test_a_head_of_fastai(learn):
    learn.model[1] = nn.Sequential(nn.Flatten(), *create_head(256 if is_stock(learn) else 16, 4, pool=False))
    learn.create_opt()
    learn.freeze()
    learn.fit(1)
    assert learn.get_preds()[0].shape == (8, 4)


@departs("its recipe is for its own network", "trains a RecordNet", of=("record",))
def test_create_a_body(learn, make_learn):
    body = create_body(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    learn.model = nn.Sequential(body, create_head(8, 4))
    learn.splitter, learn.opt, learn.opt_func = default_split, None, Adam
    learn.fit(1)
    assert learn.get_preds()[0].shape == (8, 4)


@only("stock", "transfer", "cached")
def test_body_and_head(learn):
    assert len(learn.model) == 2 and [len(learn.opt.param_lists) if learn.opt else 2] == [2]


@only("stock", "transfer", "cached")
def test_discriminative_rates(learn):
    learn.unfreeze()
    learn.fit_one_cycle(1, slice(1e-5, 1e-3))
    assert learn.opt.hypers[0]["lr"] < learn.opt.hypers[-1]["lr"]


@only("stock", "transfer", "cached")
def test_a_frozen_fit_trains_the_head(learn):
    learn.create_opt()
    learn.freeze()
    head = [p.detach().clone() for p in learn.model[1].parameters()]
    body = [p.detach().clone() for p in learn.model[0].parameters() if p.ndim > 1]
    learn.fit(1, 1e-2)
    assert not all(torch.equal(a, b) for a, b in zip(head, learn.model[1].parameters()))
    assert all(torch.equal(a, b) for a, b in zip(body, [p for p in learn.model[0].parameters() if p.ndim > 1]))


@only("stock", "transfer", "cached")
def test_frozen_then_unfrozen(learn):
    learn.freeze()
    learn.fit(1, 1e-2)
    learn.unfreeze()
    body = [p.detach().clone() for p in learn.model[0].parameters()]
    learn.fit(1, 1e-2)
    assert not all(torch.equal(a, b) for a, b in zip(body, learn.model[0].parameters()))


@only("stock", "transfer", "cached")
def test_another_head_by_hand(learn):
    learn.model[1][-1] = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    learn.create_opt()
    learn.freeze()
    learn.fit(1, 1e-2)
    assert learn.get_preds()[0].shape == (8, 4)


@only("stock", "transfer", "cached")
def test_a_head_of_a_class_of_ones_own(learn):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(16, 4)

        def forward(self, x):
            return self.dense(x.mean((2, 3)) if x.ndim == 4 else x)

    learn.model[1] = Head()
    learn.create_opt()
    learn.freeze()
    before = learn.model[1].dense.bias.detach().clone()
    learn.fit(1, 1e-2)
    assert not torch.equal(before, learn.model[1].dense.bias)


@departs(
    "batch norms of a frozen body keep their statistics, so that its features are the same in each epoch: "
    "`frozen_bn='train'` lets them move"
)
@only("stock", "transfer", "cached")
def test_batch_norms_of_a_frozen_body(learn):
    norm = next(m for m in learn.model[0].modules() if isinstance(m, nn.BatchNorm2d))
    learn.create_opt()
    learn.freeze()
    before = norm.running_mean.clone()
    learn.fit(1)
    assert torch.equal(before, norm.running_mean) != is_stock(learn)


@pytest.mark.parametrize(
    "loss",
    [LabelSmoothingCrossEntropy(), FocalLossFlat(), CrossEntropyLossFlat(weight=torch.ones(4))],
    ids=["smoothing", "focal", "weights"],
)
def test_losses_of_fastai(learn, loss):
    learn.loss_func = loss
    learn.fit(1)
    assert learn.get_preds()[0].sum(1).allclose(torch.ones(8))


def test_a_loss_as_a_keyword(again):
    loss = FocalLossFlat()
    if again.kind == "stock":
        learn = again()
        learn = Learner(learn.dls, learn.model, loss)
    else:
        learn = again(loss_func=loss)
    learn.fit(1)
    assert learn.loss_func is loss


def test_a_model_in_channels_last(learn):
    learn.model.to(memory_format=torch.channels_last)
    learn.fit(1)
    assert len(learn.recorder.values) == 1


@only("stock", "custom", "transfer", "cached")
def test_a_part_of_the_model(learn):
    part = learn.model[:1]
    assert isinstance(part, nn.Sequential) and part(learn.dls.one_batch()[0]).shape[0] == 8


def test_init_of_ones_own(learn):
    from fastai.torch_core import apply_init

    apply_init(learn.model, nn.init.kaiming_normal_)
    learn.fit(1)
    assert len(learn.recorder.values) == 1


def test_the_state_of_the_model(learn):
    state = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.fit(1, rate(learn))
    learn.model.load_state_dict(state)
    assert all(torch.equal(state[k], v) for k, v in learn.model.state_dict().items())


def test_images_in_a_callback_are_normalised(learn):
    seen = []
    learn.fit(1, cbs=Callback(before_batch=lambda self: seen.append(self.x.min().item())))
    assert min(seen) < 0
