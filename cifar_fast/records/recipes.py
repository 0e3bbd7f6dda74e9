"""The record recipes: the numbers of each target, and the Learner that they make."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil, inf
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastcore.basics import patch
from fastcore.foundation import L
from torch import Tensor

from cifar_fast.data.augment import Cutout, RandomFlip, RandomTranslate, augmentations
from cifar_fast.data.feeding import copy_dls
from cifar_fast.data.loaders import TensorDL
from cifar_fast.data.tensors import BatchCrossEntropy
from cifar_fast.errors import InputError, check, is_whole
from cifar_fast.models.recordnet import BiasNorm, RecordNet
from cifar_fast.records.callbacks import BriefBias, GrowingImages, HardImages
from cifar_fast.records.optimizer import RecordMuon
from cifar_fast.training.callbacks.compiled import Compiled
from cifar_fast.training.learner import fast_learner
from cifar_fast.training.optimizers import LiveOptim

LEARNER_OPTIONS = ("loss_func", "lr", "model_dir", "wd_bn_bias", "train_bn", "moms", "default_cbs")  # of a Learner
N_WHITENING = 5_000  # training images of 32 pixels whose patches the first layer whitens; fewer where they are larger
MIN_BATCHES = 25  # an epoch: smaller data sets get smaller batches


@dataclass(frozen=True)
class Recipe:
    """The numbers of one record recipe. Rates are those of the first batch, and fall to 0 in a straight line.

    `bias_lr` and `head_lr` are for a loss summed over the batch, as in their source, airbench94_muon.
    """

    epochs: int = 8  # training epochs
    bs: int = 2_000  # images a batch
    widths: tuple[int, ...] = (64, 256, 256)  # channels of the network's groups
    depth: int = 2  # convolutions a group
    bn_momentum: float = 0.4  # weight of a new batch in the batch norms' running statistics
    filter_lr: float = 0.24  # of Muon
    filter_momentum: float = 0.6  # of Muon
    bias_lr: float = 0.053  # of the batch norms' and the first layer's biases
    head_lr: float = 0.67  # of the last layer
    momentum: float = 0.85  # of biases and last layer
    wd: float = 2e-6  # weight decay of biases and last layer, per image of a batch
    label_smoothing: float = 0.2  # share of the label that goes to all classes
    whitening_share: float = 3 / 8  # part of the training, from its begin, in which the first layer's bias is trained
    flip: str = "alternating"  # none, random or alternating
    translate: int = 2  # pixels
    cutout: int = 0  # pixels
    sizes: tuple[int, ...] = ()  # pixels of a side in as many equal parts of the training; one more follows, unshrunk
    hard: tuple[float, ...] = ()  # share of the images, the hardest, in as many equal parts of the epochs; (): all
    views: int = 6  # of a test image: 1 itself, 2 and its mirror image, 6 and both shifted by a pixel

    def __post_init__(self):
        "Raises `InputError` for numbers that make no training."
        check("epochs", self.epochs, is_whole(self.epochs, 0), "0 or more")
        check("bs", self.bs, is_whole(self.bs), "1 or more")
        for name in ("filter_lr", "bias_lr", "head_lr", "wd"):
            value = getattr(self, name)
            check(name, value, isinstance(value, Real) and 0 <= value < inf, "a number of at least 0")
        for name in ("bn_momentum", "filter_momentum", "momentum", "label_smoothing", "whitening_share"):
            value = getattr(self, name)
            check(name, value, isinstance(value, Real) and 0 <= value <= 1, "a number from 0 to 1")
        check("widths", self.widths, _are_counts(self.widths) and len(self.widths) > 0, "a tuple of one count or more")
        check("sizes", self.sizes, _are_counts(self.sizes), "a tuple of counts, or ()")
        check("views", self.views, self.views in (1, 2, 6), "1, 2 or 6")
        are_shares = isinstance(self.hard, Sequence) and all(isinstance(o, Real) and 0 < o <= 1 for o in self.hard)
        check("hard", self.hard, are_shares, "a tuple of shares above 0 and up to 1, or ()")


def _are_counts(value) -> bool:
    return isinstance(value, Sequence) and all(map(is_whole, value))


# 94: the numbers of airbench94_muon, of March 2025. 96: the network and augmentation of airbench96_faster of the same
# time, trained by Muon on all images in place of SGD on those that a smaller network found hard. 90: for two CPU cores.
RECIPES = {
    90: Recipe(
        epochs=5, bs=500, widths=(48, 192, 256), filter_lr=0.17, label_smoothing=0.1, whitening_share=0.0,
        sizes=(16, 20, 24), hard=(1, 1, 0.7, 0.5, 0.4), views=2,
    ),
    94: Recipe(),
    96: Recipe(
        epochs=34, bs=1_000, widths=(128, 384, 512), depth=3, filter_lr=0.17, whitening_share=3 / 34, translate=4,
        cutout=12,
    ),
}  # fmt: skip


def record_groups(model: RecordNet) -> list[list]:
    "Layer groups of a `RecordNet`: the whitening bias, the batch norms' biases, the filters, the head."
    biases = [m.bias for m in model.groups.modules() if isinstance(m, BiasNorm)]
    filters = [p for p in model.groups.parameters() if p.ndim == 4]
    return [[model.whitening.bias], biases, filters, list(model.head.parameters())]


def _muon(params: list, lr: float, recipe: Recipe, bs: int, compile: bool) -> RecordMuon:
    "The optimizer of `record_groups`; `lr` multiplies the recipe's rates. Raises `InputError` for other groups."
    if len(params) != 4:
        raise InputError(f"the record optimizer is for a RecordNet's 4 groups, not {len(params)}: give learn.opt_func")
    rates = [recipe.bias_lr * bs, recipe.bias_lr * bs, recipe.filter_lr, recipe.head_lr * bs]
    decays = [recipe.wd * bs / rate if rate else 0.0 for rate in rates]
    groups = [
        dict(params=list(group), rate=rate, momentum=recipe.momentum, weight_decay=wd)
        for group, rate, wd in zip(params, rates, decays)
    ]
    groups[2].update(momentum=recipe.filter_momentum, weight_decay=0.0)
    return RecordMuon(groups, lr, compile=compile)


def record_learner(
    dls: DataLoaders,  # of this package; stays as it is
    target: int = 94,  # percent that the recipe is made for: 90, 94 or 96
    precision: str = "auto",  # auto, fp32, bf16 or fp16
    compile: bool | str = False,  # whether to run network and optimizer through torch.compile, or a mode of it
    metrics=accuracy,  # fastai metrics
    cbs: Callback | list | None = None,  # further callbacks
    path: str | Path | None = None,  # where the Learner saves and exports; None: that of `dls`
    **changes,  # of the recipe's numbers: epochs, bs, widths, ...; of fastai's Learner: loss_func, moms, ...
) -> Learner:
    """A Learner that `fit_record` trains by the record recipe for `target` percent on CIFAR-10.

    Batches take the recipe's size, flips, shifts and cutout, whatever `dls` has. The learning rate is a factor of the
    recipe's rates: 1 is the recipe. Raises `InputError` for another target, numbers that do not fit, images too small
    for the network or data that do not come from this package.
    """
    if target not in RECIPES:
        raise InputError(f"there is no recipe for {target} %: give one of {', '.join(map(str, RECIPES))}")
    kwargs = {k: changes.pop(k) for k in list(changes) if k in LEARNER_OPTIONS}
    if unknown := set(changes) - set(asdict(RECIPES[target])):
        raise InputError(f"a recipe has no {unknown.pop()!r}: it has {', '.join(asdict(RECIPES[target]))}")
    if not isinstance(dls.train, TensorDL):
        raise InputError("record_learner needs DataLoaders of this package: make them with cifar_dls or image_dls")
    recipe = replace(RECIPES[target], **changes)
    pixels, least = dls.valid.one_batch()[0].shape[-1], 2 ** len(recipe.widths) + 1
    if (smallest := min([pixels, *recipe.sizes])) < least:
        raise InputError(f"images of {smallest} pixels are too small for the network: give {least} or more")
    dls = record_dls(dls, recipe, pixels)
    model = RecordNet(dls.c, recipe.widths, recipe.depth, recipe.bn_momentum)
    bs = dls.train.bs
    recipe = replace(recipe, bs=bs)  # what small data come to
    opt = partial(LiveOptim, opt=partial(_muon, recipe=recipe, bs=bs, compile=bool(compile)), convert_groups=False)
    mode = {"mode": compile} if isinstance(compile, str) else {}
    tuned = [Compiled(dynamic=False, **mode)] * bool(compile)
    extra = [BriefBias(recipe.whitening_share)] + [GrowingImages(recipe.sizes)] * bool(recipe.sizes)
    kwargs = {"loss_func": BatchCrossEntropy(label_smoothing=recipe.label_smoothing), "lr": 1.0, **kwargs}
    learn = fast_learner(
        dls, model, "RecordNet", "none", opt, precision=precision, metrics=metrics, cbs=L(tuned) + L(extra) + L(cbs),
        path=path, splitter=record_groups, **kwargs,
    )  # fmt: skip
    learn.recipe = recipe
    learn.whiten()
    return learn


def record_dls(
    dls: DataLoaders,  # of this package
    recipe: Recipe,  # whose batch size and augmentations are wanted
    pixels: int,  # of a side of the images as the network gets them
) -> DataLoaders:
    "A copy of `dls` with the recipe's batch size, flips, shifts and cutout. Raises `InputError` where they do not fit."
    res = copy_dls(dls)
    train = res.train
    kept = [o for o in train.after_batch.fs if not isinstance(o, (RandomFlip, RandomTranslate, Cutout))]
    bs = max(2, min(recipe.bs, train.n // MIN_BATCHES))
    tfms = kept + augmentations(recipe.flip, recipe.translate, recipe.cutout, train.dataset.x.shape[-1], pixels)
    n_batches = ceil(res.valid.n / res.valid.bs)
    valid = res.valid.new(bs=ceil(res.valid.n / n_batches))  # of one size, for which torch.compile compiles once
    res.loaders = [train.new(bs=bs, drop_last=True, after_batch=tfms), valid, *res.loaders[2:]]
    return res


@patch
def whiten(self: Learner) -> None:
    """Fit a `RecordNet`'s first layer to training images from all over the data set, which may be sorted by class.

    Raises `InputError` where there are no images, as in a Learner that was loaded.
    """
    images = self.dls.train_ds
    if not len(images):
        raise InputError("the first layer is fitted to training images, and this Learner has none")

    def fed(idxs: Tensor) -> Tensor:
        batch = images.batch(idxs)
        for tfm in self.dls.valid.after_batch.fs:
            batch = tfm(batch)
        return batch[0].as_subclass(Tensor)

    pixels = fed(torch.arange(1)).shape[-1]
    n = max(100, min(N_WHITENING, N_WHITENING * 32**2 // pixels**2))
    x = fed(torch.arange(0, len(images), ceil(len(images) / n)))
    self.model.to(x.device).whiten(x)


@patch
def fit_record(
    self: Learner,
    n_epoch: int | None = None,  # epochs; None: the recipe's
    lr: float = 1.0,  # factor of the recipe's rates
    cbs=None,  # callbacks of this fit
) -> None:
    """Train a `record_learner` by its recipe: every rate falls to 0 in a straight line, the whitening bias's sooner.

    Where the recipe says so, the last epochs are of hard images alone: they have fewer batches, from one to the next of
    which rates fall further. The optimizer is made anew, with the recipe's numbers, whatever an earlier fit has left in
    it. Raises `InputError` for another Learner, one without training images, and numbers that do not fit.
    """
    if "recipe" not in vars(self):
        raise InputError("fit_record is for Learners of record_learner: others have fit_decay and fit_one_cycle")
    n_epoch = self.recipe.epochs if n_epoch is None else n_epoch
    check("n_epoch", n_epoch, is_whole(n_epoch, 0), "0 or more")
    check("lr", lr, isinstance(lr, Real) and 0 < lr < inf, "a factor of the recipe's rates, above 0")
    if not len(self.dls.train_ds):
        raise InputError("this Learner has no training images: give it some, as learn.dls")
    brief = max(self.recipe.whitening_share, 1e-9)

    def rates(pos: float) -> np.ndarray:
        return lr * np.array([max(0.0, 1 - pos / brief), *[1 - pos] * 3])

    hard = [HardImages(self.recipe.hard)] * bool(self.recipe.hard)
    self.fit(n_epoch, cbs=L(ParamScheduler({"lr": rates})) + L(hard) + L(cbs), reset_opt=True)
