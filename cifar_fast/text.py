"""Names as they can be shown: those of files and classes may hold anything."""

import re

_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(name: str) -> str:
    r"The name without what no page can hold: bytes that are no UTF-8 become \xe9, control characters \n and the like."
    return _UNSHOWN.sub(lambda o: _escaped(o[0]), str(name))


def _escaped(letter: str) -> str:
    is_byte = "\udc80" <= letter <= "\udcff"  # as Python's `surrogateescape` makes them
    return f"\\x{ord(letter) - 0xDC00:02x}" if is_byte else letter.encode("unicode_escape").decode()
