"""Files written whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    "Let `write` fill a temporary file beside `path`, then rename it: `path` is the old file or the whole new one."
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as tmp:
        write(Path(tmp) / path.name)
        os.replace(Path(tmp) / path.name, path)
