"""Test images that are training images too: the same pixels, or nearly the same."""

import hashlib
from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE = 8  # pixels of a side that all pairs are compared at
CANDIDATES = 5  # training images that are then compared as they are
NEARLY = 0.95  # correlation of pixels from which on two images are nearly the same
FLAT = 3.0  # standard deviation of the pixels below which an image shows nothing that could be compared
CHUNK = 500  # test images at once


class Pair(NamedTuple):
    "A test image and a training image that are the same, or nearly."

    test: int  # index
    train: int  # index
    similarity: float  # correlation of the pixels; 1 for the same


def exact_duplicates(
    train_x: Tensor,  # uint8 (N, 3, H, W)
    test_x: Tensor,  # uint8 (M, 3, H, W)
) -> list[Pair]:
    "Test images with the same pixels as a training image, each with the first such one."
    known: dict[bytes, int] = {}
    for i, image in enumerate(train_x):
        known.setdefault(_digest(image), i)
    found = ((i, known.get(_digest(image))) for i, image in enumerate(test_x))
    return [Pair(i, j, 1.0) for i, j in found if j is not None]


def count_copies(
    train_x: Tensor,  # uint8 (N, 3, H, W)
    train_y: Tensor,  # int64 (N,) labels
    test_x: Tensor,  # uint8 (M, 3, H, W)
) -> tuple[int, int]:
    "Test images that are training images too, and training images that are there under another class too."
    digests, classes = [_digest(image) for image in train_x], defaultdict(set)
    for digest, label in zip(digests, train_y.tolist()):
        classes[digest].add(label)
    return sum(_digest(image) in classes for image in test_x), sum(len(classes[o]) > 1 for o in digests)


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy(), digest_size=16).digest()


def near_duplicates(
    train_x: Tensor,  # uint8 (N, 3, H, W)
    test_x: Tensor,  # uint8 (M, 3, H, W)
) -> list[Pair]:
    """Test images whose pixels correlate with a training image's by 0.95 or more, but are not the same; nearest first.

    All pairs are compared as pictures of 8 pixels, the five nearest of each as they are.
    """
    small, same = _centred(_coarse(train_x)), {o.test for o in exact_duplicates(train_x, test_x)}
    found = []
    for start in range(0, len(test_x), CHUNK):
        own = test_x[start : start + CHUNK]
        idxs = (_centred(_coarse(own)) @ small.T).topk(min(CANDIDATES, len(train_x))).indices
        fine = _centred(train_x[idxs.flatten()].float()).view(*idxs.shape, -1)
        similar, best = (fine @ _centred(own.float())[:, :, None]).squeeze(2).max(1)
        flat = own.float().flatten(1).std(1) < FLAT
        for i in ((similar >= NEARLY) & ~flat).nonzero().flatten().tolist():
            if start + i not in same:
                found.append(Pair(start + i, int(idxs[i, best[i]]), float(similar[i])))
    return sorted(found, key=lambda o: -o.similarity)


def _coarse(x: Tensor) -> Tensor:
    return torch.cat([F.interpolate(o.float(), size=COARSE, mode="area") for o in x.split(5000)])


def _centred(x: Tensor) -> Tensor:
    "Vectors without their mean, of length 1: their products are correlations."
    x = x.flatten(1)
    return F.normalize(x - x.mean(1, keepdim=True))
