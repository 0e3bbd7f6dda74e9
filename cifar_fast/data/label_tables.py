"""Tables of labels: a csv or jsonl file that names images and their classes, Kaggle's trainLabels.csv among them."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from cifar_fast.data.folders import Listing, check_classes, role_of, settle_validation
from cifar_fast.data.image_files import is_litter, walk_images
from cifar_fast.errors import InputError

FILE_COLUMNS = "path file filename file_name filepath image image_path image_id img id name".split()
LABEL_COLUMNS = "label class target category label_name class_name breed y".split()
SPLIT_COLUMNS = "split subset set fold".split()
KAGGLE = ("trainLabels.csv", "train_labels.csv", "labels.csv", "train.csv")  # beside a train/ without classes


def list_kaggle(
    folder: Path,  # of a table and, in train/ or beside it, the images
) -> Listing | None:  # None: there is no such table
    "The images of a competition as Kaggle lays them out. Raises `InputError`."
    table = next((folder / o for o in KAGGLE if (folder / o).is_file()), None)
    if table is None:
        return None
    inner = folder / "train" if (folder / "train").is_dir() else folder
    listing = list_labelled(inner, table)
    for other in sorted(folder.iterdir()) if inner != folder else ():
        if other.is_dir() and other != inner and not is_litter(other.name) and (n := len(list(walk_images(other)))):
            listing.notes.append(f"Not used: {other} ({n:,} images), as {table} has no labels for them.")
    return listing


def list_labelled(
    folder: str | Path,  # below which the images lie
    table: str | Path,  # csv or jsonl with a column of files and one of labels; a column `split` may say which is which
) -> Listing:
    """The images of `folder` by the labels of `table`: names are paths below either, or names without suffix.

    Images without a label are left out, and counted. Raises `InputError` for a table without the columns, with files
    that are not there, or with two labels for one image.
    """
    folder, table, listing = Path(folder), Path(table), Listing({}, table=str(table))
    rows = _rows(table)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file, label = (_column(table, columns, names) for names in (FILE_COLUMNS, LABEL_COLUMNS))
    split = _split_column(table, columns, rows, listing)
    images = list(walk_images(folder))
    known, missing, found = _by_name(images), [], {}
    for row in rows:
        name, said = (_text(table, row, o) for o in (file, label))
        if not said:
            continue
        path = _find(table, name, folder, known)
        if path is None:
            missing.append(name)
            continue
        here = (_role_of(table, row.get(split)) if split else "train", said)
        before = found.setdefault(path, here)
        if before != here:
            one, other = (" of ".join(reversed(o)) for o in (before, here))
            raise InputError(f"{table} names {name} twice, as {one} and as {other}: correct it")
    if missing:
        raise InputError(f"{table} names {len(missing):,} files that {folder} lacks ({missing[0]}): correct the table")
    if split is None:
        found = _by_folder(found, folder, listing)
    for path, (role, said) in found.items():
        listing.files.setdefault(role, {}).setdefault(said, []).append(path)
    if "train" not in listing.files:
        raise InputError(f"{table} names no training images: add rows, or correct its column {split!r}")
    for path in images:
        if os.path.abspath(path) not in found:
            listing.left_out["image without a label", os.path.relpath(path, folder)] += 1
    return _finished(listing, table)


def _by_folder(found: dict, folder: Path, listing: Listing) -> dict:
    "Splits and labels of the images, where they lie in train/ and test/ and the table says no more of it."
    roles = {o: role_of(os.path.relpath(o, os.path.abspath(folder)).split(os.sep)[0]) for o in found}
    if not {"train"} < set(roles.values()) - {None}:
        return found
    listing.notes.append(f"Split by the folders in {folder}: {', '.join(sorted(set(roles.values()) - {None}))}.")
    return {path: (roles[path] or role, said) for path, (role, said) in found.items()}


def _finished(listing: Listing, table: Path) -> Listing:
    listing.files = {role: dict(sorted(o.items())) for role, o in listing.files.items()}
    called = {role: f"split {role} of {table}" for role in listing.files}
    check_classes(listing.files, called)
    listing.notes += [*settle_validation(listing.files, called), f"Labels: {table}."]
    return listing


def _rows(table: Path) -> list[dict]:
    if not table.is_file():
        raise InputError(f"{table} does not exist, or is no file: give a csv or jsonl file of images and labels")
    try:
        text = table.read_text(encoding="utf-8-sig")
        if table.suffix.lower() in (".jsonl", ".ndjson"):
            rows = [json.loads(o) for o in text.split("\n") if o.strip()]
        elif table.suffix.lower() == ".json":
            rows = json.loads(text)
        else:
            mark = _delimiter(text.partition("\n")[0])
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as csv or jsonl ({error}): give a table with a header") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(o, dict) for o in rows):
        raise InputError(f"{table} holds no rows of names and values: give a table with a header")
    return rows


def _delimiter(header: str) -> str:
    "By which a header falls into columns that are known."
    for mark in ",;\t ":
        names = {o.strip(' "\r').lower() for o in header.split(mark)}
        if names & set(FILE_COLUMNS) and names & set(LABEL_COLUMNS):
            return mark
    return next((o for o in ",;\t" if o in header), ",")


def _column(table: Path, columns: list[str], names: Iterable[str]) -> str:
    found = next((o for name in names for o in columns if str(o).strip().lower() == name), None)
    if found is None:
        raise InputError(
            f"{table} has the columns {', '.join(map(str, columns))}: name one of them {next(iter(names))}"
        )
    return found


def _split_column(table: Path, columns: list[str], rows: list[dict], listing: Listing) -> str | None:
    "The column that says which images are tested on; one of other things, as the numbers of folds, is not used."
    column = next((o for o in columns if str(o).strip().lower() in SPLIT_COLUMNS), None)
    said = sorted({_text(table, row, column) for row in rows} - {""}) if column is not None else []
    if any(map(role_of, said)) or (said and column.strip().lower() in SPLIT_COLUMNS[:2]):
        return column
    if said:
        listing.notes.append(f"Not used: the column {column!r} of {table}, which names no train, valid or test.")
    return None


def _text(table: Path, row: dict, column: str) -> str:
    "What a row has in a column: composed, and without the space around it; empty where it has nothing."
    value = row.get(column)
    if isinstance(value, (list, dict)):
        raise InputError(f"{table}: a row has several values as its {column!r} ({value}): give one")
    return "" if value is None else unicodedata.normalize("NFC", str(value).strip())


def _by_name(images: list[str]) -> dict[str, str | None]:
    "Images by their names with and without suffix; None where a name stands for several."
    known: dict[str, str | None] = {}
    for path in images:
        name = os.path.basename(path)
        for key in {name, os.path.splitext(name)[0]}:
            known[key] = None if key in known else path
    return known


def _find(table: Path, name: str, folder: Path, known: dict) -> str | None:
    "The image that a table calls so."
    for place in (folder, table.parent):
        if os.path.isfile(path := place / name):  # unlike Path's, of a text that is too long for a name too
            return os.path.abspath(path)
    if known.get(name, "") is None:
        raise InputError(f"{table} names {name}, and several images are called so: give their paths")
    return os.path.abspath(known[name]) if name in known else None


def _role_of(table: Path, text) -> str:
    if (role := role_of(str(text).strip())) is None:
        raise InputError(f"{table} has a split {text!r}: give train, valid or test")
    return role
