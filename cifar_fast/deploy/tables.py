"""Predictions printed: as a table, JSON or CSV. Imports no fastai and no torch."""

import csv
import json
import sys

from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import ImageError
from cifar_fast.progress import progress
from cifar_fast.text import printable


def print_predictions(
    predictor: Predictor,
    files: list[str],  # image files
    form: str = "table",  # table, json or csv
) -> int:  # exit code: 1 where a file was unreadable
    "Predict and print, then list the unreadable files on standard error."
    rows, errors = [], []
    for file, found in zip(files, progress(predictor.stream(files), total=len(files))):
        if isinstance(found, ImageError):
            errors.append(printable(str(found)))
        else:
            rows.append({"file": file, "label": found.label, "probability": found.probability,
                         "probabilities": found.probabilities})  # fmt: skip
    if form == "json":
        print(json.dumps(rows, indent=1))
    elif form == "csv":
        names = ["file", "label", "probability"]
        writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print_table(rows)
    if errors:
        lines = "".join(f"  {o}\n" for o in errors)
        print(f"{len(errors)} of {len(files)} files cannot be read:\n{lines}", end="", file=sys.stderr)
    return 1 if errors else 0


def _print_table(rows: list[dict]) -> None:
    files = [printable(o["file"]) for o in rows]
    width = max(map(len, files), default=0)
    names = max((len(o["label"]) for o in rows), default=0)
    for file, o in zip(files, rows):
        print(f"{file:<{width}}  {o['label']:<{names}}  {o['probability']:6.1%}")
