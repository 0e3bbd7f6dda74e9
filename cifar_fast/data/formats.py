"""Image files in, uint8 tensors out: CIFAR-10's batch files, folders of images, scikit-learn's digits."""

import io
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_fast.data.image import IMAGE_SUFFIXES, decode_image
from cifar_fast.errors import InputError, check
from cifar_fast.progress import progress

CIFAR10_VOCAB = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR10_SIZES = (50_000, 10_000)
CIFAR10_FILES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]
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

    @property
    def is_cifar10(self) -> bool:
        "Whether these are CIFAR-10's classes and numbers of images: what a published accuracy speaks of."
        return self.vocab == CIFAR10_VOCAB and (len(self.train_y), len(self.test_y)) == CIFAR10_SIZES

    @classmethod
    def from_splits(cls, name: str, vocab: list[str], train: tuple, test: tuple) -> "ImageSet":
        "An `ImageSet` from two (x, y) pairs; the pixels' statistics are computed from the first."
        return cls(name, list(vocab), *train, *test, *pixel_stats(train[0]))

    def fewer(self, n_train: int = 0, n_test: int = 0) -> "ImageSet":
        """So many images of each split, always the same ones, classes in their shares; 0 keeps a split whole.

        The pixels' statistics stay those of the whole. Raises `InputError` for more images than there are.
        """
        splits = [*_some(self.train_x, self.train_y, n_train), *_some(self.test_x, self.test_y, n_test)]
        if (len(splits[1]), len(splits[3])) == (len(self.train_y), len(self.test_y)):
            return self
        return ImageSet(f"part of {self.name}", self.vocab, *splits, self.mean, self.std)

    def without(self, idxs: list[int]) -> "ImageSet":
        "Without these training images; the pixels' statistics stay. Raises `InputError` for indices that are none."
        if wrong := [o for o in idxs if not 0 <= o < len(self.train_y)]:
            raise InputError(f"training image {wrong[0]:,} is to be left out, and there are {len(self.train_y):,}")
        kept = torch.ones(len(self.train_y), dtype=torch.bool)
        kept[idxs] = False
        train = self.train_x[kept], self.train_y[kept]
        return ImageSet(f"part of {self.name}", self.vocab, *train, self.test_x, self.test_y, self.mean, self.std)

    def fold(self, number: int, n: int) -> "ImageSet":
        "Training images alone: fold `number` of `n`, from 1 on, to test on, and the others, with statistics of theirs."
        tested = fold_indices(self.train_y, n)[number - 1]
        trained = torch.ones(len(self.train_y), dtype=torch.bool)
        trained[tested] = False
        train, test = ((self.train_x[o], self.train_y[o]) for o in (trained, tested))
        return ImageSet.from_splits(f"fold {number} of {n} of {self.name}", self.vocab, train, test)


def origin(name: str) -> str:
    "The data set that a part or a fold, by its name, is of."
    return re.sub(r"^(fold \d+ of \d+ of |part of )*", "", name)


def is_fold(name: str) -> bool:
    "Whether what is called so is tested on training images."
    return re.match(r"fold \d+ of \d+ of ", name) is not None


