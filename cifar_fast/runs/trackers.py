"""Trackers: a run's curves, numbers and figures in TensorBoard, Weights & Biases or MLflow, beside its own csv files.

Each is made of the run's folder and of the `ExitStack` that closes, however the run ends, what it opens. It has `log`,
called by one callback in every fit, and `finish`, for what is there when the run is done. fastai's
TensorBoardCallback and WandbCallback would each need patching: they log settings that are no numbers, and read
attributes that some Learners lack; for MLflow fastai has none. accelerate.tracking logs only where accelerate's process
state stands, and that is set up within each fit, by fastai's `distrib_ctx`.
"""

import os
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path

import matplotlib.image
from fastai.callback.core import Callback
from fastai.learner import Recorder

from cifar_fast.errors import InputError, MissingExtra
from cifar_fast.runs.folder import plain
from cifar_fast.training.callbacks.guards import is_fit

HYPERS = ("lr", "mom")  # of the optimizer: those that schedules move


class TrackedFit(Callback):
    "Tells a tracker each epoch's row, and each batch's loss with what schedules move."

    order, needs_images = Recorder.order + 1, False

    def __init__(self, tracker, stage: str):
        self.tracker, self.stage, self.epochs, self.batches = tracker, stage, 0, 0  # of the stage's earlier fits

    def before_fit(self):
        "Leave predictions alone, within a fit too."
        self.run = is_fit(self.learn)

    def after_batch(self):
        "Log the smoothed training loss, and what schedules move, by layer group."
        if self.training and self.tracker.logs_batches:
            moved = {f"{k}_{i}": float(h[k]) for i, h in enumerate(self.opt.hypers) for k in HYPERS if k in h}
            self.tracker.log({"train_loss": float(self.smooth_loss), **moved}, self)

    def after_epoch(self):
        "Log the row that the Recorder has just completed."
        row = numbers(dict(zip(self.recorder.metric_names, map(plain, self.recorder.log))))
        known = {"epoch", "train_loss"} if self.tracker.logs_batches else {"epoch"}
        self.tracker.log({k: v for k, v in row.items() if k not in known}, self)

    def after_fit(self):
        "Let the stage's next fit go on from here."
        self.epochs += self.n_epoch
        self.batches += self.n_epoch * len(self.dls.train)


class TensorBoardTracker:
    "Event files in the run's folder `tensorboard`, with a folder for each of the run's fits."

    logs_batches, several, needs = True, True, "torch.utils.tensorboard"

    def __init__(self, folder: Path, opened: ExitStack):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = cache(lambda name: opened.enter_context(SummaryWriter(folder / "tensorboard" / name)))

    def log(self, values: dict[str, float], fit: TrackedFit) -> None:
        "Log values at the point that the fit has reached."
        for name, value in values.items():
            self.writer(fit.stage).add_scalar(name, value, fit.batches + fit.train_iter)
        if not fit.training:  # an epoch is over
            self.writer(fit.stage).flush()

    def finish(self, metrics: dict[str, float], config: dict, figures: list[Path]) -> None:
        "Log the metrics and the report's figures."
        for name, value in metrics.items():
            self.writer("result").add_scalar(name, value)
        for path in figures:
            self.writer("result").add_image(path.stem, matplotlib.image.imread(path)[..., :3], dataformats="HWC")


class WandbTracker:
    "A Weights & Biases run; WANDB_MODE=offline keeps it in the run's folder."

    logs_batches, several, needs = True, False, "wandb"

    def __init__(self, folder: Path, opened: ExitStack):
        import wandb

        self.image, options = wandb.Image, dict(project="cifar_fast", name=folder.name, settings={"silent": True})
        self.run = opened.enter_context(wandb.init(dir=str(folder), **options))

    def log(self, values: dict[str, float], fit: TrackedFit) -> None:
        "Log values at the point that the fit has reached."
        self.run.log({"epoch": fit.epochs + fit.epoch, **values})

    def finish(self, metrics: dict[str, float], config: dict, figures: list[Path]) -> None:
        "Log the metrics and the report's figures."
        self.run.config.update(config)
        self.run.summary.update(metrics)
        self.run.log({path.stem: self.image(str(path)) for path in figures})


class MLflowTracker:
    "An MLflow run; without MLFLOW_TRACKING_URI in the run's folder `mlflow.db`."

    logs_batches, several, needs = False, False, "mlflow"  # each batch would be a transaction of its database

    def __init__(self, folder: Path, opened: ExitStack):
        import mlflow

        self.mlflow, own, place = mlflow, folder.absolute(), None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            place = (own / "mlruns").as_uri()
            mlflow.set_tracking_uri(f"sqlite:///{own / 'mlflow.db'}")
            opened.callback(mlflow.set_tracking_uri, None)  # it sets the variable too, which the next run would read
        known = mlflow.get_experiment_by_name("cifar_fast")
        number = known.experiment_id if known else mlflow.create_experiment("cifar_fast", artifact_location=place)
        opened.enter_context(mlflow.start_run(experiment_id=number, run_name=folder.name))

    def log(self, values: dict[str, float], fit: TrackedFit) -> None:
        "Log values at the point that the fit has reached."
        self.mlflow.log_metrics({f"{fit.stage}/{k}": v for k, v in values.items()}, step=fit.epochs + fit.epoch)

    def finish(self, metrics: dict[str, float], config: dict, figures: list[Path]) -> None:
        "Log the metrics and the report's figures."
        self.mlflow.log_params({k: v for k, v in config.items() if k != "asked"})
        self.mlflow.log_metrics(metrics)
        for path in figures:
            self.mlflow.log_artifact(str(path))


TRACKERS = {"tensorboard": TensorBoardTracker, "wandb": WandbTracker, "mlflow": MLflowTracker}


def find_trackers(
    names: str,  # comma-separated; csv, which every run writes anyway, stands for none
) -> list[type]:
    "The classes that `names` asks for, none of them opened. Raises `InputError` for an unknown name, `MissingExtra`."
    asked = [o for o in names.split(",") if o and o != "csv"]
    if unknown := set(asked) - set(TRACKERS):
        raise InputError(f"there is no tracker {unknown.pop()!r}: give some of csv, {', '.join(TRACKERS)}")
    for name in asked:
        try:
            import_module(TRACKERS[name].needs)
        except ImportError as error:
            raise MissingExtra(name, f"--track {name}") from error
    return [TRACKERS[name] for name in asked]


def numbers(values: dict) -> dict[str, float]:
    "The entries that are plain numbers."
    return {k: float(v) for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
