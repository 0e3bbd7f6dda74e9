"""Stock fastai and this package side by side: the same few images, a tiny network, two batches an epoch."""

from functools import partial

import numpy as np
import pytest
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import GrandparentSplitter, Normalize, get_image_files, parent_label
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.vision.all import ImageBlock
from fastai.vision.learner import default_split
from PIL import Image
from torch import nn

from cifar_fast.data.loaders import image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.records.recipes import record_learner
from cifar_fast.training.learner import custom_learner, transfer_learner
from habits.table import KINDS

CLASSES = ("bird", "cat", "dog", "frog")
PIXELS, BS = 16, 8
# as cached, but for the cache
MARKED = {"transfer": pytest.param("transfer", marks=[pytest.mark.slow, pytest.mark.long])}


def pytest_generate_tests(metafunc):
    "Each row is tried on each kind that it is about."
    for name, kinds in (("learn", KINDS), ("choosing", KINDS), ("dls", ("stock", "ours"))):
        if name in metafunc.fixturenames:
            kinds = getattr(metafunc.function, "kinds", kinds)
            metafunc.parametrize(name, [MARKED.get(o, o) for o in kinds], indirect=True)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    "A folder of 16 training and 8 other images, whose colour says their class."
    folder, rng = tmp_path_factory.mktemp("habits") / "photos", np.random.default_rng(0)
    for split, n in (("train", 4), ("valid", 2)):
        for i, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for j in range(n):
                pixels = rng.integers(0, 128, (PIXELS, PIXELS, 3), dtype=np.uint8)
                pixels[..., i % 3] += np.uint8(40 * (1 + i // 3))
                Image.fromarray(pixels).save(folder / split / name / f"{j}.png")
    return folder


@pytest.fixture
def cat(photos):
    "The file of an image."
    return photos / "valid" / "cat" / "0.png"


@pytest.fixture(scope="session")
def image_set(photos, tmp_path_factory):
    "The folder as this package reads it."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAR_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_images(photos, PIXELS)


def stock_dls(photos, **kwargs):
    "fastai's own loaders."
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=GrandparentSplitter("train", "valid"),
        get_y=parent_label,
        batch_tfms=[Normalize.from_stats([0.3] * 3, [0.2] * 3, cuda=False)],
    )
    return block.dataloaders(photos, **{"bs": BS, "num_workers": 0, "device": "cpu", **kwargs})


def tiny_network():
    "A body and a dense layer, as of a published network."
    convs = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)]
    return nn.Sequential(*convs, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(CLASSES)))


def stock_learner(dls, **kwargs):
    "fastai's own Learner."
    network = tiny_network()
    model = nn.Sequential(network[:6], network[6:])
    return Learner(dls, model, CrossEntropyLossFlat(), splitter=default_split, **{"metrics": accuracy, **kwargs})


MAKERS = {
    "stock": stock_learner,
    "custom": lambda dls, **kwargs: custom_learner(dls, precision="fp32", width=4, dense_width=8, **kwargs),
    "transfer": lambda dls, **kwargs: transfer_learner(
        dls, tiny_network, "none", cache=False, precision="fp32", **kwargs
    ),
    "cached": lambda dls, **kwargs: transfer_learner(dls, tiny_network, "none", precision="fp32", **kwargs),
    "record": lambda dls, **kwargs: record_learner(dls, 90, precision="fp32", widths=(4, 4, 4), sizes=(), **kwargs),
}


@pytest.fixture
def make_dls(photos, image_set):
    "Loaders of a kind."

    def make(kind: str, valid: str = "test", **kwargs):
        if kind == "stock":
            made = stock_dls(photos, **kwargs)
        else:
            made = image_dls(image_set, **{"bs": BS, "device": "cpu", **kwargs})
            made.valid_ds.is_test = valid == "test"
        made.kind = "stock" if kind == "stock" else "ours"
        return made

    return make


@pytest.fixture
def make_learn(make_dls, monkeypatch):
    "A Learner of a kind: `make_learn(kind, cbs=...)`; `dls` in place of the usual ones."
    monkeypatch.setattr("cifar_fast.records.recipes.MIN_BATCHES", 2)

    def make(kind: str, dls=None, **kwargs):
        made = MAKERS[kind](make_dls(kind) if dls is None else dls, **kwargs)
        made.kind = kind
        return made

    return make


@pytest.fixture
def learn(request, make_learn):
    "A Learner; what it validates on are test images."
    return make_learn(request.param)


@pytest.fixture
def again(learn, make_learn):
    "Makes a further Learner of the same kind: `again(cbs=...)`."
    made = partial(make_learn, learn.kind)
    made.kind = learn.kind
    return made


@pytest.fixture
def choosing(request, make_learn, make_dls):
    "A Learner that validates on images held out of the training images, by which it may choose."
    return make_learn(request.param, make_dls(request.param, valid="holdout"))


@pytest.fixture
def dls(request, make_dls):
    "Loaders."
    return make_dls(request.param)
