"""One image in, as it comes: any mode, size and container, to an RGB square. Needs neither torch nor fastai."""

import io
import os
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from cifar_fast.data.bare import without_surroundings
from cifar_fast.errors import ImageError, first_line

LARGE = 2**24  # pixels: above, JPEGs are read at a smaller scale, and one image at a time
MOST_PIXELS = 180_000_000  # 0.7 GB in Pillow, whose own bound this is; what claims more is a mistake or an attack
MOST_SCALED = 1_000_000_000  # of a JPEG that is read at an eighth of its sides, row by row
TWELVE_BITS = 2**12  # what 16 bits hold is taken for fewer below: it would be black
MOST_BYTES = 2**29  # of a file that is read a second time, without what surrounds its pixels
Levels = tuple[float, float]  # of pixels of more than 8 bits: what becomes 0, and what becomes 255
_ONE_AT_A_TIME = Lock()


def decode_image(
    source,  # path, bytes, PIL image, or uint8 or [0, 1] float array (H, W), (H, W, 1), (H, W, 3), (H, W, 4)
    size: int,  # pixels of a side of the result
    levels: Levels | None = None,  # of a data set of more than 8 bits; None: those of the image's kind
) -> np.ndarray:  # uint8 (size, size, 3)
    """One image as an RGB square: shorter side resized, then centre-cropped.

    Turned as its EXIF data says; transparency is laid on white; grey of more than 8 bits is scaled by `levels`; of an
    animation the first frame counts. Damaged texts, profiles and thumbnails do not matter, a JPEG of many pixels is
    read at a smaller scale. Raises `ImageError`, naming the file.
    """
    return decode_and_measure(source, size, levels)[0]


def decode_and_measure(
    source,  # as of `decode_image`
    size: int,
    levels: Levels | None = None,
) -> tuple[np.ndarray, float]:
    "As `decode_image`, and how many times as long as wide the image is, or as wide as long."
    name = source if isinstance(source, (str, Path)) else type(source).__name__
    try:
        return _decode(source, size, levels)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more pixels than can be held ({_said(error)}): shrink it") from error
    except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
        for bare in without_surroundings(_content(source)):
            with suppress(Exception):
                return _decode(bare, size, levels)
        raise ImageError(f"{name} cannot be read as an image ({_said(error)}): repair or remove it") from error


def _said(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose text names an object of Python's
        return "of no known format"
    return first_line(error)


def _decode(source, size: int, levels: Levels | None) -> tuple[np.ndarray, float]:
    if isinstance(source, np.ndarray):
        return _square(Image.fromarray(_uint8_array(source, levels)), size, levels)
    if isinstance(source, Image.Image):
        return _square(source.copy(), size, levels)
    with _opened(source) as file:
        image = _image_in(file)
        is_large = image.width * image.height > LARGE
        with _ONE_AT_A_TIME if is_large else nullcontext():
            if is_large:
                image.draft(None, (2 * size, 2 * size))
            return _square(image, size, levels)


def _opened(source):
    "A binary file to read from."
    if isinstance(source, (bytes, bytearray)):
        return io.BytesIO(source)
    if hasattr(source, "read"):
        return io.BytesIO(source.read())
    if not isinstance(source, (str, Path)):
        raise ImageError("this is no image: give a path, bytes, a PIL image or an array (H, W, 3)")
    if not os.path.isfile(source):
        raise ImageError("it does not exist, or is no file: give an image")
    return open(source, "rb")


def _content(source) -> bytes:
    "The bytes of a file to try again; none where there is no such thing."
    if isinstance(source, (bytes, bytearray)):
        return bytes(source)
    with suppress(OSError, TypeError, ValueError):
        if isinstance(source, (str, Path)) and Path(source).stat().st_size <= MOST_BYTES:
            return Path(source).read_bytes()
    return b""


def _image_in(file) -> Image.Image:
    "The image in an open file, not yet decoded. Raises `ImageError` for one that is too large to be scaled down."
    head = file.read(12)
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):  # not by `Image.open`, which does not know that it will be scaled down
        image = JpegImageFile(file)
        most = MOST_PIXELS if "progressive" in image.info else MOST_SCALED  # which libjpeg holds as a whole
        if image.width * image.height > most:
            raise ImageError(f"{image.width:,} x {image.height:,} pixels are over {most:,}: shrink it")
        return image
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if head[4:8] != b"ftyp":
            raise
        if not _reads_heic():
            raise ImageError("HEIC images need what is not installed: pip install pillow-heif") from None
        file.seek(0)
        return Image.open(file)


@cache
def _reads_heic() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _square(image: Image.Image, size: int, levels: Levels | None) -> tuple[np.ndarray, float]:
    has_deep_colours = image.mode[0] not in "IF" and ";16" in str(getattr(image, "tile", ""))
    image.load()
    if has_deep_colours and 0 < max(np.ravel(image.getextrema())) < TWELVE_BITS >> 8:
        raise ImageError("its 16-bit colours are 12 bits or fewer, of which Pillow keeps 4: scale them to 8 or 16 bits")
    with suppress(Exception):  # EXIF data may be anything; Pillow turns the image before it writes them anew
        ImageOps.exif_transpose(image, in_place=True)
    rgb = to_rgb(image, levels)
    if rgb.size != (size, size):  # else it takes as long as a third of decoding a small image
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.array(rgb), max(image.size) / min(image.size)


def _uint8_array(pixels: np.ndarray, levels: Levels | None) -> np.ndarray:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)) or not pixels.size:
        raise ImageError(f"an array of shape {pixels.shape} is no image: give (H, W), (H, W, 3) or (H, W, 4)")
    is_number = np.issubdtype(pixels.dtype, np.floating) or np.issubdtype(pixels.dtype, np.integer)
    if levels is not None and pixels.dtype != np.uint8 and is_number:
        pixels = _scaled(pixels, levels)
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ImageError("an array of floats must lie in [0, 1]: scale it, or give uint8")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ImageError(f"an array of {pixels.dtype} is no image: give uint8, or floats in [0, 1]")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def to_rgb(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    "`image` in mode RGB: transparency on white, grey of more than 8 bits scaled by `levels`. Raises `ImageError`."
    if is_deep(image):
        pixels = np.asarray(image)
        return Image.fromarray(_scaled(pixels, levels or _own_levels(image, pixels))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    "Whether it is grey of more than 8 bits: 16, 32 or floats."
    return image.mode[0] in "IF"


def _own_levels(image: Image.Image, pixels: np.ndarray) -> Levels:
    "Those of a deep image that belongs to no data set of such images. Raises `ImageError` where they are not known."
    low, high = pixels.min(), pixels.max()
    if image.format == "PPM" or (image.mode.startswith("I;16") and (high == 0 or high >= TWELVE_BITS)):
        return 0, 65_535  # to which Pillow scales PPM
    if image.mode == "F" and 0 <= low <= high <= 1:
        return 0, 1
    kind = {"F": "floats", "I": "32-bit numbers"}.get(image.mode, "12 bits or fewer in 16,")
    raise ImageError(f"its pixels are {kind} from {low:g} to {high:g}, and no range is known: scale it to 8 or 16 bits")


def _scaled(pixels: np.ndarray, levels: Levels) -> np.ndarray:
    "uint8 of what is more: the levels become 0 and 255, what lies beyond is cut."
    low, high = levels
    if not np.isfinite(pixels).all():
        raise ImageError("it holds numbers that are not finite: replace them")
    return ((pixels.astype(np.float64) - low) * (255 / (high - low))).round().clip(0, 255).astype(np.uint8)
