"""Names as they can be shown, for those of files and classes may hold anything; guesses at mistyped ones; numbers."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(name: str) -> str:
    r"The name without what no page can hold: bytes that are no UTF-8 become \xe9, control characters \n and the like."
    return _UNSHOWN.sub(lambda o: _escaped(o[0]), str(name))


def _escaped(letter: str) -> str:
    is_byte = "\udc80" <= letter <= "\udcff"  # as Python's `surrogateescape` makes them
    return f"\\x{ord(letter) - 0xDC00:02x}" if is_byte else letter.encode("unicode_escape").decode()


def did_you_mean(
    word: str,  # mistyped, or shortened
    known: Iterable[str],
) -> str:
    "A question in brackets with the known word that begins so, or is most like it; empty where none is."
    known = list(known)
    found = [o for o in known if o.startswith(word)] or get_close_matches(word, known)
    return "".join(f" (did you mean {o}?)" for o in found[:1])


def counted(
    n: float | None,  # parameters, or operations
) -> str:
    "In millions, or as it is where it is small; a dash where it is not known."
    return "-" if n is None else f"{n:,.0f}" if n < 1e5 else f"{n / 1e6:,.2f} M"
