"""Files from the network: with a progress bar, a time-out and a checksum, and whole or not at all."""

import hashlib
import os
import tempfile
from pathlib import Path

import requests
from urllib3.exceptions import ReadTimeoutError

from cifar_fast.errors import InputError
from cifar_fast.files import share_as_usual
from cifar_fast.progress import progress

CONNECT_SECONDS = 10
READ_SECONDS = 60
_CHUNK = 1 << 20


class DownloadError(InputError):
    """A file could not be fetched, or is not the file that was expected."""


def download(
    url: str,  # http or https address
    dest: Path,  # file to write; its folder is made
    checksum: str = "",  # "md5:<hex>" or "sha256:<hex>", the hex may be a prefix; empty: not checked
) -> Path:  # `dest`
    """Fetch `url` into `dest`, which appears only once it is whole and its checksum is right.

    Any number of processes may do this at once: each writes its own temporary file, and the last rename wins.
    Raises `DownloadError` when the server does not answer within 10 s, answers with an error, stops early,
    or sends something with another checksum.
    """
    dest = Path(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=dest.parent, prefix=f".{dest.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            digest = _fetch(url, out, checksum.partition(":")[0] or "md5")
        if not digest.startswith(checksum.partition(":")[2]):
            raise DownloadError(f"{url} has checksum {digest}, not {checksum}: the download is damaged, try again")
        share_as_usual(Path(part))
        os.replace(part, dest)
    except requests.RequestException as error:
        raise DownloadError(f"{url} cannot be downloaded ({_reason(error)})") from error
    finally:
        Path(part).unlink(missing_ok=True)
    return dest


def _fetch(url: str, out, algorithm: str) -> str:
    "Stream `url` into the open file `out`; its hex digest."
    digest = hashlib.new(algorithm)
    as_it_is, timeout = {"Accept-Encoding": "identity"}, (CONNECT_SECONDS, READ_SECONDS)
    with requests.get(url, headers=as_it_is, stream=True, timeout=timeout) as response:
        response.raise_for_status()
        response.raw.headers.pop("Content-Encoding", None)  # by which some servers mean that the file is a .gz
        total = int(response.headers.get("Content-Length", 0))
        chunks = response.iter_content(_CHUNK)
        for chunk in progress(chunks, total=-(-total // _CHUNK)):
            out.write(chunk)
            digest.update(chunk)
        if total and out.tell() != total:
            raise DownloadError(f"{url} stopped after {out.tell():,} of {total:,} bytes: try again")
    return digest.hexdigest()


def _reason(error: requests.RequestException) -> str:
    if any(isinstance(o, (requests.Timeout, ReadTimeoutError)) for o in (error, *error.args)):  # the latter: halfway
        return "no answer in time"
    if isinstance(error, requests.HTTPError):
        return f"the server says {error.response.status_code}"
    return "no connection"
