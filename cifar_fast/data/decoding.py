"""Listed files in, an `ImageSet` out: every image decoded once, by all processors."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from cifar_fast.data.cache import room, taken
from cifar_fast.data.folders import Listing
from cifar_fast.data.formats import CIFAR10_SIZES, CIFAR10_VOCAB, ImageSet, fifth_of_each
from cifar_fast.data.image import Levels, decode_image
from cifar_fast.data.levels import find_levels
from cifar_fast.errors import ImageError, InputError
from cifar_fast.progress import progress
from cifar_fast.text import printable

SPLITS = ("train", "valid", "test")  # in this order: validation images are the last of the training images
NAMED = 10  # bad images that a message names


def read_image_folder(
    root: Path,  # the folder, for its name
    listing: Listing,  # of `list_images` or `list_labelled`
    size: int,  # pixels of a side of the stored square
    skip_bad: bool = False,  # whether to go on without images that cannot be read
) -> ImageSet:
    """Decode listed images, each resized and centre-cropped to `size`, with a progress bar.

    Without a test split one fifth of each class is set aside for it, always the same. Raises `InputError`, naming all
    that cannot be read.
    """
    vocab = list(listing.files["train"])
    label = {name: i for i, name in enumerate(vocab)}
    found = [
        (path, label[name], split)
        for split in SPLITS
        for name, paths in listing.files.get(split, {}).items()
        for path in paths
    ]
    x, levels, bad = _decode([path for path, *_ in found], size)
    if bad and not skip_bad:
        raise InputError(_bad_line(bad))
    if bad:
        whole = [i for i in range(len(found)) if i not in bad]
        x, found = taken(x, torch.tensor(whole, dtype=torch.int64)), [found[i] for i in whole]
    y = torch.tensor([o for _, o, _ in found], dtype=torch.int64)
    train, test, n_valid = _parts([o for *_, o in found], y)
    _check_classes(root, vocab, y[train])
    names = [printable(os.path.relpath(path, root)) for path, *_ in found]
    is_cifar10 = (vocab, (len(train), len(test))) == (CIFAR10_VOCAB, CIFAR10_SIZES)
    return ImageSet.from_splits(
        "cifar10" if is_cifar10 else printable(Path(root).name), [printable(o) for o in vocab],
        (taken(x, train), y[train]), (taken(x, test), y[test]), levels=levels, n_valid=n_valid,
        files=tuple([names[i] for i in idxs.tolist()] for idxs in (train, test)),
        skipped=tuple(printable(message) for message in bad.values()),
    )  # fmt: skip


def _parts(splits: list[str], y: Tensor) -> tuple[Tensor, Tensor, int]:
    "Indices of training and test images, and how many of the former, the last ones, choose."
    of = {split: torch.tensor([i for i, o in enumerate(splits) if o == split], dtype=torch.int64) for split in SPLITS}
    if len(of["test"]):
        return torch.cat([of["train"], of["valid"]]), of["test"], len(of["valid"])
    return *fifth_of_each(y), 0


def _decode(paths: list[str], size: int) -> tuple[Tensor, Levels | None, dict[int, str]]:
    "Pixels uint8 (N, 3, size, size), the range of deep images, and what is wrong with which of them."
    x = room((len(paths), 3, size, size))
    levels, bad = find_levels(paths), {}

    def decode(i: int) -> None:
        try:
            x[i] = torch.from_numpy(decode_image(paths[i], size, levels)).permute(2, 0, 1)
        except ImageError as error:
            bad[i] = str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in progress(pool.map(decode, range(len(paths))), total=len(paths)):
            pass
    return x, levels, dict(sorted(bad.items()))


def _bad_line(bad: dict[int, str]) -> str:
    messages = list(bad.values())
    if len(messages) == 1:
        return f"{messages[0]}, or leave it out with --skip-bad"
    more = f" and {len(messages) - NAMED:,} more" * (len(messages) > NAMED)
    return f"{len(messages):,} images cannot be read: {'; '.join(messages[:NAMED])}{more}. --skip-bad leaves them out"


def _check_classes(root: Path, vocab: list[str], y: Tensor) -> None:
    missing = set(range(len(vocab))) - set(y.unique().tolist())
    if missing:
        raise InputError(f"{root}: the class {vocab[min(missing)]!r} has no training image that can be read")


def rare_lines(
    images: ImageSet,
) -> Iterator[str]:
    "A line about classes that no test image shows."
    tested = set(images.test_y.unique().tolist())
    missing = [images.vocab[i] for i in range(len(images.vocab)) if i not in tested]
    if missing:
        more = f" and {len(missing) - NAMED:,} more" * (len(missing) > NAMED)
        yield f"No test image shows {', '.join(missing[:NAMED])}{more}: the accuracy says nothing of it."
