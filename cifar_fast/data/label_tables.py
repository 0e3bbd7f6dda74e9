"""Tables of labels: a csv or jsonl file that names images and their classes, Kaggle's trainLabels.csv among them."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path

from cifar_fast.data.folders import ROLES, Listing
from cifar_fast.data.image_files import walk_images
from cifar_fast.errors import InputError

FILE_COLUMNS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "image",
    "image_path",
    "image_id",
    "img",
    "id",
    "name",
)
LABEL_COLUMNS = ("label", "class", "target", "category", "label_name", "class_name", "breed", "y")
SPLIT_COLUMNS = ("split", "subset", "set", "fold")
KAGGLE = ("trainLabels.csv", "train_labels.csv", "labels.csv", "train.csv")  # beside a train/ without classes


def table_of(
    folder: Path,  # of images
) -> Path | None:
    "The table that lies beside a folder's images as Kaggle lays it, where the images lie in no folders of classes."
    return next((folder / o for o in KAGGLE if (folder / o).is_file()), None)


def list_labelled(
    folder: str | Path,  # below which the images lie
    table: str | Path,  # csv or jsonl with a column of files and one of labels; a column `split` may say which is which
) -> Listing:
    """The images of `folder` by the labels of `table`: names are paths below either, or names without suffix.

    Images without a label are left out, and counted. Raises `InputError` for a table without the columns, or with files
    that are not there.
    """
    folder, table = Path(folder), Path(table)
    rows = _rows(table)
    columns = list(rows[0]) if rows else []
    file, label = (_column(table, columns, names) for names in (FILE_COLUMNS, LABEL_COLUMNS))
    split = next((o for o in columns if o.lower() in SPLIT_COLUMNS), None)
    known = _by_name(folder)
    listing, missing, used = Listing({}), [], set()
    for row in rows:
        path = _find(str(row[file]), folder, table.parent, known)
        if path is None:
            missing.append(str(row[file]))
            continue
        used.add(path)
        listing.files.setdefault(_role_of(table, row.get(split)), {}).setdefault(str(row[label]), []).append(path)
    if missing:
        raise InputError(f"{table} names {len(missing):,} files that {folder} lacks ({missing[0]}): correct the table")
    if "train" not in listing.files:
        raise InputError(f"{table} names no training images: add rows, or correct its column {split!r}")
    return _finished(listing, folder, table, used, known)


def _finished(listing: Listing, folder: Path, table: Path, used: set, known: dict) -> Listing:
    listing.files = {role: dict(sorted(o.items())) for role, o in listing.files.items()}
    for role in set(listing.files) - {"train"}:
        if unknown := sorted(set(listing.files[role]) - set(listing.files["train"])):
            raise InputError(f"{table}: the training images lack the class {unknown[0]!r} of the {role} images")
    if "test" not in listing.files and "valid" in listing.files:
        listing.files["test"] = listing.files.pop("valid")
    for path in sorted(set(known.values()) - used - {None}):
        listing.left_out["image without a label", os.path.relpath(path, folder)] += 1
    listing.notes.append(f"Labels: {table}.")
    return listing


def _rows(table: Path) -> list[dict]:
    if not table.is_file():
        raise InputError(f"{table} does not exist: give a csv or jsonl file of images and labels")
    try:
        text = table.read_text(encoding="utf-8-sig")
        if table.suffix.lower() in (".jsonl", ".ndjson"):
            rows = [json.loads(o) for o in text.splitlines() if o.strip()]
        else:
            rows = list(
                csv.DictReader(text.splitlines(), dialect=csv.Sniffer().sniff(text.partition("\n")[0], ",;\t "))
            )
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as csv or jsonl ({error}): give a table with a header") from error
    if not rows or not all(isinstance(o, dict) for o in rows):
        raise InputError(f"{table} holds no rows: give a table with a header")
    return rows


def _column(table: Path, columns: list[str], names: Iterable[str]) -> str:
    found = next((o for name in names for o in columns if o.lower() == name), None)
    if found is None:
        raise InputError(f"{table} has the columns {', '.join(columns)}: name one of them {next(iter(names))}")
    return found


def _by_name(folder: Path) -> dict[str, str | None]:
    "Images by their names with and without suffix; None where a name stands for several."
    known: dict[str, str | None] = {}
    for path in walk_images(folder):
        name = os.path.basename(path)
        for key in {name, os.path.splitext(name)[0]}:
            known[key] = None if key in known else path
    return known


def _find(name: str, folder: Path, beside: Path, known: dict) -> str | None:
    for place in (folder, beside):
        if (path := place / name).is_file():
            return str(path)
    return known.get(name)


def _role_of(table: Path, text) -> str:
    if text is None:
        return "train"
    role = next((role for role, names in ROLES.items() if str(text).lower() in names), None)
    if role is None:
        raise InputError(f"{table} has a split {text!r}: give train, valid or test")
    return role
