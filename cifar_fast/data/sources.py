"""Images in: find or download a data set, decode it once, cache it as one file of uint8 tensors."""

import hashlib
import json
import os
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from cifar_fast.data.archives import (
    CIFAR10_FILES,
    CIFAR100_FILES,
    holds_cifar,
    npz_lines,
    read_cifar_archive,
    read_cifar_batches,
    read_npz,
    unpack,
)
from cifar_fast.data.cache import cache_dir, is_too_large
from cifar_fast.data.decoding import rare_lines, read_image_folder
from cifar_fast.data.download import DownloadError, download
from cifar_fast.data.duplicates import count_copies
from cifar_fast.data.folders import Listing, list_images
from cifar_fast.data.image_set import CIFAR10_SIZES, CIFAR10_VOCAB, ImageSet, read_digits
from cifar_fast.data.label_tables import list_kaggle, list_labelled
from cifar_fast.data.parquet import parquet_files, unlabelled_lines, unpack_parquet
from cifar_fast.errors import InputError
from cifar_fast.files import filled_once, put_in_place, read_tensors, write_tensors
from cifar_fast.progress import banner, say
from cifar_fast.text import printable

# torchvision.datasets.CIFAR10 and fastai's URLs.CIFAR name the same addresses and checksums; neither is imported
# here because both packages are slow to import and a cached data set needs neither.
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_MD5 = "md5:c58f30108f718f92721af3b95e74349a"
MIRROR_URL = "https://s3.amazonaws.com/fast-ai-sample/cifar10.tgz"
MIRROR_MD5 = "md5:a5f8c31371b63a406b23368042812d3c"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
CIFAR100_MD5 = "md5:eb9058c3a382ffc7106e4002c42a8d85"
CIFAR100_ARCHIVE = "cifar-100-python.tar.gz"
KNOWN = (
    "auto, cifar10, cifar100, cifar100-coarse, digits, or the path of a folder of images, of CIFAR's archive or batch "
    "files, of a .zip or .tar of a folder of images, of a folder of parquet files, or of a .npz of arrays"
)
STORED_SIZE = 32
_TENSORS = ("train_x", "train_y", "test_x", "test_y")


def load_images(
    data: str | Path = "auto",  # auto, cifar10, cifar100, cifar100-coarse, digits, or the path of images in any form
    size: int = STORED_SIZE,  # pixels of a side that a folder's images are stored at; CIFAR and digits stay at 32
    labels: str | Path | None = None,  # csv or jsonl that names a folder's images and their classes
    skip_bad: bool = False,  # whether to go on without images that cannot be read
) -> ImageSet:
    """The data set that `data` names, decoded, from the cache when it has been decoded before.

    `auto` falls back to digits, with a banner, where CIFAR-10 is neither on this machine nor to be downloaded. What a
    folder holds and is not read is said. Images that would take more than half of the free memory are mapped from the
    cache file. Raises `InputError` for anything missing or damaged.
    """
    name = str(data)
    if not name.strip():
        raise InputError(f"--data is empty: give {KNOWN}")
    if labels is not None and name in ("auto", "cifar10", "cifar100", "cifar100-coarse", "digits"):
        raise InputError(f"--labels says what a folder's images are, and {name} has labels: leave it out")
    if name == "digits":
        return read_digits()
    if name in ("cifar100", "cifar100-coarse"):
        return _decoded(find_cifar100(coarse=name.endswith("coarse")), STORED_SIZE)
    if name not in ("auto", "cifar10"):
        return _decoded(Source.at(Path(data), labels), size, skip_bad)
    try:
        images = _decoded(find_cifar10(), STORED_SIZE)
    except DownloadError as error:
        if name == "cifar10":
            raise
        banner(
            f"CIFAR-10 is not here: {error}.\nUsing scikit-learn's handwritten digits instead. THESE ARE NOT CIFAR-10 "
            "RESULTS.\nTo use CIFAR-10, give --data PATH or set $CIFAR_FAST_DATA."
        )
        return read_digits()
    if not images.is_cifar10:
        counts = f"{len(images.train_y):,} + {len(images.test_y):,} images of {len(images.vocab)} classes"
        raise InputError(f"what $CIFAR_FAST_DATA or the cache holds is not CIFAR-10 ({counts}): name it with --data")
    return images


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


def find_cifar100(coarse: bool = False) -> "Source":
    "CIFAR-100 from the cache, else the network, with its 100 classes or its 20 coarse ones. Raises `DownloadError`."
    archive = cache_dir() / CIFAR100_ARCHIVE
    if not archive.exists():
        _make_cache(archive)
        say("Downloading CIFAR-100 ...")
        download(CIFAR100_URL, archive, CIFAR100_MD5)
    return Source(archive, "cifar100-coarse" if coarse else "archive", None)