def _some(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    if n > len(y):
        raise InputError(f"{n:,} images are asked for, and there are {len(y):,}: ask for fewer")
    if n in (0, len(y)):
        return x, y
    idxs = stratified_split(y, n, SPLIT_SEED)[1]
    return x[idxs], y[idxs]


def pixel_stats(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    "Mean and standard deviation of each channel of uint8 images (N, 3, H, W), in [0, 1], from exact histograms."
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(x.shape[1]):
        weight = sum(torch.bincount(o[:, channel].flatten(), minlength=256) for o in x.split(8192)).double()
        weight /= weight.sum()
        mean.append(float((weight * levels).sum()))
        std.append(float((weight * (levels - mean[-1]) ** 2).sum().sqrt()))
    return tuple(mean), tuple(std)


# CIFAR-10's batch files ------------------------------------------------------------------------------------------


class _ArrayUnpickler(pickle.Unpickler):
    "Admits numpy arrays beside pickle's own dicts, lists, bytes and strings: the files come from anywhere."

    allowed = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
    }

    def find_class(self, module: str, name: str):
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file needs")


def read_cifar_archive(path: Path) -> ImageSet:
    "The official `cifar-10-python.tar.gz`, read without writing to the disk. Raises `InputError`."
    try:
        with tarfile.open(path) as tar:
            members = {Path(o.name).name: o for o in tar if o.isfile()}
            return _read_batches(path, lambda name: tar.extractfile(members[name]).read())
    except (tarfile.TarError, EOFError, OSError) as error:
        said = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise InputError(f"{path} is not a whole cifar-10-python.tar.gz ({said}): fetch it again") from error


def read_cifar_batches(folder: Path) -> ImageSet:
    "The unpacked `cifar-10-batches-py/`. Raises `InputError`."
    return _read_batches(folder, lambda name: (Path(folder) / name).read_bytes())


def _read_batches(source: Path, read: Callable[[str], bytes]) -> ImageSet:
    batches = [_read_batch(source, name, read) for name in CIFAR10_FILES]
    meta = batches.pop()
    try:
        vocab = [o.decode() if isinstance(o, bytes) else o for o in meta[b"label_names"]]
        splits = [_batch_tensors(source, name, o, len(vocab)) for name, o in zip(CIFAR10_FILES, batches)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source} lacks {error} in a batch file: it is not CIFAR-10") from error
    train = tuple(torch.cat(o) for o in zip(*splits[:-1]))
    return ImageSet.from_splits("cifar10" if vocab == CIFAR10_VOCAB else source.stem, vocab, train, splits[-1])


def _read_batch(source: Path, name: str, read: Callable[[str], bytes]) -> dict:
    try:
        batch = _ArrayUnpickler(io.BytesIO(read(name)), encoding="bytes").load()
    except (KeyError, FileNotFoundError) as error:
        raise InputError(f"{source} has no {name}: it needs {', '.join(CIFAR10_FILES)}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(f"{source}: {name} is damaged or not a CIFAR-10 file ({error}): fetch it again") from error
    if not isinstance(batch, dict):
        raise InputError(f"{source}: {name} holds no dictionary: it is not a CIFAR-10 file")
    return {k if isinstance(k, bytes) else str(k).encode(): v for k, v in batch.items()}


def _batch_tensors(source: Path, name: str, batch: dict, n_classes: int) -> tuple[Tensor, Tensor]:
    pixels, labels = batch[b"data"], np.asarray(batch[b"labels"])
    if getattr(pixels, "dtype", None) != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise InputError(f"{source}: {name} does not hold rows of 3,072 bytes: it is not CIFAR-10")
    if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{source}: {name} has {len(pixels):,} images and {labels.size:,} labels: fetch it again")
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise InputError(f"{source}: {name} has labels outside 0 to {n_classes - 1}: fetch it again")
    return torch.tensor(pixels.reshape(-1, 3, 32, 32)), torch.tensor(labels, dtype=torch.int64)


# Folders of images -----------------------------------------------------------------------------------------------


def list_images(root: Path) -> dict[str, dict[str, list[str]]]:
    """Files of a folder `train/<class>/*` and, if there, `test/<class>/*`: split name -> class name -> paths.

    A folder of classes without `train/` is taken as the training images. Raises `InputError` for a folder without
    images, a class without any, and a test class that train lacks.
    """
    root = Path(root)
    if (root / "test").is_dir() and not (root / "train").is_dir():
        raise InputError(f"{root} has test/ but no train/: put the training images in {root / 'train'}/<class>/")
    has_splits = (root / "train").is_dir()
    files = {"train": class_files(root / "train" if has_splits else root)}
    if has_splits and (root / "test").is_dir():
        files["test"] = class_files(root / "test")
        unknown = sorted(set(files["test"]) - set(files["train"]))
        if unknown:
            raise InputError(f"{root / 'test'} has the class {unknown[0]!r}, which {root / 'train'} lacks")
    return files


def class_files(folder: Path) -> dict[str, list[str]]:
    "Files of a folder `<class>/*`: class name -> paths. Raises `InputError` for no images, or a class without any."
    found = {}  # strings: 60,000 Path objects take a third of a second
    for entry in sorted(os.scandir(folder), key=lambda o: o.name):
        if entry.is_dir() and not entry.name.startswith("."):
            names = sorted(o for o in os.listdir(entry.path) if o.lower().endswith(IMAGE_SUFFIXES))
            found[entry.name] = [os.path.join(entry.path, o) for o in names if not o.startswith(".")]
    if not any(found.values()):
        raise InputError(f"{folder} has no images: put PNG or JPEG files in {folder}/<class>/")
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise InputError(f"{folder / empty[0]} has no images: fill the class or remove its folder")
    return found


def read_image_folder(
    root: Path,  # the folder, for its name
    files: dict[str, dict[str, list[str]]],  # from `list_images`
    size: int,  # pixels of a side of the stored square
) -> ImageSet:
    """Decode a listed folder, every image resized and centre-cropped to `size`, with a progress bar.

    Without a test split one fifth of each class is set aside for it, always the same. Raises `InputError`.
    """
    vocab = list(files["train"])
    paths = [(p, vocab.index(c)) for split in files.values() for c, ps in split.items() for p in ps]
    x = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    y = torch.tensor([label for _, label in paths])

    def decode(i: int) -> None:
        x[i] = torch.from_numpy(decode_image(paths[i][0], size)).permute(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in progress(pool.map(decode, range(len(paths))), total=len(paths)):
            pass
    n_train = sum(map(len, files["train"].values()))
    train, test = torch.arange(n_train), torch.arange(n_train, len(paths))
    if "test" not in files:
        train, test = stratified_split(y, 0.2, SPLIT_SEED)
    splits = (x[train], y[train]), (x[test], y[test])
    name = "cifar10" if (vocab, (len(train), len(test))) == (CIFAR10_VOCAB, CIFAR10_SIZES) else Path(root).name
    return ImageSet.from_splits(name, vocab, *splits)


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
