"""Images in: find or download a data set, decode it once, cache it as one file of uint8 tensors."""

import hashlib
import json
import os
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from cifar_fast.data.download import DownloadError, download
from cifar_fast.data.duplicates import exact_duplicates
from cifar_fast.data.formats import (
    CIFAR10_SIZES,
    CIFAR10_VOCAB,
    ImageSet,
    list_images,
    read_cifar_archive,
    read_cifar_batches,
    read_digits,
    read_image_folder,
)
from cifar_fast.errors import InputError
from cifar_fast.files import read_tensors, write_tensors
from cifar_fast.progress import say

# torchvision.datasets.CIFAR10 and fastai's URLs.CIFAR name the same addresses and checksums; neither is imported
# here because both packages are slow to import and a cached data set needs neither.
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_MD5 = "md5:c58f30108f718f92721af3b95e74349a"
MIRROR_URL = "https://s3.amazonaws.com/fast-ai-sample/cifar10.tgz"
MIRROR_MD5 = "md5:a5f8c31371b63a406b23368042812d3c"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
STORED_SIZE = 32
_TENSORS = ("train_x", "train_y", "test_x", "test_y")


def cache_dir() -> Path:
    "Where downloads and decoded data sets are kept: $CIFAR_FAST_CACHE, or the user's cache folder."
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CIFAR_FAST_CACHE") or Path(base) / "cifar_fast")


def load_images(
    data: str | Path = "auto",  # auto, cifar10, digits, or the path of an archive or a folder
    size: int = STORED_SIZE,  # pixels of a side that a folder's images are stored at; CIFAR-10 and digits stay at 32
) -> ImageSet:
    """The data set that `data` names, decoded, from the cache when it has been decoded before.

    `auto` falls back to digits, with a banner, where CIFAR-10 is neither on this machine nor to be downloaded.
    Raises `InputError` for anything missing, damaged, or too large for half of the free memory.
    """
    if str(data) == "digits":
        return read_digits()
    if str(data) not in ("auto", "cifar10"):
        return _decoded(Source.at(Path(data)), size)
    try:
        images = _decoded(find_cifar10(), STORED_SIZE)
    except DownloadError as error:
        if str(data) == "cifar10":
            raise
        print(_digits_banner(error), file=sys.stderr, flush=True)
        return read_digits()
    if not images.is_cifar10:
        counts = f"{len(images.train_y):,} + {len(images.test_y):,} images of {len(images.vocab)} classes"
        raise InputError(f"what $CIFAR_FAST_DATA or the cache holds is not CIFAR-10 ({counts}): name it with --data")
    return images


def _digits_banner(error: Exception) -> str:
    line = "=" * 78
    return (
        f"{line}\nCIFAR-10 is not here: {error}.\nUsing scikit-learn's handwritten digits instead. "
        f"THESE ARE NOT CIFAR-10 RESULTS.\nTo use CIFAR-10, give --data PATH or set $CIFAR_FAST_DATA.\n{line}"
    )


# Finding and downloading -----------------------------------------------------------------------------------------


def find_cifar10() -> "Source":
    """CIFAR-10 from $CIFAR_FAST_DATA, else the cache, else the network.

    Raises `InputError` when $CIFAR_FAST_DATA is set and wrong, `DownloadError` when no server gives the data.
    """
    if named := os.environ.get("CIFAR_FAST_DATA"):
        return Source.at(Path(named))
    archive, folder = cache_dir() / CIFAR10_ARCHIVE, cache_dir() / "cifar10"
    if not archive.exists() and not folder.is_dir():
        return Source.at(_download_cifar10(archive, folder))
    return Source.at(archive if archive.exists() else folder)


def _download_cifar10(archive: Path, folder: Path) -> Path:
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{archive.parent} cannot be written ({error}): set $CIFAR_FAST_CACHE") from error
    say("Downloading CIFAR-10 ...")
    try:
        return download(CIFAR10_URL, archive, CIFAR10_MD5)
    except DownloadError as first:
        try:
            return _download_mirror(folder)
        except DownloadError as second:
            raise DownloadError(f"{first}; nor from the mirror: {second}") from second


