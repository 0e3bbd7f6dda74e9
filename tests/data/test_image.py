"""Images as they come become RGB squares, and what is no image is one error."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from cifar_fast.data.image import decode_image
from cifar_fast.errors import ImageError

RED = (255, 0, 0)


def encoded(image, **kwargs):
    out = io.BytesIO()
    image.save(out, **{"format": "PNG", **kwargs})
    return out.getvalue()


def transparent():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    return encoded(image)


def animated():
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, (0, 255, 0))]
    return encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("source", "colour"),
    [
        (encoded(Image.new("RGB", (8, 8), RED)), RED),
        (encoded(Image.new("L", (8, 8), 90)), (90, 90, 90)),
        (encoded(Image.new("RGB", (8, 8), RED).convert("P")), RED),
        (encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), format="JPEG"), (255, 255, 255)),
        (encoded(Image.fromarray(np.full((8, 8), 0x8000, np.uint16))), (128, 128, 128)),
        (transparent(), (255, 255, 255)),
        (animated(), RED),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (np.full((8, 8), 7, np.uint8), (7, 7, 7)),
        (np.full((8, 8, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((9, 5, 3), RED, np.uint8), RED),
        (np.full((8, 8, 4), (*RED, 255), np.uint8), RED),
        (np.full((8, 8), 1.0), (255, 255, 255)),
    ],
)
def test_images_of_all_modes_become_rgb(source, colour):
    pixels = decode_image(source, 4)
    assert pixels.shape == (4, 4, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= 2


def test_the_middle_of_a_long_image_is_kept():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 200
    assert (decode_image(wide, 10) == 200).all()


def test_exif_turns_the_image():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 250
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = decode_image(encoded(Image.fromarray(pixels), exif=exif), 16)
    assert (turned[8:] == 250).all() and (turned[:8] == 0).all()


PNG = encoded(Image.effect_noise((64, 64), 50))


FILES = [PNG, animated(), transparent(), *(encoded(Image.effect_noise((32, 32), 50), format=o) for o in
         ("JPEG", "BMP", "TIFF", "WEBP", "GIF"))]  # fmt: skip


@pytest.mark.parametrize(
    "source",
    [
        b"", b"hello", PNG[: len(PNG) // 2], np.zeros((4, 4, 2), np.uint8), np.zeros(7, np.uint8),
        np.zeros((4, 4), np.int64), np.full((4, 4), np.nan), np.full((4, 4), 3.0), 7, None,
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(source):
    with pytest.raises(ImageError):
        decode_image(source, 8)


def test_a_file_that_is_not_there_and_what_is_no_image_say_so():
    with pytest.raises(ImageError, match="does not exist"):
        decode_image("nowhere.png", 32)
    with pytest.raises(ImageError, match="give a path, bytes, a PIL image or an array"):
        decode_image(object(), 32)


def test_a_decompression_bomb_is_refused_unopened(tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")  # 110 KB that would unpack to 2.7 GB
    with pytest.raises(ImageError, match=r"bomb\.png"):
        decode_image(tmp_path / "bomb.png", 8)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_damaged_files_give_pixels_or_one_error(content, data):
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for i in data.draw(st.lists(st.integers(0, max(len(damaged) - 1, 0)), max_size=4)) if damaged else []:
        damaged[i] ^= 1 << data.draw(st.integers(0, 7))
    try:
        pixels = decode_image(bytes(damaged), 8)
    except ImageError:
        return
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8


@settings(max_examples=200, deadline=None)
@given(
    arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_, np.complex64]),
        array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_arrays_give_pixels_or_one_error(array):
    try:
        pixels = decode_image(array, 4)
    except ImageError:
        return
    assert pixels.shape == (4, 4, 3)
