"""A decoded data set: its tensors, its statistics, its splits, and the one that scikit-learn brings."""

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cifar_fast.data.cache import taken
from cifar_fast.data.image import Levels
from cifar_fast.errors import InputError, check

CIFAR10_VOCAB = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR10_SIZES = (50_000, 10_000)
SPLITS = ("train", "valid", "test")  # in this order: validation images are the last of the training images
SPLIT_SEED = 0


@dataclass(frozen=True)
class ImageSet:
    "A decoded data set, resident in memory: both splits, and what they are."

    name: str  # 'cifar10', 'digits' or the folder's name
    vocab: list[str]  # class names; a label is an index into it
    train_x: Tensor  # uint8 (N, 3, H, W), H == W
    train_y: Tensor  # int64 (N,)
    test_x: Tensor  # uint8 (M, 3, H, W)
    test_y: Tensor  # int64 (M,)
    mean: tuple[float, ...]  # of each channel of the training pixels, in [0, 1]
    std: tuple[float, ...]
    levels: Levels | None = None  # by which images of more than 8 bits were scaled
    files: tuple[list[str], list[str]] | None = None  # of training and test images, below the folder; None: no files
    n_valid: int = 0  # the last so many training images choose, where the data set says so; 0: a tenth is drawn
    leaked: int = 0  # test images of the whole that are training images too, pixel by pixel
    n_contrary: int = 0  # training images that are there under another class too, pixel by pixel
    n_deep: int = 0  # images of more than 8 bits, which `levels` are of
    n_long: int = 0  # images more than twice as long as wide, of which the square in the middle is read
    skipped: tuple[str, ...] = ()  # files that cannot be read, where they were to be skipped

    @property
    def is_cifar10(self) -> bool:
        "Whether these are CIFAR-10's classes and numbers of images: what a published accuracy speaks of."
        return self.vocab == CIFAR10_VOCAB and (len(self.train_y), len(self.test_y)) == CIFAR10_SIZES

    @classmethod
    def from_splits(cls, name: str, vocab: list[str], train: tuple, test: tuple, **about) -> "ImageSet":
        """An `ImageSet` from two (x, y) pairs; the pixels' statistics are computed from the first.

        Raises `InputError` for two classes of one name.
        """
        if twice := [o for o, n in Counter(vocab).items() if n > 1]:
            raise InputError(f"{name} has two classes called {twice[0]!r}: rename one of them")
        return cls(name, list(vocab), *train, *test, *pixel_stats(train[0]), **about)

    def fewer(self, n_train: int = 0, n_test: int = 0) -> "ImageSet":
        """So many images of each split, always the same ones, classes in their shares; 0 keeps a split whole.

        The pixels' statistics stay those of the whole. Raises `InputError` for more images than there are.
        """
        train, test = _some(self.train_y, n_train), _some(self.test_y, n_test)
        if (len(train), len(test)) == (len(self.train_y), len(self.test_y)):
            return self
        return self._part(train, test)

    def holdout(
        self,
        fraction: float,  # of the training images, where the data set names none that choose
        seed: int,
    ) -> tuple[Tensor, Tensor]:  # sorted int64 indices
        "The training images that train and those that choose."
        n = len(self.train_y)
        if self.n_valid:
            return torch.arange(n - self.n_valid), torch.arange(n - self.n_valid, n)
        return stratified_split(self.train_y, fraction, seed)

    def without(self, idxs: list[int]) -> "ImageSet":
        "Without these training images; the pixels' statistics stay. Raises `InputError` for indices that are none."
        if wrong := [o for o in idxs if not 0 <= o < len(self.train_y)]:
            raise InputError(f"training image {wrong[0]:,} is to be left out, and there are {len(self.train_y):,}")
        return self._part(_all_but(idxs, self.train_y), torch.arange(len(self.test_y)))

    def _part(self, train: Tensor, test: Tensor) -> "ImageSet":
        "The images of each split at these indices, which are sorted."
        idxs, pixels = (train, test), (self.train_x, self.test_x)
        train_x, test_x = (x if len(o) == len(x) else taken(x, o) for x, o in zip(pixels, idxs))
        return replace(
            self, name=f"part of {self.name}", train_x=train_x, train_y=self.train_y[train], test_x=test_x,
            test_y=self.test_y[test], n_valid=int((train >= len(self.train_y) - self.n_valid).sum()),
            files=self.files and tuple([names[i] for i in o.tolist()] for names, o in zip(self.files, idxs)),
        )  # fmt: skip

    def fold(self, number: int, n: int) -> "ImageSet":
        "Training images alone: fold `number` of `n`, from 1 on, to test on, and the others, with statistics of theirs."
        tested = fold_indices(self.train_y, n)[number - 1]
        idxs = _all_but(tested, self.train_y), tested
        train, test = ((taken(self.train_x, o), self.train_y[o]) for o in idxs)
        name = f"fold {number} of {n} of {self.name}"
        return ImageSet.from_splits(name, self.vocab, train, test, levels=self.levels)


def origin(name: str) -> str:
    "The data set that a part or a fold, by its name, is of."
    return re.sub(r"^(fold \d+ of \d+ of |part of )*", "", name)


