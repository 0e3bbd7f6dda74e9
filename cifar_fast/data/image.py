"""One image in, as it comes: any mode, size and container, to an RGB square. Needs neither torch nor fastai."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cifar_fast.errors import ImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MAX_PIXELS = 64_000_000  # an 8,000 x 8,000 photograph takes 200 MB; what claims more is a mistake or an attack


def decode_image(
    source,  # path, bytes, PIL image, or uint8 or [0, 1] float array (H, W), (H, W, 1), (H, W, 3), (H, W, 4)
    size: int,  # pixels of a side of the result
) -> np.ndarray:  # uint8 (size, size, 3)
    """One image as an RGB square: shorter side resized, then centre-cropped.

    Turned as its EXIF data says; transparency is laid on white; 16-bit grey is scaled to 8; of an animation the
    first frame counts. Raises `ImageError`, naming the file.
    """
    name = source if isinstance(source, (str, Path)) else type(source).__name__
    try:
        if isinstance(source, np.ndarray):
            source = Image.fromarray(_uint8_array(source))
        elif isinstance(source, (bytes, bytearray)):
            source = Image.open(io.BytesIO(source))
        elif not isinstance(source, Image.Image):
            if isinstance(source, (str, Path)) and not Path(source).is_file():
                raise ImageError(f"{name} does not exist, or is no file: give an image")
            if not isinstance(source, (str, Path)) and not hasattr(source, "read"):
                raise ImageError(f"a {name} is no image: give a path, bytes, a PIL image or an array (H, W, 3)")
            source = Image.open(source)
        if source.width * source.height > MAX_PIXELS:
            raise ImageError(f"{name} has {source.width:,} x {source.height:,} pixels, over {MAX_PIXELS:,}: shrink it")
        image = to_rgb(ImageOps.exif_transpose(source))
        return np.array(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    except ImageError:
        raise
    except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{name} cannot be read as an image ({said}): repair or remove it") from error


def _uint8_array(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)) or not pixels.size:
        raise ImageError(f"an array of shape {pixels.shape} is no image: give (H, W), (H, W, 3) or (H, W, 4)")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ImageError("an array of floats must lie in [0, 1]: scale it, or give uint8")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ImageError(f"an array of {pixels.dtype} is no image: give uint8, or floats in [0, 1]")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def to_rgb(image: Image.Image) -> Image.Image:
    "`image` in mode RGB: transparency on white, 16-bit grey scaled to 8 bits."
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
