"""Data sets in one file or a few: CIFAR's batch files, archives of image folders, arrays of numpy."""

import io
import lzma
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_fast.data.folders import ROLES, check_classes, settle_validation
from cifar_fast.data.image import decode_image
from cifar_fast.data.image_set import CIFAR10_VOCAB, ImageSet, split_indices
from cifar_fast.errors import InputError, first_line

CIFAR10_FILES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]
CIFAR100_FILES = ["train", "test", "meta"]
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError)


class _ArrayUnpickler(pickle.Unpickler):
    "Admits numpy arrays beside pickle's own dicts, lists, bytes and strings: the files come from anywhere."

    allowed = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
        ("_codecs", "encode"),  # by which protocols 0 to 2 write bytes
    }

    def find_class(self, module: str, name: str):
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")


def holds_cifar(path: Path) -> bool:
    "Whether the first file of a tar archive is one of CIFAR's. Raises `InputError` for a damaged archive."
    try:
        with tarfile.open(path) as tar:
            first = next((o for o in tar if o.isfile()), None)
    except _DAMAGE as error:
        raise _no_archive(path, error) from error
    name = "" if first is None else Path(first.name).name
    return name in (*CIFAR10_FILES, *CIFAR100_FILES, "file.txt~", "readme.html")


def read_cifar_archive(
    path: Path,
    coarse: bool = False,  # whether CIFAR-100's 20 superclasses are the classes
) -> ImageSet:
    "The official `cifar-10-python.tar.gz` or `cifar-100-python.tar.gz`, without writing to disk. Raises `InputError`."
    try:
        with _whole_tar(path) as tar:
            contents = {Path(o.name).name: tar.extractfile(o).read() for o in tar if o.isfile()}
    except _DAMAGE as error:
        raise _no_archive(path, error) from error
    return _read_batches(path, contents.__getitem__, "meta" in contents and "batches.meta" not in contents, coarse)


@contextmanager
def _whole_tar(path: Path) -> Iterator[tarfile.TarFile]:
    "A tar archive, which is read to its end afterwards: so that the checksum of what packs it is checked."
    with tarfile.open(path) as tar:
        yield tar
        while tar.fileobj.read(2**20):
            pass


def _no_archive(path: Path, error: Exception) -> InputError:
    if getattr(error, "errno", None):  # of the disk
        return InputError(f"{path} cannot be read ({error.strerror}): change its permissions, or give a copy")
    return InputError(f"{path} is not a whole archive ({first_line(error).rstrip(':')}): fetch it again")


def read_cifar_batches(folder: Path) -> ImageSet:
    "The unpacked `cifar-10-batches-py/` or `cifar-100-python/`. Raises `InputError`."
    is_100 = all((folder / o).exists() for o in CIFAR100_FILES)
    return _read_batches(folder, lambda name: (folder / name).read_bytes(), is_100, coarse=False)


def _read_batches(source: Path, read: Callable[[str], bytes], is_100: bool, coarse: bool) -> ImageSet:
    names = CIFAR100_FILES if is_100 else CIFAR10_FILES
    kind = "coarse" if coarse else "fine"
    labels, meta_names = (f"{kind}_labels", f"{kind}_label_names") if is_100 else ("labels", "label_names")
    batches = [_read_batch(source, name, read, names) for name in names]
    meta = batches.pop()
    try:
        vocab = [o.decode() if isinstance(o, bytes) else o for o in meta[meta_names.encode()]]
        splits = [_batch_tensors(source, name, o, labels.encode(), len(vocab)) for name, o in zip(names, batches)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source} lacks {error} in a batch file: it is not CIFAR") from error
    train = tuple(torch.cat(o) for o in zip(*splits[:-1]))
    name = f"cifar100{'-coarse' * coarse}" if is_100 else "cifar10" if vocab == CIFAR10_VOCAB else source.stem
    return ImageSet.from_splits(name, vocab, train, splits[-1])


