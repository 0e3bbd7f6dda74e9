"""Batches out: fastai DataLoaders that gather whole batches from one uint8 tensor, resident on the device."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path

import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorCategory, TensorImage, default_device, to_detach
from fastcore.foundation import L
from fastcore.meta import delegates
from torch import Tensor

from cifar_fast.data.augment import BatchResize, augmentations
from cifar_fast.data.cache import taken
from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.sources import STORED_SIZE, load_images
from cifar_fast.data.tensors import ImageTensors
from cifar_fast.device import full_device
from cifar_fast.errors import InputError, check, is_whole

HOLDOUT_FRACTION = 0.1
_LABELLED = {tuple: [TensorImage, TensorCategory]}
_UNLABELLED = {tuple: [TensorImage]}


class TensorDL(TfmdDL):
    """A fastai DataLoader that takes each batch with one indexing of an `ImageTensors`: no workers, no items.

    Shuffling draws from the loader's own random numbers, so that two loaders made alike give the same batches
    whatever the rest of the program draws. A last batch of a single image, which batch norm cannot train on, joins
    the batch before it.
    """

    chosen: Tensor | None = None  # int64 (k,), on the CPU: the images that a pass takes; None: all

    def __init__(
        self,
        dataset: ImageTensors,  # images and labels
        bs: int = 64,  # images a batch
        shuffle: bool = False,  # whether each pass takes another order
        num_workers: int = 0,  # ignored: batches are made in this process
        device=None,  # where images and batches live; None: where the images are
        weights: Tensor | None = None,  # (N,) of the images: a shuffled pass draws by them, with replacement
        **kwargs,  # of fastai's TfmdDL: after_batch, drop_last, ...
    ):
        _refuse_item_tfms(kwargs)
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if self.weights is not None:
            check(
                "weights", tuple(self.weights.shape), self.weights.shape == (len(dataset),), "a number for each image"
            )
        device = dataset.x.device if device is None else full_device(device)
        super().__init__(dataset.to(device), bs=bs, shuffle=shuffle, num_workers=0, device=device, **kwargs)
        self._n_inp, self._types, self.epoch = 1, _UNLABELLED if dataset.y is None else _LABELLED, 0
        self.shard(0, 1)

    def shard(
        self,
        rank: int,  # of this process
        world: int,  # processes that share the images
    ) -> None:
        """Take this process's images only: every `world`-th of each pass's order.

        Training leaves out what cannot be shared evenly, other images in each pass; validation leaves out none.
        """
        self.rank, self.world = rank, world

    def take(
        self,
        idxs: Tensor | None,  # int64 (k,); None: all
    ) -> None:
        "Let passes take these images only, in an order of their own. Loaders that `new` makes take all."
        self.chosen, self.n = (None, len(self.dataset)) if idxs is None else (idxs.cpu(), len(idxs))

    @property
    def n_own(self) -> int:
        "Images of a pass that this process takes."
        return self.n // self.world if self.shuffle else len(range(self.rank, self.n, self.world))

    def __len__(self) -> int:
        full, rest = divmod(self.n_own, self.bs)
        return full + (rest > 0 and not self.drop_last) - self._joins_last

    @property
    def _joins_last(self) -> bool:
        return self.shuffle and not self.drop_last and self.n_own > self.bs and self.n_own % self.bs == 1

    def to(self, device):
        "Put images and transforms on `device`."
        device = full_device(device)
        self.dataset = self.dataset.to(device)
        super().to(device)

    def new(self, dataset=None, cls=None, **kwargs):
        "A loader like this one over another dataset or with other options."
        kwargs = {"weights": getattr(self, "weights", None) if dataset is None else None, **kwargs}
        res = super().new(dataset, cls, **kwargs)
        res._types = _UNLABELLED if res.dataset.y is None else _LABELLED
        return res

    def shuffle_fn(self, idxs: Sequence[int]) -> Tensor:
        "A permutation drawn on the images' device, or as many indices drawn by `weights`."
        generator = torch.Generator(self.device).manual_seed(self.rng.randrange(2**63))
        if getattr(self, "weights", None) is not None:  # which an older export.pkl lacks
            weights = self.weights if self.chosen is None else self.weights[self.chosen]
            return torch.multinomial(weights.to(self.device), len(idxs), replacement=True, generator=generator)
        return torch.randperm(len(idxs), device=self.device, generator=generator)

    def get_idxs(self) -> Tensor:
        "The order of the next pass: int64 (n,), on the CPU, where fastai's `get_preds` reorders its results."
        order = torch.as_tensor(self.shuffle_fn(range(self.n))).cpu() if self.shuffle else torch.arange(self.n)
        return order if self.chosen is None else self.chosen[order]

    def __iter__(self) -> Iterator[tuple]:
        for idxs in self.slices():
            yield self.batch_at(idxs, self.epoch)

    def slices(self) -> Iterator[Tensor]:
        """The batches of a pass as indices of images: int64 (bs,) on the images' device.

        Raises `InputError` for transforms of single items that this loader was given after it was made.
        """
        _refuse_item_tfms(vars(self))
        self.randomize()
        self.before_iter()
        idxs = self.get_idxs()
        if not isinstance(idxs, Tensor):
            idxs = torch.tensor(list(islice(idxs, self.n)), dtype=torch.int64)
        if self.world > 1:
            idxs = idxs[self.rank :: self.world][: self.n_own]
        idxs = idxs.to(self.device)
        for i in range(len(self)):
            stop = None if self._joins_last and i == len(self) - 1 else (i + 1) * self.bs
            yield idxs[i * self.bs : stop]
        self.epoch += 1
        self.after_iter()

    def batch_at(
        self,
        idxs: Tensor,  # int64 (bs,)
        epoch: int | Tensor,  # of this loader's passes, for transforms that alternate
    ) -> tuple:
        "The images at `idxs`, transformed, and their labels; one tensor of images says `idxs` and `epoch`."
        norm = self._only_normalize()
        batch = self.dataset.batch(idxs, epoch)
        batch = self.after_batch(batch) if norm is None else _normalized(batch, norm)
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        if isinstance(images, Tensor):
            images.idxs, images.epoch = idxs, epoch  # which some operations lose
        return batch

    def to_detach(self, b, cpu: bool = True, gather: bool = True):
        "fastai's, but never gathered: shares differ in length, and metrics are summed when they are complete."
        return to_detach(b, cpu, gather=False)

    def _only_normalize(self) -> Normalize | None:
        "The Normalize of a pipeline that does nothing but make floats and normalise them."
        fs = list(self.after_batch.fs)
        plain = type(self.dataset) is ImageTensors and [type(o) for o in fs] == [IntToFloatTensor, Normalize]
        return fs[1] if plain and fs[0].div == 255 else None


def _normalized(batch: tuple, norm: Normalize) -> tuple:
    """What the pipeline gives, bit for bit, in place and on plain tensors.

    fastai's Pipeline asks each transform about each part of the batch, its tensor types answer every operation in
    Python, and each operation takes fresh memory: some 6 % of a bf16 batch of the CustomCNN on two CPU cores.
    """
    x = batch[0].as_subclass(Tensor).float().div_(255).sub_(norm.mean).div_(norm.std)
    return (TensorImage(x), *batch[1:])


def _refuse_item_tfms(kwargs: dict) -> None:
    for name in ("after_item", "before_batch", "create_item", "create_batch", "after_create"):
        given = kwargs.get(name)
        if given is not None and len(getattr(given, "fs", [given])):
            raise InputError(f"these loaders make whole batches and have no {name}: give transforms to after_batch")


class TensorDataLoaders(DataLoaders):
    "fastai DataLoaders over `TensorDL`s."

    @DataLoaders.device.setter
    def device(self, device):  # `to` sets it too
        DataLoaders.device.fset(self, full_device(device))

    def add_tfms(self, tfms, event: str, loaders=None):
        "fastai's, for `after_batch` alone. Raises `InputError` for transforms of single items."
        if event != "after_batch":
            _refuse_item_tfms({event: tfms})
        return super().add_tfms(tfms, event, loaders)

    def test_dl(self, test_items, rm_type_tfms=None, with_labels: bool = False, **kwargs) -> TensorDL:
        "A loader over files, bytes, PIL images, arrays or tensors, decoded and transformed like validation images."
        return self.valid.new(self.valid_ds.from_items(test_items, with_labels), **kwargs)


def fast_bs(size: int, device: torch.device) -> int:
    """Images a batch for validation and prediction, which keep no activations: large, but bounded in memory.

    Some 500 images of 32 pixels fill two CPU cores; a GPU takes four times as many.
    """
    pixels = 2**19 if device.type == "cpu" else 2**21
    return max(16, pixels // size**2)


def image_dls(
    images: ImageSet,  # from `load_images`
    bs: int = 64,  # training images a batch
    valid: str = "test",  # test: watch the test images each epoch; holdout: a tenth of the training images
    size: int | None = None,  # pixels of a side to enlarge to on the device; None: as stored
    flip: str = "none",  # none, random or alternating
    translate: int = 0,  # pixels of random translation
    cutout: int = 0,  # pixels of a side of cutout
    erase: float = 0.0,  # probability that a random rectangle is blanked
    color: float = 0.0,  # most by which brightness, contrast and saturation vary
    auto_augment: str = "none",  # none, trivial, rand or augmix
    sampling: str = "none",  # none: each image once a pass; balanced: as many draws, each class as often
    seed: int = 0,  # of the holdout split
    val_bs: int | None = None,  # validation images a batch; None: as many as are fast
    num_workers: int | None = None,  # taken as fastai's loaders take it, and ignored: batches are made in this process
    device=None,  # None: fastai's default device
) -> TensorDataLoaders:
    "DataLoaders over a decoded data set, normalised by its own training pixels. Raises `InputError`."
    _check_numbers(bs=bs, size=size, val_bs=val_bs)
    device = full_device(device if device is not None else default_device())
    if len(images.train_y) < 2:
        raise InputError("one training image is too few: batch norm needs two")
    if len(images.vocab) < 2:
        raise InputError(
            f"all images are of one class ({', '.join(images.vocab)}): put those of each class into a folder of its own"
        )
    train_files, test_files = images.files or (None, None)
    if valid == "test":
        train, other = (images.train_x, images.train_y), (images.test_x, images.test_y)
        idxs = torch.arange(len(train[1]) + len(other[1])).split([len(train[1]), len(other[1])])
    elif valid == "holdout":
        idxs = images.holdout(HOLDOUT_FRACTION, seed)
        train, other = ((taken(images.train_x, i), images.train_y[i]) for i in idxs)
        if train_files:
            train_files, test_files = ([train_files[i] for i in o.tolist()] for o in idxs)
    else:
        raise InputError(f"valid is {valid!r}: give test or holdout")
    about = dict(vocab=images.vocab, name=images.name, levels=images.levels)
    train_ds = ImageTensors(*train, split_idx=0, **about)
    valid_ds = ImageTensors(*other, split_idx=1, is_test=valid == "test", **about)
    train_ds.files, valid_ds.files = train_files, test_files
    train_ds.splits = valid_ds.splits = L(o.tolist() for o in idxs)
    stored = images.train_x.shape[-1]
    fixed = [IntToFloatTensor(), Normalize.from_stats(images.mean, images.std, cuda=False)]
    fixed += [BatchResize(size)] if size not in (None, stored) else []
    tfms = fixed + augmentations(flip, translate, cutout, stored, size, erase, color, auto_augment)
    weights = _drawn_alike(train_ds.y, sampling)
    train_dl = TensorDL(train_ds, bs, shuffle=True, device=device, weights=weights, after_batch=tfms)
    val_bs = val_bs or fast_bs(size or stored, device)
    valid_dl = TensorDL(valid_ds, val_bs, device=device, after_batch=deepcopy(fixed))
    return TensorDataLoaders(train_dl, valid_dl, device=device)


def _drawn_alike(y: Tensor, sampling: str) -> Tensor | None:
    "Weights of images by which each class is drawn as often as the others; None where each image comes once."
    check("sampling", sampling, sampling in ("none", "balanced"), "none or balanced")
    return None if sampling == "none" else 1 / y.bincount()[y].double()


@delegates(image_dls)
def cifar_dls(
    bs: int = 64,  # training images a batch
    data: str | Path = "auto",  # auto, cifar10, cifar100, digits, or the path of images in any form
    valid: str = "test",  # test: watch the test images each epoch; holdout: a tenth of the training images
    size: int | None = None,  # pixels fed to the network; a folder's images are stored at it, CIFAR-10 enlarged to it
    images: int = 0,  # training images to use, each class in its share; 0: all
    test_images: int = 0,  # test images to use; 0: all
    labels: str | Path | None = None,  # csv or jsonl that names a folder's images and their classes
    skip_bad: bool = False,  # whether to go on without images that cannot be read
    **kwargs,  # of `image_dls`: flip, translate, cutout, erase, color, auto_augment, sampling, seed, val_bs, device
) -> TensorDataLoaders:
    "CIFAR-10, or whatever `data` names, as fastai DataLoaders. Raises `InputError` for data that cannot be used."
    _check_numbers(bs=bs, size=size)
    found = load_images(data, size or STORED_SIZE, labels, skip_bad).fewer(images, test_images)
    return image_dls(found, bs, valid, size, **kwargs)


def _check_numbers(**numbers) -> None:
    "Raises `InputError` for one that is neither None nor a whole number above 0."
    for name, value in numbers.items():
        where = ", and name images by data=" if isinstance(value, (str, Path)) else ""
        check(name, value, value is None or is_whole(value), f"a whole number of at least 1{where}")
