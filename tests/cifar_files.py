"""Small files in the form of CIFAR-10's, with random images, and one that is no data."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

VOCAB = "airplane automobile bird cat deer dog frog horse ship truck".split()
NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


class Hostile:
    "Opens a file for writing where its pickle is read: the file's absence shows that no pickle was."

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def batches(n: int = 20, protocol: int = 4) -> dict[str, bytes]:
    "The seven files of the official archive, `n` images each, by name."
    rng = np.random.default_rng(0)
    content = {}
    for name in NAMES:
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        content[name] = {b"data": data, b"labels": [i % 10 for i in range(n)], b"batch_label": name.encode()}
    content["batches.meta"] = {b"label_names": [o.encode() for o in VOCAB], b"num_vis": 3072}
    return {name: pickle.dumps(o, protocol) for name, o in content.items()}


def write_batches(folder: Path, files: dict[str, bytes]) -> Path:
    "`files` in `folder`."
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def archive(files: dict[str, bytes], prefix: str = "cifar-10-batches-py") -> bytes:
    "`files` as a tar.gz."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{prefix}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
