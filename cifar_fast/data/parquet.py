"""Parquet files as Hugging Face lays data sets out, turned into a folder of images, once."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cifar_fast.data.folders import role_of
from cifar_fast.data.image_files import IMAGE_SUFFIXES
from cifar_fast.errors import InputError, MissingExtra, first_line

_LABELS = ("label", "labels", "fine_label", "class", "coarse_label")  # columns, the first that there is
_UNKNOWN = {"-1", "None"}  # labels by which Hugging Face says that nobody knows
_ROWS = 256  # of a batch in memory


def parquet_files(
    folder: Path,  # looked through whole
) -> dict[str, list[Path]]:  # train, test, valid: files in the order of their numbers
    "The parquet files of each split, by their names (`train-00000-of-00002.parquet`). Raises `InputError`."
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        if (role := role_of(re.split("[-_.]", path.stem)[0])) is None:
            raise InputError(f"{path}: the name says no split: begin it with train-, validation- or test-")
        found.setdefault(role, []).append(path)
    if len(folders := {o.parent for paths in found.values() for o in paths}) > 1:
        raise InputError(f"{folder} has parquet files in {len(folders)} folders: give one, as {sorted(folders)[0]}")
    for role, paths in found.items():
        _check_shards(folder, role, paths)
    if found and "train" not in found:
        raise InputError(f"{folder} has parquet files of {', '.join(found)} but none of train")
    return found


def _check_shards(folder: Path, role: str, paths: list[Path]) -> None:
    "Raises `InputError` where files that are counted in their names (`-00000-of-00002`) are not all there."
    wanted = {int(o[1]) for path in paths if (o := re.search(r"-of-(\d+)", path.stem))}
    if wanted and sum(wanted) != len(paths):
        raise InputError(f"{folder} has {len(paths)} of {sum(wanted)} parquet files of {role}: fetch the others")


def unpack_parquet(
    files: dict[str, list[Path]],  # of `parquet_files`
    folder: Path,  # to unpack into: split/class/row.png
) -> None:
    """Write the images as files, byte by byte as they were; a second split without labels is left out.

    Raises `InputError` for files that cannot be read or hold no images with labels, `MissingExtra` without pyarrow.
    """
    no_labels = _UNKNOWN - _labels(files["train"])  # where train shows -1, it is a class
    for role, paths in files.items():
        if role != "train" and _labels(paths) <= no_labels:
            continue
        images = (o for path in paths for o in _images(path))
        for row, (name, content, suffix) in enumerate(images):
            place = folder / role / _as_folder(name)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row:07}{suffix}").write_bytes(content)


def unlabelled_lines(
    path: Path,  # folder of the parquet files
    files: dict[str, list[Path]],  # of `parquet_files`
    folder: Path,  # that `unpack_parquet` has written
) -> list[str]:
    "A line about each split without labels, as those of competitions are published."
    without = [role for role in files if not (folder / role).is_dir()]
    lines = [f"Not used: split {role} of {path}, which has no labels." for role in without]
    only_train = len(files) - len(without) == 1
    return lines + [f"Test images: a fifth of each class of split train of {path}."] * bool(lines and only_train)


@contextmanager
def _opened(path: Path) -> Iterator:
    "A file of pyarrow's. Raises `InputError`, for what goes wrong while it is read too."
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("parquet", str(path)) from error
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): fetch it again") from error


def _labels(paths: list[Path]) -> set[str]:
    "All that files have as labels; nothing where they have no such column."
    found = set()
    for path in paths:
        with _opened(path) as file:
            if label := _label_column(file.schema_arrow):
                for batch in file.iter_batches(columns=[label]):
                    found |= set(map(str, batch[label].to_pylist()))
    return found


def _images(path: Path) -> Iterator[tuple[str, bytes, str]]:
    "Class, content and suffix of each image."
    with _opened(path) as file:
        image, label, names = _columns(path, file.schema_arrow)
        for batch in file.iter_batches(_ROWS, columns=[image, label]):
            for value, number in zip(batch[image].to_pylist(), batch[label].to_pylist()):
                content, inner = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, "")
                if not isinstance(content, bytes) or number is None or str(number).strip() == "":
                    raise InputError(f"{path}: a row has no image or no label: leave it out")
                suffix = os.path.splitext(inner or "")[1]
                suffix = suffix if suffix.lower() in IMAGE_SUFFIXES else ".png"  # else nobody would read it
                yield _class(path, number, names), content, suffix


def _as_folder(name: str) -> str:
    "The name of a class with signs in it that look like those which a folder's name may not have."
    name = name.replace("/", "\N{DIVISION SLASH}")
    return f"\N{ONE DOT LEADER}{name[1:]}" if name.startswith(".") else name


def _class(path: Path, number, names: list[str] | None) -> str:
    if isinstance(number, (list, dict)):
        raise InputError(f"{path}: a row has several labels ({number}): give one")
    if names is None:
        return str(number)
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise InputError(f"{path}: a row has the label {number}, and there are {len(names)} classes")
    return names[number]


def _columns(path: Path, schema) -> tuple[str, str, list[str] | None]:
    "The columns of images and of labels, and the names of the classes where the file has them."
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        features = {}  # numbers stand for classes then
    image = next((o.name for o in schema if _holds_images(o.type)), None)
    label = _label_column(schema)
    if image is None or label is None:
        columns = ", ".join(schema.names)
        raise InputError(f"{path} has the columns {columns}: it needs images as bytes, and one of {', '.join(_LABELS)}")
    return image, label, _told_apart(features.get(label, {}).get("names"))


def _label_column(schema) -> str | None:
    return next((o for o in _LABELS if o in schema.names), None)


def _told_apart(names: list[str] | None) -> list[str] | None:
    "Names of classes; those that several have, as ImageNet's two cranes, with their numbers."
    if names is None:
        return None
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _holds_images(kind) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)
