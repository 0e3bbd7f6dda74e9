"""An image file without what surrounds its pixels: where Pillow refuses a text, a profile or a thumbnail."""

from collections.abc import Iterator
from zlib import crc32

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JPEG_COLOURS = b"\xee"  # Adobe's APP14, which says how CMYK is meant
_JPEG_SCAN = b"\xda"


def without_surroundings(
    content: bytes,  # of a file
) -> list[bytes]:  # to try one after another; none for other formats than PNG and JPEG
    "The file with nothing but its pixels and, in the first one, its EXIF data, which say how it is turned."
    if content.startswith(_PNG):
        return [_PNG + b"".join(_png_chunks(content, kept)) for kept in ((*_PNG_PIXELS, b"eXIf"), _PNG_PIXELS)]
    if content.startswith(b"\xff\xd8"):
        return [b"\xff\xd8" + b"".join(_jpeg_segments(content, exif)) for exif in (True, False)]
    return []


def _png_chunks(content: bytes, kept: tuple[bytes, ...]) -> Iterator[bytes]:
    at = len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        whole = crc32(content[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big")
        if kind in kept and (kind in _PNG_PIXELS or whole):
            yield content[at:end]
        at = end


def _jpeg_segments(content: bytes, exif: bool) -> Iterator[bytes]:
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, end = content[at + 1 : at + 2], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == b"\xff":  # fills
            at += 1
            continue
        if marker == _JPEG_SCAN:
            break
        is_exif = marker == b"\xe1" and content[at + 4 : at + 8] == b"Exif"
        surrounds = b"\xe0" <= marker <= b"\xef" or marker == b"\xfe"
        is_short = end - at < 16
        if not surrounds or (marker == _JPEG_COLOURS and not is_short) or (exif and is_exif):
            yield content[at:end]
        at = end
    yield content[at:]
