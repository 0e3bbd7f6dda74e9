"""Small data sets of every kind: each function fills a folder, or gives one that does."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_files import archive, batches


def picture(path: Path, form: str | None = None, of: str | None = None) -> None:
    "A small picture that no other path, or no other `of`, has."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(os.fsencode(of or path))).integers(0, 256, (8, 8, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path, format=form)


def fill(root: Path, counts: dict[str, int], suffix: str = ".png", form: str | None = "PNG") -> None:
    "So many pictures in each folder below `root`."
    for folder, n in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(root / folder / f"{i}{suffix}", form)


def folder(counts: dict[str, int], **kwargs) -> Callable[[Path], None]:
    "Makes such a folder."
    return lambda root: fill(root, counts, **kwargs)


CLASSES = {"cat": 5, "dog": 5}  # of which a fifth of each is tested on


def with_classes(more: Callable[[Path], object]) -> Callable[[Path], object]:
    "Makes two classes of five, and more beside them."

    def make(root: Path):
        fill(root, CLASSES)
        return more(root)

    return make


def wide(root: Path) -> None:
    "Panoramas."
    for name, n in CLASSES.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.effect_noise((24, 8), 50).save(root / name / f"{i}.png")


def litter(root: Path) -> None:
    for name in ("__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints", "__pycache__"):
        picture(root / name / "thumb.png")
    for name in (".DS_Store", "cat/._0.png", "cat/Thumbs.db", "dog/desktop.ini"):
        (root / name).write_bytes(b"litter")


def table(root: Path, name: str, text: str, n: int = 10) -> dict:
    fill(root, {"all": n})
    Path(name).write_text(text)
    return {"data": root, "labels": name}


def kaggle(**others: int) -> Callable[[Path], None]:
    "Makes a competition's folder: ten labelled images in train/, and so many in other folders."

    def make(root: Path) -> None:
        fill(root, {"train": 10, **others})
        (root / "trainLabels.csv").write_text("id,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(10)))

    return make


def rows(n: int) -> str:
    return "path,label\n" + "".join(f"all/{i}.png,{'ab'[i % 2]}\n" for i in range(n))


def deep(dtype, *tops: float) -> Callable[[Path], None]:
    "Makes TIFFs of a number format, a class for each greatest value."

    def make(root: Path) -> None:
        for label, top in enumerate(tops):
            (root / f"{label}").mkdir(parents=True)
            for i in range(5):
                grey = np.random.default_rng([label, i]).random((8, 8)) * top
                Image.fromarray(grey.astype(dtype)).save(root / f"{label}/{i}.tif")

    return make


def mixed(root: Path) -> None:
    "Two classes, of which a few images have 16 bits."
    fill(root, CLASSES)
    for i in (0, 1):
        grey(np.uint16, 4000 + i).save(root / f"cat/deep{i}.tif")


def zipped(root: Path) -> dict:
    fill(root, CLASSES)
    with zipfile.ZipFile("photos.zip", "w") as out:
        for path in sorted(root.rglob("*.png")):
            out.write(path)
    return {"data": "photos.zip"}


def tarred(root: Path) -> dict:
    fill(root, CLASSES)
    with tarfile.open("photos.tar.gz", "w:gz") as out:
        out.add(root)
    return {"data": "photos.tar.gz"}


def changed(make: Callable[[Path], dict], at: float) -> Callable[[Path], dict]:
    "Makes a file of which a bit has changed."

    def make_changed(root: Path) -> dict:
        arguments = make(root)
        content = bytearray(Path(arguments["data"]).read_bytes())
        content[int(len(content) * at)] ^= 1
        Path(arguments["data"]).write_bytes(content)
        return arguments

    return make_changed


def cifar_archive(root: Path) -> dict:
    Path("cifar-10-python.tar.gz").write_bytes(gzip.compress(gzip.decompress(archive(batches())), 0))
    return {"data": "cifar-10-python.tar.gz"}


def npz(**changed) -> Callable[[Path], dict]:
    "Makes arrays of numpy."

    def make(root: Path) -> dict:
        x, y = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), np.arange(6) % 2
        arrays = {"x_train": x, "y_train": y, "x_test": x[::-1] ^ 1, "y_test": y, **changed}
        np.savez("photos.npz", **{name: o for name, o in arrays.items() if o is not None})
        return {"data": "photos.npz"}

    return make


def png_array() -> np.ndarray:
    "An image that no array of `npz` has."
    return np.full((1, 8, 8, 3), 7, np.uint8)


def parquet(
    names: tuple[str, ...] = ("cat", "dog"), unlabelled: tuple[str, ...] = (), **splits: int
) -> Callable[[Path], None]:
    "Makes a file of so many images for each split, labels 0 and 1 in turn or -1, as Hugging Face lays them out."

    def make(root: Path) -> None:
        import pyarrow as pa  # which the table of kinds need not wait for
        import pyarrow.parquet as pq

        about = {"info": {"features": {"label": {"names": names}}}}
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        schema = pa.schema([("image", image), ("label", pa.int64())], metadata={"huggingface": json.dumps(about)})
        root.mkdir()
        for split, n in splits.items():
            images = []
            for i in range(n):
                picture(root / "one.png", "PNG", of=f"{split}{i}")
                images.append({"bytes": (root / "one.png").read_bytes(), "path": f"{i}.png"})
            (root / "one.png").unlink()
            columns = {"image": images, "label": [-1 if split in unlabelled else i % 2 for i in range(n)]}
            pq.write_table(pa.table(columns, schema), root / f"{split}-00000-of-00001.parquet")

    return make


def part_of_cifar(root: Path) -> None:
    root.mkdir()
    (root / "data_batch_2").write_bytes(b"x")


def file(name: str, content: bytes) -> Callable[[Path], dict]:
    "Makes one file, given with `--data`."

    def make(root: Path) -> dict:
        Path(name).write_bytes(content)
        return {"data": name}

    return make


def one(name: str, content: bytes | Image.Image, **kwargs) -> Callable[[Path], dict]:
    "Makes one image, as predict.py is given it."

    def make(root: Path) -> dict:
        if isinstance(content, bytes):
            Path(name).write_bytes(content)
        else:
            content.save(name, **kwargs)
        return {"source": name, "size": 32}

    return make


def grey(dtype, top: float) -> Image.Image:
    return Image.fromarray(np.linspace(0, top, 64).reshape(8, 8).astype(dtype))


def png() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((32, 32), 50).save(out, "PNG")
    return out.getvalue()


def bad(n: int, **kwargs) -> Callable[[Path], dict]:
    "Makes two classes of 15, and so many bad images among them."

    def make(root: Path) -> dict:
        fill(root, {"cat": 15, "dog": 15})
        for i in range(n):
            (root / f"cat/{i}.png").write_bytes(b"not an image")
        return {"data": root, **kwargs}

    return make
