"""Scientific images of more than 8 bits: scaled by what the data set holds, the same everywhere, or refused by name."""

import struct
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_fast.data.image import decode_image
from cifar_fast.data.levels import find_levels
from cifar_fast.data.loaders import image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.deploy import export  # noqa: F401 - export_safe
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import ImageError, InputError
from cifar_fast.training.learner import custom_learner

KINDS = {"grey12": (4095, np.uint16), "float01": (1, np.float32), "int32": (255, np.int32), "height": (3e4, np.float32)}


def grey(label, i):
    return np.random.default_rng([label, i]).random((8, 8)) ** (1 + 2 * label)


@pytest.fixture
def tiffs(tmp_path):
    "Makes a folder of two classes of five TIFFs each: `tiffs(largest value, dtype)`."

    def make(top, dtype, low=0, n=5):
        for label, name in enumerate(("cells", "dust")):
            (tmp_path / name).mkdir(exist_ok=True)
            for i in range(n):
                pixels = low + grey(label, i) * (top - low)
                Image.fromarray(pixels.astype(dtype)).save(tmp_path / name / f"{i}.tif")
        return tmp_path

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_tiffs_of_every_depth_give_the_pixels_of_8_bits(tiffs, kind):
    top, dtype = KINDS[kind]
    images = load_images(tiffs(top, dtype), 8)
    low, high = images.levels
    x = torch.cat([images.train_x, images.test_x]).float()
    assert 0 <= low < high <= top and (x.min(), x.max()) == (0, 255)
    # scaled the same everywhere: what is twice as bright in one file is so in another
    wanted = np.stack([grey(label, i) for label in (0, 1) for i in range(5)]).ravel() * 255
    assert np.abs(np.sort(x[:, 0].flatten().numpy()) - np.sort(wanted)).max() < 4
    assert load_images(tiffs(top, dtype), 8).levels == images.levels  # from the cache


def test_negative_values_are_values_too(tiffs):
    images = load_images(tiffs(3000, np.float32, low=-1000), 8)
    assert -1000 <= images.levels[0] < -900 and 2700 < images.levels[1] <= 3000


def test_a_model_scales_as_it_was_trained(tiffs, tmp_path):
    folder = tiffs(4095, np.uint16)
    images = load_images(folder, 8)
    learn = custom_learner(image_dls(images, device="cpu"), n_convs=1, width=4, n_dense=1, precision="fp32")
    learn.path = tmp_path / "out"
    predictor = Predictor(learn.export_safe("model"))
    assert predictor.card.levels == list(images.levels)
    pixels = decode_image(folder / "dust/0.tif", 8, images.levels)
    file, array = predictor(folder / "dust/0.tif"), predictor(np.array(Image.open(folder / "dust/0.tif")))
    assert file == predictor(pixels) == array
    assert file.probabilities != predictor(folder / "dust/1.tif").probabilities
    one = learn.dls.test_dl([folder / "dust/0.tif"]).dataset.x[0].permute(1, 2, 0)
    assert np.array_equal(one, pixels)


def test_images_of_8_bits_beside_deeper_ones_stay_as_they_are_and_a_line_says_so(tiffs, capsys):
    folder = tiffs(1, np.float32)
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(folder / "cells/grey.png")
    images = load_images(folder, 8)
    assert (torch.cat([images.train_x, images.test_x]) == 99).flatten(1).all(1).sum() == 1
    said = capsys.readouterr().out
    assert "10 of 11 images have more than 8 bits: their values from " in said and "the others stay" in said
    load_images(folder, 8)
    assert "10 of 11 images have more than 8 bits" in capsys.readouterr().out  # of the cache too


def test_a_model_of_8_bits_takes_what_is_known_and_refuses_the_rest_by_name(tmp_path):
    for name, pixels in {
        "16.png": np.array([[0, 65535], [0, 65535]], np.uint16), "float.tif": np.array([[0, 1], [0, 1]], np.float32),
    }.items():  # fmt: skip
        Image.fromarray(pixels).save(tmp_path / name)
        assert decode_image(tmp_path / name, 2)[0, :, 0].tolist() == [0, 255]
    Image.fromarray(np.array([[0, 9]], np.int32)).save(tmp_path / "int.tif")
    with pytest.raises(ImageError, match=r"int\.tif.*from 0 to 9.*scale it"):
        decode_image(tmp_path / "int.tif", 2)


def test_what_has_no_range_is_refused_by_name(tiffs):
    folder = tiffs(1, np.float32)
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(folder / "cells/nan.tif")
    with pytest.raises(InputError, match=r"nan\.tif.*not finite"):
        load_images(folder, 8)
    Image.fromarray(np.full((8, 8), 1e9, np.float32)).save(folder / "cells/nan.tif")
    with pytest.raises(InputError, match=r"nan\.tif.*of one grey"):
        load_images(folder, 8)


def test_dark_16_bit_colours_are_refused(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">6H", *[value] * 6) for value in (4095, 100))
    chunks = {b"IHDR": struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0), b"IDAT": compress(rows), b"IEND": b""}
    content = b"".join(struct.pack(">I", len(o)) + k + o + struct.pack(">I", crc32(k + o)) for k, o in chunks.items())
    with pytest.raises(ImageError, match="16-bit colours"):
        decode_image(b"\x89PNG\r\n\x1a\n" + content, 2)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([np.uint16, np.int32, np.float32]), st.lists(st.integers(0, 60_000), min_size=4, max_size=4))
def test_files_of_any_values_keep_their_order_and_are_never_made_one_grey(tmp_path_factory, dtype, values):
    path = tmp_path_factory.mktemp("deep") / "a.tif"
    Image.fromarray(np.array(values, dtype).reshape(2, 2)).save(path)
    pixels = decode_image(path, 2, find_levels([path])[0])[..., 0].ravel()
    assert [pixels[i] for i in np.argsort(values, kind="stable")] == sorted(pixels)
    assert len(set(values)) == 1 or (pixels.min(), pixels.max()) == (0, 255)
