"""Listed files in, an `ImageSet` out: every image decoded once, by all processors."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from fastcore.basics import chunked
from torch import Tensor

from cifar_fast.data.cache import room, taken
from cifar_fast.data.folders import Listing
from cifar_fast.data.image import Levels, decode_and_measure
from cifar_fast.data.image_set import SPLITS, ImageSet, split_indices
from cifar_fast.data.levels import AT_ONCE, find_levels
from cifar_fast.errors import ImageError, InputError
from cifar_fast.progress import progress
from cifar_fast.text import printable

LONG = 2.0  # times as long as wide: the square in the middle of an image is less than half of it
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
    paths = [path for path, *_ in found]
    levels, n_deep = find_levels(paths)
    x, bad, ratios = decode_files(paths, size, levels)
    if bad and not skip_bad:
        raise InputError(bad_line(bad, "--skip-bad"))
    if bad:
        whole = [i for i in range(len(found)) if i not in bad]
        x, found = taken(x, torch.tensor(whole, dtype=torch.int64)), [found[i] for i in whole]
    y = torch.tensor([o for _, o, _ in found], dtype=torch.int64)
    train, test, n_valid = split_indices([o for *_, o in found], y)
    if missing := set(range(len(vocab))) - set(y[train].tolist()):
        raise InputError(f"{root}: the class {vocab[min(missing)]!r} has no training image that can be read")
    names = [printable(os.path.relpath(path, root)) for path, *_ in found]
    return ImageSet.from_splits(
        printable(Path(root).name), [printable(o) for o in vocab], (taken(x, train), y[train]),
        (taken(x, test), y[test]), levels=levels, n_valid=n_valid, n_deep=n_deep,
        files=tuple([names[i] for i in idxs.tolist()] for idxs in (train, test)),
        skipped=tuple(printable(message) for message in bad.values()), n_long=int((ratios > LONG).sum()),
    )  # fmt: skip


def decode_files(
    paths: list[str],
    size: int,  # pixels of a side
    levels: Levels | None,  # by which images of more than 8 bits are scaled; None: by those of each one's kind
) -> tuple[Tensor, dict[int, str], np.ndarray]:
    """Every image, by all processors, with a progress bar: pixels, errors, and ratios of their sides.

    uint8 (N, 3, size, size), black where an image cannot be read; what is wrong with which image; float (N,).
    """
    x, bad, ratios = room((len(paths), 3, size, size)), {}, np.ones(len(paths))
    pixels = x.numpy()  # which takes small images quicker than the tensor does

    def decode(part: list[int]) -> None:
        for i in part:
            try:
                image, ratios[i] = decode_and_measure(paths[i], size, levels)
                pixels[i] = image.transpose(2, 0, 1)
            except ImageError as error:
                bad[i] = str(error)

    n_threads = os.cpu_count() or 1
    at_once = max(1, min(AT_ONCE, len(paths) // (4 * n_threads)))
    parts = list(chunked(range(len(paths)), at_once))
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in progress(pool.map(decode, parts), total=len(parts)):
            pass
    return x, dict(sorted(bad.items())), ratios


def bad_line(
    bad: dict[int, str],  # of `decode_files`
    way_out: str = "",  # option that goes on without them
) -> str:
    "All that cannot be read, in one line."
    messages = list(bad.values())
    if len(messages) == 1:
        return messages[0] + f", or leave it out with {way_out}" * bool(way_out)
    more = f" and {len(messages) - NAMED:,} more" * (len(messages) > NAMED)
    said = f"{len(messages):,} images cannot be read: {'; '.join(messages[:NAMED])}{more}"
    return said + f". {way_out} leaves them out" * bool(way_out)


def rare_lines(images: ImageSet) -> Iterator[str]:
    "A line about classes that no test image shows."
    tested = set(images.test_y.unique().tolist())
    missing = [images.vocab[i] for i in range(len(images.vocab)) if i not in tested]
    if missing:
        more = f" and {len(missing) - NAMED:,} more" * (len(missing) > NAMED)
        yield f"No test image shows {', '.join(missing[:NAMED])}{more}: the accuracy says nothing of it."