def _make_cache(archive: Path) -> None:
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{archive.parent} cannot be written ({error}): set $CIFAR_FAST_CACHE") from error


def _download_cifar10(archive: Path, folder: Path) -> Path:
    _make_cache(archive)
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
        unpack(archive, Path(tmp))
        put_in_place(Path(tmp) / "cifar10", folder)
    return folder


@dataclass(frozen=True)
class Source:
    "Files that hold a data set, what to read them with, and a fingerprint that changes when they do."

    path: Path
    kind: str  # archive, batches, cifar100-coarse, npz or folder
    listing: Listing | None  # of a folder
    name: str = ""  # of the data set; empty: the folder's

    @classmethod
    def at(
        cls,
        path: Path,
        labels: str | Path | None = None,  # table of a folder's labels
    ) -> "Source":
        "Recognise what lies at `path`. Raises `InputError`."
        path = path.expanduser().resolve()
        if not os.path.isfile(path) and not os.path.isdir(path):  # Path's raise for a name that is too long
            raise InputError(f"{path} does not exist: give {KNOWN}")
        found = cls.of_file(path, labels) if path.is_file() else cls.of_folder(path, labels)
        if labels is not None and found.listing is None:
            raise InputError(f"--labels says what a folder's images are, and {path} has labels: leave it out")
        return found

    @classmethod
    def of_file(cls, path: Path, labels: str | Path | None) -> "Source":
        "A file: CIFAR's archive, another one, or arrays."
        if path.suffix.lower() == ".npz":
            return cls(path, "npz", None)
        if path.suffix.lower() == ".parquet":
            raise InputError(f"{path} is one split: give the folder of the parquet files ({path.parent})")
        is_zip = zipfile.is_zipfile(path)
        if not is_zip and path.suffix.lower() in (".csv", ".jsonl", ".tsv"):
            raise InputError(f"{path} is a table: give it with --labels, and the folder of its images with --data")
        if not is_zip and not tarfile.is_tarfile(path) and not path.name.endswith((".tar.gz", ".tgz", ".tar")):
            raise InputError(f"{path} is in no known form: give {KNOWN}")
        if not is_zip and holds_cifar(path):
            return cls(path, "archive", None)
        found = cls.of_folder(_unpacked([path], partial(unpack, path)), labels)
        return replace(found, name=path.name.split(".")[0])

    @classmethod
    def of_folder(cls, path: Path, labels: str | Path | None) -> "Source":
        "A folder: CIFAR's batch files, its archive, images, or parquet files."
        if (path / CIFAR10_ARCHIVE).is_file():
            return cls(path / CIFAR10_ARCHIVE, "archive", None)
        for inner in (path, path / "cifar-10-batches-py", path / "cifar-100-python"):
            if any((inner / o).is_file() for o in CIFAR10_FILES) or all((inner / o).is_file() for o in CIFAR100_FILES):
                return cls(inner, "batches", None)
        if labels is not None:
            return cls(path, "folder", list_labelled(path, labels))
        try:
            listing = list_images(path)
        except InputError:
            if files := parquet_files(path):
                place = _unpacked([o for paths in files.values() for o in paths], partial(unpack_parquet, files))
                found = cls.of_folder(place, None)
                found.listing.notes += unlabelled_lines(path, files, place)
                return replace(found, name=path.name)
            if (listing := list_kaggle(path)) is None:
                raise
        return cls(path, "folder", listing)

    def fingerprint(self) -> str:
        "A hash over the name, size and times of every file, and over a table's labels."
        if self.kind == "batches":
            paths = sorted(map(str, self.path.iterdir()))
        else:
            paths = self.listing.paths if self.listing else [str(self.path)]
        return _stamp(paths, json.dumps(self.listing.files, sort_keys=True) if self.table else "")

    def lines(self) -> list[str]:
        "What is to be said about them."
        if self.kind == "npz":
            return npz_lines(self.path)
        return self.listing.lines(self.path) if self.listing else []

    @property
    def table(self) -> str:
        "That says which file has which label, where its folder does not."
        return self.listing.table if self.listing else ""

    def stored_size(self, size: int) -> int:
        "Pixels of a side to store: `size` for a folder, 32 for CIFAR in whatever form."
        if self.listing is None:
            return size if self.kind == "npz" else STORED_SIZE
        files = self.listing.files
        sizes = tuple(sum(map(len, files.get(split, {}).values())) for split in ("train", "test"))
        return STORED_SIZE if (list(files["train"]), sizes) == (CIFAR10_VOCAB, CIFAR10_SIZES) else size

    def read(self, size: int, skip_bad: bool = False) -> ImageSet:
        "Decode everything, a folder's images at `size` pixels."
        if self.kind == "npz":
            return read_npz(self.path, size)
        if self.kind == "batches":
            return read_cifar_batches(self.path)
        if self.kind != "folder":
            return read_cifar_archive(self.path, self.kind == "cifar100-coarse")
        images = read_image_folder(self.path, self.listing, size, skip_bad)
        return replace(images, name="cifar10" if images.is_cifar10 else self.name or images.name)


