"""What the images of more than 8 bits of a data set hold, so that all of them become 8 bits in the same way."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from fastcore.basics import chunked
from PIL import Image

from cifar_fast.data.image import Levels, is_deep
from cifar_fast.errors import InputError

# How formats begin that never hold grey of more than 8 bits, and how PNG does, whose 25th byte says how many it holds.
_SHALLOW = (b"\xff\xd8", b"GIF8", b"RIFF", b"BM")
_PNG = b"\x89PNG"
AT_ONCE = 32  # images that a thread takes one after another: each hand-over costs as much as a small image


class Held(NamedTuple):
    "What an image of more than 8 bits holds."

    path: str
    kind: str  # floats or whole numbers
    low: float
    high: float


def find_levels(
    paths: Iterable[str],  # of a data set's images
) -> tuple[Levels | None, int]:  # the smallest and the largest value, None where there is none; how many have it
    """The range by which a data set's grey images of more than 8 bits are scaled. Files that cannot be read have none.

    Raises `InputError` where no range fits them: floats beside whole numbers, or a few values so large that most
    images would be of one grey.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda part: list(map(held, part)), chunked(paths, AT_ONCE))
        found = [o for part in parts for o in part if o is not None]
    if not found:
        return None, 0
    least, most = min(found, key=lambda o: o.low), max(found, key=lambda o: o.high)
    first, other = found[0], next((o for o in found if o.kind != found[0].kind), None)
    if other is not None:
        raise InputError(f"{first.path} holds {first.kind} and {other.path} {other.kind}: convert them to one kind")
    low, high = least.low, most.high
    lost = [o for o in found if 0 < o.high - o.low < (high - low) / 255]
    if 2 * len(lost) > len(found):
        raise InputError(
            f"{least.path} and {most.path} hold values from {low:g} to {high:g}, beside which {lost[0].path} and "
            f"{len(lost) - 1:,} other images are of one grey: scale or remove them"
        )
    return (low, high if high > low else low + 1), len(found)


def held(
    path: str,  # of an image
) -> Held | None:  # None: no more than 8 bits, or it cannot be read
    "What an image of more than 8 bits holds."
    try:
        with open(path, "rb") as file:
            head = file.read(26)
            if head.startswith(_SHALLOW) or (head.startswith(_PNG) and head[24] <= 8):
                return None
            file.seek(0)
            with Image.open(file) as image:
                if not is_deep(image):
                    return None
                pixels = np.asarray(image)
    except Exception:  # decoding it will say what is wrong
        return None
    if not np.isfinite(pixels).all():
        return None
    return Held(str(path), "floats" if image.mode == "F" else "whole numbers", float(pixels.min()), float(pixels.max()))