def _read_batch(source: Path, name: str, read: Callable[[str], bytes], names: list[str]) -> dict:
    try:
        batch = _ArrayUnpickler(io.BytesIO(read(name)), encoding="bytes").load()
    except (KeyError, FileNotFoundError) as error:
        raise InputError(f"{source} has no {name}: it needs {', '.join(names)}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(f"{source}: {name} is damaged or not a CIFAR file ({error}): fetch it again") from error
    if not isinstance(batch, dict):
        raise InputError(f"{source}: {name} holds no dictionary: it is not a CIFAR file")
    return {k if isinstance(k, bytes) else str(k).encode(): v for k, v in batch.items()}


def _batch_tensors(source: Path, name: str, batch: dict, key: bytes, n_classes: int) -> tuple[Tensor, Tensor]:
    pixels, labels = batch[b"data"], np.asarray(batch[key])
    if getattr(pixels, "dtype", None) != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise InputError(f"{source}: {name} does not hold rows of 3,072 bytes: it is not CIFAR")
    if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{source}: {name} has {len(pixels):,} images and {labels.size:,} labels: fetch it again")
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise InputError(f"{source}: {name} has labels outside 0 to {n_classes - 1}: fetch it again")
    return torch.tensor(pixels.reshape(-1, 3, 32, 32)), torch.tensor(labels, dtype=torch.int64)


def unpack(
    path: Path,  # a zip or tar archive of a folder of images
    folder: Path,  # to unpack into
) -> None:
    "Write the archive's content into a folder. Raises `InputError`."
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    info.filename = info.filename.replace("\\", "/")  # as some programs of Windows write them
                    archive.extract(info, folder)  # which keeps names inside, and checks checksums
            return
        with _whole_tar(path) as tar:
            tar.extractall(folder, filter="data")
    except (*_DAMAGE, RuntimeError, NotImplementedError) as error:  # the last two: encrypted, or packed otherwise
        if getattr(error, "errno", None):  # of the disk, which is full or takes no such name
            raise
        raise _no_archive(path, error) from error


# How arrays of images and labels are called in .npz files: Keras's and MedMNIST's ways.
_NPZ_FORMS = [("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels")]
_NPZ_NAMES = {
    role: [(x.format(name), y.format(name)) for x, y in _NPZ_FORMS for name in names] for role, names in ROLES.items()
}


def npz_lines(path: Path) -> list[str]:
    "What is to be said about a file of arrays: which of them choose, and which are not used."
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {role: pair for role in _NPZ_NAMES if (pair := _npz_pair(arrays, role))}
            others = sorted(set(arrays) - {name for pair in found.values() for name in pair})
    except (ValueError, *_DAMAGE):  # reading it says what is wrong
        return []
    lines = settle_validation(found, {role: f"{x} of {path}" for role, (x, _) in found.items()})
    return lines + [f"Not used: {', '.join(others)} of {path}."] * bool(others)


def read_npz(
    path: Path,
    size: int,  # pixels of a side of the stored square
) -> ImageSet:
    """Arrays x_train, y_train, x_test, y_test, or train_images, ..., read without pickle.

    x_val and y_val choose, or are tested on where there are no others. Without a second split a fifth of each class
    is set aside. Raises `InputError`.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            splits = {role: _npz_split(path, arrays, pair) for role in _NPZ_NAMES if (pair := _npz_pair(arrays, role))}
            if "train" not in splits:
                known = ", ".join(_NPZ_NAMES["train"][0])
                raise InputError(f"{path} holds {', '.join(arrays)}: name its arrays {known}")
    except InputError:  # which is a ValueError
        raise
    except (ValueError, *_DAMAGE) as error:
        raise InputError(f"{path} cannot be read ({error}): it is damaged, or holds pickled objects") from error
    called = {role: f"split {role} of {path}" for role in splits}
    check_classes({role: targets.tolist() for role, (_, targets) in splits.items()}, called)
    settle_validation(splits, called)
    labels = np.unique(splits["train"][1])
    x = torch.empty(sum(len(pixels) for pixels, _ in splits.values()), 3, size, size, dtype=torch.uint8)
    for i, image in enumerate(o for pixels, _ in splits.values() for o in pixels):
        x[i] = torch.from_numpy(decode_image(image, size)).permute(2, 0, 1)
    y = torch.from_numpy(np.searchsorted(labels, np.concatenate([targets for _, targets in splits.values()])))
    train, test, n_valid = split_indices([role for role, (pixels, _) in splits.items() for _ in pixels], y)
    parts = [(x[o], y[o]) for o in (train, test)]
    return ImageSet.from_splits(path.stem, [str(o) for o in labels], *parts, n_valid=n_valid)


def _npz_pair(arrays, role: str) -> tuple[str, str] | None:
    "Names of a split's images and labels."
    return next((o for o in _NPZ_NAMES[role] if o[0] in arrays and o[1] in arrays), None)


def _npz_split(path: Path, arrays, pair: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    x, y = arrays[pair[0]], arrays[pair[1]]
    y = y.reshape(len(y)) if y.shape == (len(y), 1) else y
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[-1] not in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    are_images = x.dtype == np.uint8 and (x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3, 4))) and x.size
    if not are_images or y.shape != (len(x),):
        raise InputError(
            f"{path}: {pair[0]} is {x.dtype} {x.shape} and {pair[1]} {y.shape}: give uint8 images (N, H, W, 3) or "
            "(N, H, W), and a label for each"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise InputError(f"{path}: {pair[1]} holds labels that are no numbers: leave those images out")
    return x, np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
