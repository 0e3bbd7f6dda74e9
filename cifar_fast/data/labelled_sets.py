"""Further labelled images to test on: CIFAR-10.1, CIFAR-10-C and CIFAR-10H as published, and folders of images.

Arrays are read without pickle and mapped from their files: CIFAR-10-C has 2.9 GB.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fastai.data.transforms import CategoryMap
from torch import Tensor

from cifar_fast.data.decoding import bad_line, decode_files
from cifar_fast.data.folders import list_images
from cifar_fast.data.image import Levels
from cifar_fast.data.image_files import walk_images
from cifar_fast.data.image_set import read_digits
from cifar_fast.errors import InputError, first_line
from cifar_fast.progress import say
from cifar_fast.text import printable

SEVERITIES = 5  # of CIFAR-10-C, one after another in each of its files
LEAST_AGREEMENT = 0.8  # of CIFAR-10H's likeliest classes with the labels of the images that they are of


@dataclass(frozen=True)
class LabelledSet:
    "Images with labels, beside the test images."

    name: str
    x: np.ndarray  # uint8 (N, H, W, 3), mapped from the file where it comes from one
    y: Tensor  # int64 (N,)
    severity: int = 0  # 1 to 5: changed test images, in their order; 0: other images


def read_labelled_sets(
    path: str | Path,  # a folder of .npy files or of classes, or one .npy file with its labels beside it
    vocab: Sequence[str],  # class names; labels are indices into it
    size: int,  # pixels of a side that a folder's images are decoded to
    levels: Levels | None = None,  # by which the training images of more than 8 bits were scaled
) -> list[LabelledSet]:
    """What lies at `path`; of CIFAR-10-C a set for each corruption and severity.

    Known are `NAME_data.npy` with `NAME_labels.npy` (CIFAR-10.1), any other `NAME.npy` with `labels.npy`, five
    severities one after another (CIFAR-10-C), and folders `<class>/*` of images. Raises `InputError`.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path} does not exist: give a folder of images, or the .npy files of a published test set")
    if path.is_file():
        return _read_pair(path, len(vocab))
    arrays = sorted(o for o in path.glob("*.npy") if not o.name.endswith("labels.npy"))
    if arrays:
        return [found for o in arrays for found in _read_pair(o, len(vocab))]
    return [_read_classes(path, vocab, size, levels)]


def _read_pair(path: Path, n_classes: int) -> list[LabelledSet]:
    "An array of images with its array of labels."
    of_its_own = path.name.endswith("_data.npy")
    y_path = path.with_name(path.name.replace("_data.npy", "_labels.npy") if of_its_own else "labels.npy")
    x, y = open_array(path), open_array(y_path)
    _check_images(path, x)
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        has = f"{y.size:,} labels for {len(x):,} images, of type {y.dtype} and shape {y.shape}"
        raise InputError(f"{y_path} has {has}: give the files as they were published, with a whole number an image")
    if len(y) and not 0 <= y.min() <= y.max() < n_classes:
        raise InputError(f"{y_path} has labels from {y.min()} to {y.max()}, and the run knows {n_classes} classes")
    labels = torch.tensor(np.asarray(y), dtype=torch.int64)
    if of_its_own:
        return [LabelledSet(path.name.removesuffix("_data.npy"), x, labels)]
    if len(x) % SEVERITIES:
        raise InputError(f"{path} has {len(x):,} images, which are no five severities of as many: fetch it again")
    n = len(x) // SEVERITIES
    parts = [slice(i * n, (i + 1) * n) for i in range(SEVERITIES)]
    return [LabelledSet(path.stem, x[o], labels[o], severity) for severity, o in enumerate(parts, 1)]


def open_array(path: Path) -> np.ndarray:
    "An array, mapped from a .npy file; nothing in the file is run. Raises `InputError`."
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: it belongs beside the images") from error
    except (ValueError, OSError, EOFError) as error:
        said = first_line(error)
        if "allow_pickle" in said:  # numpy's advice is to trust the file
            said = "it holds no plain array, but perhaps a pickle, which is not loaded"
        raise InputError(f"{path} cannot be read as a .npy array ({said}): fetch it again") from error
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path} holds several arrays: give a .npy file")
    return found


def _check_images(path: Path, x: np.ndarray) -> None:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or not len(x):
        raise InputError(f"{path} has {x.dtype} of shape {x.shape}: images are uint8 (N, H, W, 3)")


