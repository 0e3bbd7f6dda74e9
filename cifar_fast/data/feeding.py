"""How images are fed to a model: loaders resized and normalised as it was made for, whoever made them."""

from copy import copy, deepcopy

import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IntToFloatTensor, Normalize, get_c
from fastai.torch_core import default_device
from fasttransform import Pipeline, Transform
from torch import Tensor

from cifar_fast.data.augment import BatchResize, Cutout
from cifar_fast.data.loaders import TensorDL, fast_bs
from cifar_fast.errors import InputError, check, is_whole

FEEDING = (IntToFloatTensor, BatchResize, Normalize)  # what makes of images the input of a model, the same each time


def fixed_tfms(dl: TfmdDL) -> list:
    "The batch transforms that training and validation images share."
    return [o for o in dl.after_batch.fs if not _augments(o)]


def _augments(tfm) -> bool:
    "Whether `tfm` changes training images alone; fastai's affine ones come without split_idx, and may resize all."
    return getattr(tfm, "split_idx", None) == 0 or (hasattr(tfm, "before_call") and getattr(tfm, "size", None) is None)


def fed_dl(
    dl,  # a loader, or batches
    feeding: list | None,  # of `fixed_tfms`; None: whatever it gives
):
    "`dl`, or a loader like it that resizes and normalises by `feeding`; whatever else it does to a batch stays."
    if feeding is None or not isinstance(dl, TfmdDL):
        return dl
    feeds = _feeds(dl, feeding)
    if _same(feeds, feeding):
        return dl
    place = {_kind(o): i for i, o in enumerate(dl.after_batch.fs)}
    tfms = [*deepcopy(feeding), *(o for o in dl.after_batch.fs if o not in feeds)]
    return dl.new(after_batch=Pipeline(sorted(tfms, key=lambda o: place.get(_kind(o), -1))))  # Pipeline sorts by order


def fed_dls(dls: DataLoaders, feeding: list | None) -> DataLoaders:
    "`dls`, or a copy of them whose loaders are `fed_dl`."
    loaders = [fed_dl(o, feeding) for o in dls.loaders]
    if all(a is b for a, b in zip(loaders, dls.loaders)):
        return dls
    return _with_loaders(dls, loaders)


def _with_loaders(dls: DataLoaders, loaders: list) -> DataLoaders:
    res = copy(dls)
    res.loaders = loaders
    return res


def _feeds(dl: TfmdDL, feeding: list) -> list:
    "The batch transforms in whose place `feeding` stands: what resizes or normalises, and what it has itself, once."
    left, res = list(map(_kind, feeding)), []
    for tfm in fixed_tfms(dl):
        if _kind(tfm) in left:
            left.remove(_kind(tfm))
        elif type(tfm) not in FEEDING and not hasattr(tfm, "before_call"):  # which fastai's that resize have
            continue
        res.append(tfm)
    return res


def _kind(tfm) -> tuple:
    return type(tfm), vars(tfm).get("_name")  # which a function has that was made a Transform


def _same(some: list, others: list) -> bool:
    return sorted(map(describe, some)) == sorted(map(describe, others))


def describe(tfm: Transform) -> str:
    "A batch transform's name, and the numbers and names that it holds."
    about = {k: v.flatten().tolist() if isinstance(v, Tensor) else v for k, v in vars(tfm).items()}
    return f"{type(tfm).__name__} {sorted((k, v) for k, v in about.items() if isinstance(v, (int, float, list, str)))}"


def placed(dls: DataLoaders) -> DataLoaders:
    "`dls`, on fastai's default device where they name none, as plain loaders of torch do."
    if getattr(dls, "device", None) is not None:
        return dls
    res = copy(dls)
    res._device = default_device()  # past the property, which moves what plain loaders do not have
    return res


def n_classes(dls: DataLoaders) -> int:
    "Number of classes. Raises `InputError` where `dls` does not say it, as plain loaders of torch do not."
    if not (n := get_c(dls)):
        raise InputError("these DataLoaders do not say how many classes there are: set dls.c")
    return n


def pixels_fed(dls: DataLoaders) -> int:
    "Pixels of a side of the images as the model gets them."
    return (dls.valid.one_batch() if hasattr(dls.valid, "one_batch") else next(iter(dls.valid)))[0].shape[-1]


def copy_dls(
    dls: DataLoaders,  # the caller's, any kind; stays as it is
    size: int | None = None,  # pixels to resize to on the device; None: as they come
    stats: tuple | None = None,  # (mean, std) to normalise by instead; None: as the caller does
) -> DataLoaders:
    """A copy of `dls` whose batches are resized and normalised as a model wants it.

    Raises `InputError` for a `size` that is none, or that its `Cutout` would blank.
    """
    check("size", size, size is None or is_whole(size), "a whole number of at least 1")
    if not all(isinstance(dl, TfmdDL) for dl in dls.loaders):
        if size is not None or stats is not None:
            raise InputError("plain DataLoaders give images as they are: resize and normalise them in their dataset")
        return dls
    res = _with_loaders(dls, [dl.new(after_batch=_adapted(dl, size, stats)) for dl in dls.loaders])
    if size is not None and isinstance(res[1], TensorDL):
        res[1].bs = min(res[1].bs, fast_bs(size, res[1].device))
    return res


def _adapted(dl: TfmdDL, size: int | None, stats: tuple | None) -> Pipeline:
    "A copy of the batch transforms of `dl`, resizing and normalising as asked."
    tfms = deepcopy(list(dl.after_batch.fs))
    if stats is not None:
        mean, std = (torch.tensor(o, device=dl.device).view(1, -1, 1, 1) for o in stats)
        tfms = [o for o in tfms if not isinstance(o, Normalize)] + [Normalize(mean, std)]
    if size is not None:
        if any(isinstance(o, Cutout) and o.size >= size for o in tfms):
            raise InputError(f"the cutout of these DataLoaders blanks images of {size} pixels: make it smaller")
        tfms = [o for o in tfms if not isinstance(o, BatchResize)] + [BatchResize(size)]
    return Pipeline(tfms)