def _download_mirror(folder: Path) -> Path:
    "fastai's archive of PNG files, unpacked beside `folder` and renamed when whole."
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".mirror-") as tmp:
        archive = download(MIRROR_URL, Path(tmp) / "cifar10.tgz", MIRROR_MD5)
        with tarfile.open(archive) as tar:
            tar.extractall(tmp, filter="data")
        try:
            os.rename(Path(tmp) / "cifar10", folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same files
                raise
    return folder


@dataclass(frozen=True)
class Source:
    "Files that hold a data set, what to read them with, and a fingerprint that changes when they do."

    path: Path
    kind: str  # archive, batches or folder
    files: dict | None  # a folder's listing

    @classmethod
    def at(cls, path: Path) -> "Source":
        "Recognise what lies at `path`. Raises `InputError`."
        path = path.expanduser().resolve()
        if path.is_dir() and (path / CIFAR10_ARCHIVE).is_file():
            path = path / CIFAR10_ARCHIVE
        if path.is_dir() and (path / "cifar-10-batches-py").is_dir():
            path = path / "cifar-10-batches-py"
        if path.is_file():
            return cls(path, "archive", None)
        if not path.is_dir():
            known = f"auto, cifar10, digits, or the path of an image folder or of {CIFAR10_ARCHIVE}"
            raise InputError(f"{path} does not exist: give {known}")
        if (path / "data_batch_1").exists():
            return cls(path, "batches", None)
        return cls(path, "folder", list_images(path))

    def fingerprint(self) -> str:
        "A hash over the name, size and time of change of every file."
        if self.kind == "archive":
            paths = [str(self.path)]
        elif self.kind == "batches":
            paths = sorted(map(str, self.path.iterdir()))
        else:
            paths = [p for split in self.files.values() for ps in split.values() for p in ps]
        stats = ((p, os.stat(p)) for p in paths)
        lines = "\n".join(f"{p}\t{s.st_size}\t{s.st_mtime_ns}" for p, s in stats)
        return hashlib.sha256(lines.encode()).hexdigest()

    def n_images(self, split: str) -> int:
        "Images of a folder's split."
        return sum(map(len, self.files.get(split, {}).values()))

    def stored_size(self, size: int) -> int:
        "Pixels of a side to store: `size` for a folder, 32 for CIFAR-10 in whatever form."
        if self.kind != "folder":
            return STORED_SIZE
        found = (list(self.files["train"]), (self.n_images("train"), self.n_images("test")))
        return STORED_SIZE if found == (CIFAR10_VOCAB, CIFAR10_SIZES) else size

    def read(self, size: int) -> ImageSet:
        "Decode everything, a folder's images at `size` pixels."
        if self.kind == "archive":
            return read_cifar_archive(self.path)
        if self.kind == "batches":
            return read_cifar_batches(self.path)
        check_memory(self.n_images("train") + self.n_images("test"), size)
        images = read_image_folder(self.path, self.files, size)
        if twice := exact_duplicates(images.train_x, images.test_x):
            say(f"{len(twice):,} of {len(images.test_y):,} test images are training images too, pixel by pixel: "
                "evaluate RUN --duplicates shows them, and the accuracy without them.")  # fmt: skip
        return images


def check_memory(n_images: int, size: int) -> None:
    "Raise `InputError` when `n_images` squares of `size` pixels, in colour, need over half of the free memory."
    need, free = n_images * 3 * size * size, psutil.virtual_memory().available
    if need > free / 2:
        raise InputError(
            f"{n_images:,} images x 3 x {size} x {size} bytes = {need / 1e9:,.1f} GB, and half of the free memory "
            f"is {free / 2e9:,.1f} GB: give a smaller --size or fewer images"
        )


# The cache of decoded data sets ----------------------------------------------------------------------------------


def _decoded(source: Source, size: int) -> ImageSet:
    "`source` from the cache; where it is not there, or was made of other files, decode it and cache it."
    size = source.stored_size(size)
    key = hashlib.sha256(f"{source.path}:{size}".encode()).hexdigest()[:12]
    path, fingerprint = cache_dir() / f"{source.path.name}-{size}px-{key}.safetensors", source.fingerprint()
    if (images := _read_cache(path, fingerprint)) is None:
        say(f"Decoding {source.path} ...")
        images = source.read(size)
        _write_cache(path, fingerprint, images)
    return images


def _read_cache(path: Path, fingerprint: str) -> ImageSet | None:
    try:
        tensors, header = read_tensors(path)
        if header["fingerprint"] != fingerprint:
            return None
        about = json.loads(header["about"])
        return ImageSet(about["name"], about["vocab"], *(tensors[o] for o in _TENSORS), *map(tuple, about["stats"]))
    except (OSError, KeyError, ValueError):
        return None  # missing or damaged: it is only a cache


def _write_cache(path: Path, fingerprint: str, images: ImageSet) -> None:
    about = json.dumps({"name": images.name, "vocab": images.vocab, "stats": [images.mean, images.std]})
    tensors = {name: getattr(images, name).contiguous() for name in _TENSORS}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {"fingerprint": fingerprint, "about": about})
    except OSError as error:
        print(f"The decoded images are not cached ({error}): set $CIFAR_FAST_CACHE.", file=sys.stderr)