def _unpacked(paths: list[Path], unpack: Callable[[Path], None]) -> Path:
    "Where in the cache these files are unpacked, by now: in another place once they have changed."
    place = cache_dir() / f"unpacked-{_stamp(paths)[:12]}"
    try:
        return filled_once(place, unpack)
    except OSError as error:
        raise InputError(
            f"{paths[0]} cannot be unpacked into {cache_dir()} ({error}): set $CIFAR_FAST_CACHE"
        ) from error


def _stamp(paths: Iterable[str | Path], about: str = "") -> str:
    """A hash over names, sizes and times of files, and what is known about them.

    A program that copies may set the time of a file's content back, but not that of its entry.
    """
    stats = ((path, os.stat(path)) for path in paths)
    lines = "\n".join(f"{path}\t{o.st_size}\t{o.st_mtime_ns}\t{o.st_ctime_ns}" for path, o in stats)
    return hashlib.sha256(os.fsencode(lines + about)).hexdigest()


# The cache of decoded data sets ----------------------------------------------------------------------------------


def _decoded(source: Source, size: int, skip_bad: bool = False) -> ImageSet:
    "`source` from the cache; where it is not there, or was made of other files, decode it and cache it."
    size = source.stored_size(size)
    key = hashlib.sha256(os.fsencode(f"{source.path}:{size}:{source.kind}:{source.table}")).hexdigest()[:12]
    path, fingerprint = cache_dir() / f"{source.path.name}-{size}px-{key}.safetensors", source.fingerprint()
    images = _read_cache(path, fingerprint)
    if images is None or (images.skipped and not skip_bad):
        say(f"Decoding {source.path} ...")
        images = source.read(size, skip_bad)
        if all(o == 1 for o in images.std):  # which no other pixels have
            raise InputError(f"{source.path}: all pixels of all training images are the same: nothing can be learnt")
        leaked, contrary = count_copies(images.train_x, images.train_y, images.test_x)
        images = replace(images, leaked=leaked, n_contrary=contrary)
        _write_cache(path, fingerprint, images)
        if is_too_large(images.train_x.shape):
            images = _read_cache(path, fingerprint) or images  # safetensors maps what it reads
            say(f"{images.train_x.nbytes / 1e9:,.1f} GB of training images are mapped from {path}.")
    for line in [*source.lines(), *_lines(images), *rare_lines(images)]:
        say(printable(line))
    return images


def _lines(images: ImageSet) -> Iterator[str]:
    "What their pixels make to be said."
    if images.leaked:
        yield (
            f"{images.leaked:,} of {len(images.test_y):,} test images are training images too, pixel by pixel: "
            "evaluate RUN --duplicates shows them, and the accuracy without them."
        )
    if images.n_contrary:
        yield f"{images.n_contrary:,} training images are there under another class too, pixel by pixel."
    n = len(images.train_y) + len(images.test_y)
    if 0 < images.n_deep < n:
        low, high = images.levels
        yield (
            f"{images.n_deep:,} of {n:,} images have more than 8 bits: their values from {low:g} to {high:g} become 0 "
            "to 255, and the others stay as they are."
        )
    if images.n_long:
        yield f"{images.n_long:,} images are more than twice as long as wide: the square in their middle is read."
    if images.skipped:
        yield f"Skipped, as they cannot be read: {len(images.skipped):,} images."


_ABOUT = tuple(o.name for o in fields(ImageSet) if o.name not in _TENSORS)


def _read_cache(path: Path, fingerprint: str) -> ImageSet | None:
    try:
        tensors, header = read_tensors(path)
        if header["fingerprint"] != fingerprint:
            return None
        about = json.loads(header["about"])
        if set(about) != set(_ABOUT):
            return None  # of another version
        made = {name: tuple(o) if isinstance(o, list) and name != "vocab" else o for name, o in about.items()}
        return ImageSet(**made, **{name: tensors[name] for name in _TENSORS})
    except (OSError, KeyError, ValueError):
        return None  # missing or damaged: it is only a cache


def _write_cache(path: Path, fingerprint: str, images: ImageSet) -> None:
    about = json.dumps({name: getattr(images, name) for name in _ABOUT})
    tensors = {name: getattr(images, name).contiguous() for name in _TENSORS}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {"fingerprint": fingerprint, "about": about})
    except OSError as error:
        print(f"The decoded images are not cached ({error}): set $CIFAR_FAST_CACHE.", file=sys.stderr)