def _read_classes(root: Path, vocab: Sequence[str], size: int, levels: Levels | None) -> LabelledSet:
    "A folder `<class>/*`, or `test/<class>/*`, or the test images beside `train/`. What is not read is said."
    listing = list_images(root / "test" if (root / "test").is_dir() else root)
    o2i, role = CategoryMap(vocab, sort=False).o2i, "test" if "test" in listing.files else "train"
    found = [(path, printable(name)) for name, paths in listing.files[role].items() for path in paths]
    if unknown := next((name for _, name in found if name not in o2i), None):
        raise InputError(f"{root} has the class {unknown!r}, and the run knows {', '.join(vocab)}")
    x = _decoded([path for path, _ in found], size, levels)
    if others := [o for o in listing.files if o != role]:
        listing.notes.append(f"Not used: the {' and '.join(others)} images of {root}.")
    for line in listing.lines(root):
        say(printable(line))
    return LabelledSet(root.name, x, torch.tensor([o2i[name] for _, name in found]))


def _decoded(paths: list[str], size: int, levels: Levels | None) -> np.ndarray:
    "uint8 (N, size, size, 3). Raises `InputError`, naming all that cannot be read."
    x, bad, _ = decode_files(paths, size, levels)
    if bad:
        raise InputError(bad_line(bad))
    return x.permute(0, 2, 3, 1).numpy()


def read_soft_labels(
    path: str | Path,  # cifar10h-probs.npy, or cifar10h-counts.npy
    y: Tensor,  # int64 (N,) labels of the test images
    n_classes: int,
) -> Tensor:  # float64 (N, classes), rows of sum 1
    "What people said of each test image. Raises `InputError`, for labels of other images too."
    found = open_array(Path(path))
    if found.shape != (len(y), n_classes) or not np.issubdtype(found.dtype, np.number):
        raise InputError(f"{path} has the shape {found.shape}, and the test images need {(len(y), n_classes)}")
    soft = torch.tensor(np.asarray(found, dtype=np.float64))
    sums = soft.sum(1, keepdim=True)
    if not soft.isfinite().all() or (soft < 0).any() or (sums <= 0).any():
        raise InputError(f"{path} holds no shares or counts: fetch it again")
    if (soft.argmax(1) == y).double().mean() < LEAST_AGREEMENT:
        raise InputError(f"{path} is not of these test images in this order: use CIFAR-10 as its authors publish it")
    return soft / sums


def read_unlabelled(
    data: str | Path,  # digits, a folder of images, a .npy of images, or SVHN's test_32x32.mat
    size: int,  # pixels of a side that files are decoded to
    levels: Levels | None = None,  # by which the training images of more than 8 bits were scaled
) -> np.ndarray:  # uint8 (N, H, W, 3)
    "Images of whatever they are. Raises `InputError`."
    path = Path(data).expanduser()
    if str(data) == "digits":
        digits = read_digits()
        return torch.cat([digits.train_x, digits.test_x]).permute(0, 2, 3, 1).contiguous().numpy()
    if path.is_dir():
        files = list(walk_images(path))
        if not files:
            raise InputError(f"{path} has no images: give a folder of image files")
        return _decoded(files, size, levels)
    if path.suffix == ".mat":
        return _read_svhn(path)
    if not path.exists():
        raise InputError(f"{path} does not exist: give digits, a folder of images, a .npy file or SVHN's .mat file")
    found = open_array(path)
    _check_images(path, found)
    return found


def _read_svhn(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    try:
        found = np.moveaxis(loadmat(path, variable_names=["X"])["X"], 3, 0)
    except Exception as error:  # scipy's reader raises of every kind
        raise InputError(f"{path} cannot be read as SVHN's images ({error}): fetch it again") from error
    _check_images(path, found)
    return found


def read_indices(
    path: str | Path,  # csv with a column `index`, and where evaluate has written it `label`
    y: Tensor,  # int64 (N,) labels of the images that it lists
) -> list[int]:
    "Numbers of images, from 0 on. Raises `InputError`, for a list of other images too."
    try:
        with Path(path).open(newline="") as file:
            rows = [(int(row["index"]), int(row.get("label") or -1)) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"no column {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} is no csv of images ({why}): give one that evaluate --labels has written") from error
    if wrong := next((i for i, label in rows if label >= 0 and 0 <= i < len(y) and y[i] != label), None):
        raise InputError(f"{path} is of other images: the label of training image {wrong:,} is another one there")
    return [i for i, _ in rows]
