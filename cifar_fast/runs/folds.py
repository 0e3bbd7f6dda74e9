"""Out-of-fold predictions: what models said of the training images that they were trained without."""

from pathlib import Path

import torch
from torch import Tensor

from cifar_fast.analysis.predictions import Predictions, read_predictions
from cifar_fast.data.image_set import fold_indices
from cifar_fast.errors import InputError
from cifar_fast.files import read_json
from cifar_fast.options import MAY_MOVE, OF_A_START
from cifar_fast.runs.results import NO_METHOD, FinishedRun, Runs

OUT_OF_FOLD = "out_of_fold.safetensors"
FREE = {*NO_METHOD, *OF_A_START, *MAY_MOVE}  # options that may differ from those of the run on all images


def out_of_fold(
    runs: Runs,  # of all folds
    y: Tensor,  # int64 (N,) labels of the training images that the folds are of
) -> Predictions:
    "One prediction of each training image, in their order. Raises `InputError` for folds of other images."
    preds = torch.zeros(len(y), len(runs.first.predictions.vocab))
    for run, idxs in zip(runs.runs, fold_indices(y, len(runs.runs))):
        if not torch.equal(run.predictions.targs, y[idxs]):
            raise InputError(f"{run.folder} is no fold of these training images: train the folds anew")
        preds[idxs] = run.predictions.preds
    return Predictions(preds, y, runs.first.predictions.vocab)


def read_out_of_fold(
    folder: str | Path,  # that `--folds` has filled
    run: FinishedRun,  # of the same training on all training images
) -> Predictions:
    """Predictions of the training images of `run` by models that were trained as it was, without them.

    Raises `InputError` where the folds are not finished, or of another experiment, other options or other images.
    """
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json")
        found, images = read_predictions(folder / OUT_OF_FOLD)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no finished folds: train the same with --folds 5, or --resume it") from error
    own, other = (o.get("experiment") or {} for o in (run.config, config))
    if own.get("name") != other.get("name"):
        raise InputError(f"{folder} has folds of {other.get('name')}, and {run.folder} is a run of {own.get('name')}")
    if own.get("source") != other.get("source"):
        raise InputError(f"the source of {own['name']} has changed between {run.folder} and {folder}: train both anew")
    one, two = (o.get("asked") or {} for o in (run.config, config))
    for name in sorted((one.keys() & two.keys()) - FREE):
        if one[name] != two[name]:
            raise InputError(f"{folder} was trained with {name} {two[name]}, and {run.folder} with {one[name]}")
    if own.get("images") not in (images, None):
        raise InputError(f"{folder} has folds of other images than {run.folder} was trained on: train them anew")
    return found
