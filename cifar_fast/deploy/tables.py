"""Predictions printed: as a table, JSON or CSV. Imports no fastai and no torch."""

import csv
import json
import sys

from cifar_fast.deploy.predictor import Prediction, Predictor
from cifar_fast.errors import ImageError
from cifar_fast.progress import progress
from cifar_fast.text import printable


def print_predictions(
    predictor: Predictor,
    files: list[str],  # image files
    form: str = "table",  # table, json or csv
) -> int:  # exit code: 1 where a file was unreadable
    "Predict and print, then list the unreadable files on standard error."
    found, errors = [], []
    for file, result in zip(files, progress(predictor.stream(files), total=len(files))):
        if isinstance(result, ImageError):
            errors.append(printable(str(result)))
        else:
            found.append((file, result))
    _FORMS[form](found)
    if errors:
        lines = "".join(f"  {o}\n" for o in errors)
        print(f"{len(errors)} of {len(files)} files cannot be read:\n{lines}", end="", file=sys.stderr)
    return 1 if errors else 0


def _print_table(found: list[tuple[str, Prediction]]) -> None:
    found = [(printable(file), o) for file, o in found]
    width = max((len(file) for file, _ in found), default=0)
    names = max((len(o.label) for _, o in found), default=0)
    for file, o in found:
        print(f"{file:<{width}}  {o.label:<{names}}  {o.probability:6.1%}")


def _print_json(found: list[tuple[str, Prediction]]) -> None:
    rows = [
        {"file": file, "label": o.label, "probability": o.probability, "probabilities": o.probabilities}
        for file, o in found
    ]
    print(json.dumps(rows, indent=1))


def _print_csv(found: list[tuple[str, Prediction]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "label", "probability"])
    writer.writerows([file, o.label, o.probability] for file, o in found)


_FORMS = {"table": _print_table, "json": _print_json, "csv": _print_csv}
