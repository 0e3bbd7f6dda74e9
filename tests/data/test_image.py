"""Images as they come become RGB squares, and what is no image is one error."""

import io
import struct
import sys
from zlib import compress, crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, JpegImagePlugin

from cifar_fast.data import image
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


def test_what_is_no_image_says_what_is_one():
    with pytest.raises(ImageError, match="give a path, bytes, a PIL image or an array"):
        decode_image(object(), 32)


def chunk(kind, content, checksum=None):
    checksum = crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def among_chunks(png, *chunks):
    return png[:33] + b"".join(chunks) + png[33:]


def among_segments(jpeg, *segments):
    return jpeg[:2] + b"".join(b"\xff" + o[:1] + struct.pack(">H", len(o) + 1) + o[1:] for o in segments) + jpeg[2:]


UPSIDE_DOWN = Image.Exif()
UPSIDE_DOWN[0x0112] = 3
BROKEN_EXIF = b"Exif\0\0MM\0*" + bytes(range(200, 256)) * 3
HALVES = Image.fromarray(np.repeat(np.array([[[250]], [[0]]], np.uint8), 16, 0).repeat(32, 1).repeat(3, 2))
JPEG = encoded(HALVES, format="JPEG", quality=95)


@pytest.mark.parametrize(
    "content",
    [
        among_chunks(encoded(HALVES), chunk(b"zTXt", b"a\0\0" + compress(bytes(2**21)))),
        among_chunks(encoded(HALVES), chunk(b"tEXt", b"a\0b", checksum=7)),
        among_chunks(encoded(HALVES), chunk(b"iCCP", b"a\0\0" + compress(bytes(2**21)))),
        among_chunks(encoded(HALVES), chunk(b"iCCP", b"")),
        among_chunks(encoded(HALVES), chunk(b"pHYs", b"1")),
        among_chunks(encoded(HALVES), chunk(b"eXIf", BROKEN_EXIF[6:])),
        encoded(HALVES) + b"trailing bytes" * 100,
        encoded(HALVES)[:-12],  # without its end
        JPEG + b"trailing bytes" * 100,
        among_segments(JPEG, b"\xe1" + BROKEN_EXIF),
        among_segments(JPEG, b"\xe1Exif\0\0"),
        among_segments(JPEG, b"\xe2ICC_PROFILE\0"),
        among_segments(JPEG, b"\xe2MPF\0" + b"MM\0*" + bytes(40)),
        among_segments(JPEG, b"\xe0JFIF\0"),
        among_segments(JPEG, b"\xeeAdobe"),
        among_segments(JPEG, b"\xed" + b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff"),
        among_segments(JPEG, b"\xfe" + b"\xff" * 999),
        encoded(HALVES, format="WEBP", lossless=True, exif=BROKEN_EXIF, xmp=b"<x", icc_profile=b"no profile"),
        encoded(HALVES, format="TIFF", icc_profile=b"no profile", description="\0"),
        encoded(HALVES, format="GIF", comment=b"\xff" * 999),
    ],
)
def test_what_surrounds_whole_pixels_never_matters(content):
    pixels = decode_image(content, 32).astype(int)
    assert pixels[:14].min() > 240 and pixels[18:].max() < 10


def test_an_image_is_turned_though_its_profile_is_broken():
    turned = encoded(HALVES, format="JPEG", quality=95, exif=UPSIDE_DOWN)
    pixels = decode_image(among_segments(turned, b"\xe2ICC_PROFILE\0"), 32).astype(int)
    assert pixels[:14].max() < 10 and pixels[18:].min() > 240


def test_the_users_picture_stays_as_it_is():
    image = Image.open(io.BytesIO(encoded(HALVES, exif=UPSIDE_DOWN)))
    assert decode_image(image, 32)[-1].min() > 240
    assert np.array(image)[0].min() == 250


def test_a_large_photograph_is_read_at_a_smaller_scale(tmp_path, monkeypatch):
    photograph = np.kron(np.arange(256, dtype=np.uint8).reshape(16, 16), np.ones((800, 800), np.uint8))
    Image.fromarray(photograph).save(tmp_path / "large.jpg", quality=60)  # 164 million pixels
    del photograph
    loaded = []
    load = JpegImagePlugin.JpegImageFile.load
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", lambda o: (load(o), loaded.append(o.size))[0])
    pixels = decode_image(tmp_path / "large.jpg", 16).astype(int)
    assert np.abs(pixels[..., 0] - np.arange(256).reshape(16, 16)).max() <= 3
    assert max(loaded) == (1600, 1600)


def jpeg_that_claims(width, height, progressive):
    content = bytearray(encoded(Image.new("L", (8, 8)), format="JPEG", progressive=progressive))
    at = content.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(("side", "progressive"), [(60_000, False), (20_000, True)])
def test_a_jpeg_that_cannot_be_scaled_down_enough_is_refused(side, progressive):
    with pytest.raises(ImageError, match=f"{side:,} x {side:,} pixels are over"):
        decode_image(jpeg_that_claims(side, side, progressive), 8)


def test_a_heic_photograph_names_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    image._reads_heic.cache_clear()
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), 8)
    image._reads_heic.cache_clear()


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "F"]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(MODES), st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA", "MEM"]),
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([None, 0, 9]), st.integers(1, 8),
)  # fmt: skip
def test_every_mode_that_a_format_can_hold_is_read(mode, form, width, height, transparent, turned):
    source = Image.new("F", (width, height), 0.5) if mode == "F" else Image.new("L", (width, height), 200)
    try:
        if mode == "I;16":
            source = Image.fromarray(np.full((height, width), 200 << 8, np.uint16))
        elif mode == "LAB":
            source = Image.merge("LAB", [source] * 3)
        else:
            source = source.convert(mode, dither=Image.Dither.NONE)
        exif = Image.Exif()
        exif[0x0112] = turned
        more = {"transparency": transparent} if transparent is not None and mode in ("P", "L") else {}
        content = source if form == "MEM" else encoded(source, format=form, exif=exif, **more)
    except (ValueError, OSError, KeyError, TypeError):  # a format that does not hold it
        return
    pixels = decode_image(content, 8)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    is_cut_by_the_writer = mode in ("I;16", "F") and form not in ("PNG", "TIFF", "MEM")
    if not more and mode != "LAB" and not is_cut_by_the_writer:
        assert np.abs(pixels.astype(int) - (128 if mode == "F" else 255 if mode == "1" else 200)).max() <= 3


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