def whole(name: str) -> str:
    "The images that a fold, by its name, is of."
    return re.sub(r"^fold \d+ of \d+ of ", "", name)


def is_fold(name: str) -> bool:
    "Whether what is called so is tested on training images."
    return whole(name) != name


def _all_but(idxs: Tensor | list[int], y: Tensor) -> Tensor:
    "Sorted indices of the other images."
    others = torch.ones(len(y), dtype=torch.bool)
    others[idxs] = False
    return others.nonzero().flatten()


def _some(y: Tensor, n: int) -> Tensor:
    "Indices of `n` of the images."
    if n > len(y):
        raise InputError(f"{n:,} images are asked for, and there are {len(y):,}: ask for fewer")
    return torch.arange(len(y)) if n in (0, len(y)) else stratified_split(y, n, SPLIT_SEED)[1]


def pixel_stats(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, 3, H, W), in [0, 1], from exact histograms.

    A channel that is the same everywhere has a deviation of 1, by which it can be divided.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(x.shape[1]):
        weight = sum(torch.bincount(o[:, channel].flatten(), minlength=256) for o in x.split(8192)).double()
        weight /= weight.sum()
        mean.append(float((weight * levels).sum()))
        std.append(float((weight * (levels - mean[-1]) ** 2).sum().sqrt()) or 1.0)
    return tuple(mean), tuple(std)


# Splits and digits -----------------------------------------------------------------------------------------------


def stratified_split(
    y: Tensor,  # int64 (N,) labels
    fraction: float | int,  # share of the second part, or how many images it gets
    seed: int,  # the same seed gives the same split
) -> tuple[Tensor, Tensor]:  # sorted int64 indices of the two parts
    "Split indices so that each class keeps its share in both parts. Raises `InputError` for too few images."
    from sklearn.model_selection import train_test_split

    try:
        parts = train_test_split(np.arange(len(y)), test_size=fraction, stratify=y.numpy(), random_state=seed)
    except ValueError as error:
        if isinstance(fraction, float):
            raise InputError(f"{len(y)} images cannot give {fraction:.0%} with all classes: add images") from error
        c = len(y.unique())
        what = f"{fraction} of {len(y)} images cannot have all {c} classes"
        raise InputError(f"{what}: ask for {c} to {len(y) - c}, or 0 for all") from error
    return tuple(torch.from_numpy(np.sort(o)) for o in parts)


def fifth_of_each(
    y: Tensor,  # int64 (N,) labels
) -> tuple[Tensor, Tensor]:  # sorted int64 indices of training and test images
    "A fifth of each class for testing, always the same, at least one image of each class that has two."
    counts = y.bincount()
    several = (counts[y] > 1).nonzero().flatten()
    try:
        test = several[stratified_split(y[several], 0.2, SPLIT_SEED)[1]]
    except InputError:  # too few images for a fifth with all classes
        test = several[:0]
    have = set(y[test].tolist())
    more = [int((y == c).nonzero()[-1]) for c in y[several].unique().tolist() if c not in have]
    test = torch.cat([test, torch.tensor(more, dtype=torch.int64)]).sort().values
    return _all_but(test, y), test


def split_indices(
    splits: list[str],  # of each image, one of `SPLITS`
    y: Tensor,  # int64 (N,) labels
) -> tuple[Tensor, Tensor, int]:
    """Indices of training and test images, and how many of the former, the last ones, choose.

    Without a test split one fifth of each class is set aside for it.
    """
    of = {split: torch.tensor([i for i, o in enumerate(splits) if o == split], dtype=torch.int64) for split in SPLITS}
    if len(of["test"]):
        return torch.cat([of["train"], of["valid"]]), of["test"], len(of["valid"])
    return *fifth_of_each(y), 0


def fold_indices(
    y: Tensor,  # int64 (N,) labels
    n: int,  # folds
) -> list[Tensor]:  # sorted int64 indices of each fold
    "Each image in one fold, each class in its share in all, always the same. Raises `InputError` for too few images."
    from sklearn.model_selection import StratifiedKFold

    least = int(y.unique(return_counts=True)[1].min())
    check("folds", n, 2 <= n <= least, f"2 to {least}, the images of the smallest class")
    folds = StratifiedKFold(n, shuffle=True, random_state=SPLIT_SEED).split(np.zeros(len(y)), y.numpy())
    return [torch.from_numpy(tested) for _, tested in folds]


def read_digits() -> ImageSet:
    "Scikit-learn's 1,797 handwritten digits, 8x8 grey enlarged to 32x32 RGB: needs no network, and is not CIFAR-10."
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)
    x = torch.nn.functional.interpolate(x, size=32, mode="bilinear", align_corners=False)
    x = x.round().to(torch.uint8).expand(-1, 3, -1, -1)
    y = torch.tensor(digits.target, dtype=torch.int64)
    train, test = stratified_split(y, 0.2, SPLIT_SEED)
    return ImageSet.from_splits("digits", [str(o) for o in range(10)], (x[train], y[train]), (x[test], y[test]))
