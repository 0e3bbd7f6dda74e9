"""Which files are images and which are litter, for training, predicting and the page's examples. Needs no torch."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from cifar_fast.errors import InputError

# What Pillow reads by itself, and what pillow-heif adds. Left out: EPS and WMF, which start other programs, and formats
# that Pillow knows by name only.
IMAGE_SUFFIXES = tuple(
    ".apng .avif .avifs .blp .bmp .bw .cur .dcx .dds .dib .fit .fits .flc .fli .ftc .ftu .gbr .gif .heic .heif .hif "
    ".icb .icns .ico .im .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .msp .pbm .pcd .pcx .pfm .pgm .png "
    ".pnm .ppm .psd .pxr .qoi .ras .rgb .rgba .sgi .tga .tif .tiff .vda .vst .webp .xbm .xpm".split()
)
_UNREAD = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
_LITTER = {  # what systems and programs leave beside images, in lower case; names that begin with a dot are litter too
    "__macosx", "__pycache__", "@eadir", "@tmp", "#recycle", "#snapshot", "lost+found", "$recycle.bin", "recycler",
    "system volume information", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r",
}  # fmt: skip


def is_litter(
    name: str,  # of a file or a folder, without the path to it
) -> bool:
    "Whether a system or a program has left it: .DS_Store, ._cat.png, Thumbs.db, __MACOSX, @eaDir, lost+found, ..."
    return name.startswith(".") or name.lower() in _LITTER


def is_image(
    path: str | Path,  # of a file
) -> bool:
    "Whether the file is to be read as an image: by its suffix, and where it has none, by how it begins."
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if is_litter(name):
        return False
    return suffix in IMAGE_SUFFIXES if suffix else _begins_as_image(path)


def _begins_as_image(path: str | Path) -> bool:
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with Image.open(path) as image:
            return image.format not in _UNREAD
    except Exception:  # of any reader of Pillow's
        return False


def walk(
    folder: str | Path,  # to look through
    leads_out: Callable[[str], object] = str,  # told of each link to a folder that `folder` lies in
) -> Iterator[tuple[str, list[str]]]:  # a folder, and the names of its files
    """`folder` and each folder below it, in the order of names, litter passed over; links are followed once.

    A link to a folder around `folder` is not followed: it leads to what was not asked for. Raises `InputError` for a
    folder that cannot be listed.
    """
    seen, around = set(), set(map(str, Path(os.path.realpath(folder)).parents))
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_unlisted):
        real = os.path.realpath(place)
        if real in around:
            leads_out(place)
        if real in seen or real in around:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(o for o in folders if not is_litter(o))
        yield place, sorted(o for o in files if not is_litter(o))


def _refuse_unlisted(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed ({error.strerror}): change its permissions") from error


def walk_images(
    folder: str | Path,  # to look through
) -> Iterator[str]:
    "Every image in and below `folder`, as `walk` finds it."
    for place, names in walk(folder):
        yield from (path for o in names if is_image(path := os.path.join(place, o)))
