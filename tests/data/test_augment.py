"""Augmentations do to each image of a batch what they say."""

import pytest
import torch
import torch.nn.functional as F
from fastai.torch_core import TensorImage
from torchvision.transforms import v2

from cifar_fast.data.augment import (
    AlternatingFlip,
    AutoAugment,
    BatchResize,
    ColorJitter,
    Cutout,
    Erase,
    FromTorchvision,
    RandomFlip,
    RandomTranslate,
    augmentations,
)
from cifar_fast.data.loaders import image_dls


def batch(n=400, side=16, epoch=0):
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    return TensorImage(pixels, idxs=torch.arange(n), epoch=epoch)


def train(tfm, x):
    return tfm(x, split_idx=0).as_subclass(torch.Tensor)


def mirrored(out, x):
    "Which images of `out` are mirrors of `x`; all others must be as they were."
    x = x.as_subclass(torch.Tensor)
    flipped = (out == x.flip(-1)).flatten(1).all(1)
    assert (flipped | (out == x).flatten(1).all(1)).all()
    return flipped


def test_random_flip_mirrors_about_half_of_the_images_whole():
    x = batch()
    assert 150 < mirrored(train(RandomFlip(), x), x).sum() < 250
    assert mirrored(train(RandomFlip(p=1.0), x), x).all()


def test_two_epochs_of_alternating_flips_show_both_views_of_each_image():
    x = batch()
    first, second = (mirrored(train(AlternatingFlip(), batch_at), x) for batch_at in (x, at_epoch(x, 1)))
    assert torch.equal(first, ~second)
    assert 150 < first.sum() < 250
    assert torch.equal(first, mirrored(train(AlternatingFlip(), at_epoch(x, 2)), x))


def at_epoch(x, epoch):
    return TensorImage(torch.tensor(x.numpy()), idxs=x.idxs, epoch=epoch)


def test_translation_is_a_crop_of_the_reflected_image():
    x = batch(50)
    out = train(RandomTranslate(3), x)
    padded = F.pad(x.as_subclass(torch.Tensor).float(), (3, 3, 3, 3), mode="reflect").to(torch.uint8)
    found = set()
    for image, big in zip(out, padded):
        crops = {(i, j) for i in range(7) for j in range(7) if torch.equal(image, big[:, i : i + 16, j : j + 16])}
        assert crops
        found |= crops
    assert len(found) > 15


def test_erase_blanks_one_rectangle_of_some_images():
    x = TensorImage(torch.ones(400, 3, 20, 20))
    gone = (train(Erase(0.5), x) == 0)[:, 0]
    erased = gone.flatten(1).any(1)
    assert 150 < erased.sum() < 250
    for o in gone[erased]:
        rows, cols = o.any(1), o.any(0)
        assert torch.equal(o, rows[:, None] & cols) and 0.01 < o.float().mean() < 0.4
        assert all(int(s[1:].ne(s[:-1]).sum()) <= 2 for s in (rows.int(), cols.int()))


def test_color_jitter_draws_for_each_image_and_leaves_shapes():
    x = TensorImage(torch.rand(1, 3, 8, 8).expand(200, -1, -1, -1) * 0.5 + 0.25)
    out = train(ColorJitter(0.4), x)
    assert 0 <= out.min() and out.max() <= 1
    assert len(out.flatten(1).unique(dim=0)) == 200
    brightness = out.mean((1, 2, 3)) / x.mean().item()
    assert brightness.min() < 0.7 and brightness.max() > 1.3
    grey = TensorImage(torch.full((50, 3, 4, 4), 0.5))
    spread = train(ColorJitter(0.4), grey)
    assert (spread - spread[:, :1]).abs().max() < 1e-3, "a grey image got a colour"


@pytest.mark.parametrize("policy", ["trivial", "rand", "augmix"])
def test_policies_draw_several_times_a_batch_and_keep_what_images_are(policy):
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    x = TensorImage(image.expand(64, -1, -1, -1).clone(), idxs=torch.arange(64), epoch=0)
    out = AutoAugment(policy)(x, split_idx=0)
    assert (out.dtype, out.shape, out.epoch) == (torch.uint8, x.shape, 0)
    assert len(out.as_subclass(torch.Tensor).flatten(1).unique(dim=0)) > 6
    again = AutoAugment(policy)(x, split_idx=1)
    assert torch.equal(again, x), "validation images were changed"


def test_all_augmentations_work_together(digits):
    tfms = dict(flip="random", translate=2, cutout=4, erase=0.5, color=0.3, auto_augment="trivial")
    dls = image_dls(digits.fewer(100, 50), size=40, device="cpu", **tfms)
    dls.add_tfms([FromTorchvision(v2.RandomGrayscale(0.5))], "after_batch")
    assert all(xb.shape[1:] == (3, 40, 40) and xb.isfinite().all() for xb, _ in dls.train)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_blanks_one_square_an_image(size):
    x = TensorImage(torch.ones(200, 3, 16, 16))
    blank = (train(Cutout(size), x) == 0).all(1)
    assert blank.flatten(1).sum(1).max() == size**2
    for image in blank:
        rows, cols = image.any(1).sum(), image.any(0).sum()
        assert 1 <= rows <= size and 1 <= cols <= size and image.sum() == rows * cols


@pytest.mark.parametrize("tfm", [RandomFlip(), AlternatingFlip(), RandomTranslate(2), Cutout(4)])
def test_validation_images_stay_as_they_are_and_dtypes_are_kept(tfm):
    x = batch(20)
    assert torch.equal(tfm(x, split_idx=1), x)
    assert train(tfm, x).dtype == torch.uint8


def test_resizing_applies_to_training_and_validation(digits):
    dls = image_dls(digits, size=48, device="cpu")
    assert [dl.one_batch()[0].shape[-1] for dl in dls.loaders] == [48, 48]
    flat = BatchResize(8)(TensorImage(torch.full((2, 3, 32, 32), 0.25)), split_idx=1)
    assert flat.shape == (2, 3, 8, 8) and torch.allclose(flat.as_subclass(torch.Tensor), torch.tensor(0.25))


def test_options_name_the_transforms(digits):
    assert [type(o) for o in augmentations("alternating", 2, 4)] == [AlternatingFlip, RandomTranslate, Cutout]
    assert augmentations() == []
    with pytest.raises(ValueError, match="sideways"):
        augmentations("sideways")


def test_loaders_augment_training_images_only(digits):
    dls = image_dls(digits, flip="random", translate=3, cutout=8, device="cpu", val_bs=32)
    plain = image_dls(digits, device="cpu", val_bs=32)
    assert torch.equal(dls.valid.one_batch()[0], plain.valid.one_batch()[0])
    order = dls.train.new(shuffle=False).one_batch()[0]
    assert not torch.equal(order, plain.train.new(shuffle=False).one_batch()[0])
