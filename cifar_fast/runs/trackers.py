"""Trackers: a run's curves, numbers and figures in TensorBoard, Weights & Biases or MLflow, beside its own csv files.

Each tracker has `cbs`, for every fit of the run, and `finish`, for what is there when the run is done.
"""

import json
import os
from pathlib import Path

import matplotlib.image
from fastai.callback.core import Callback
from fastai.learner import Recorder

from cifar_fast.errors import InputError, MissingExtra

HYPERS = ("lr", "mom")  # of the optimizer: those that schedules move


class TensorBoardTracker:
    "Event files in the run's folder `tensorboard`, through fastai's TensorBoardCallback."

    def __init__(
        self,
        folder: Path,  # of the run
    ):
        try:
            from fastai.callback.tensorboard import TensorBoardCallback
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "--track tensorboard") from error

        class ScheduledHypers(TensorBoardCallback):
            "fastai's also logs settings of torch's optimizers that are no numbers, which TensorBoard refuses."

            needs_images = False

            def after_batch(self):
                "Log the training loss and what schedules move."
                if self.training:
                    self.writer.add_scalar("train_loss", self.smooth_loss, self.train_iter)
                    for name, value in moving_hypers(self.opt).items():
                        self.writer.add_scalar(name, value, self.train_iter)

        self.folder, self.callback, self.writer = folder / "tensorboard", ScheduledHypers, SummaryWriter

    def cbs(self, stage: str) -> list[Callback]:
        "fastai's callback, with a folder for each of the run's fits."
        return [self.callback(self.folder / stage, trace_model=False, log_preds=False)]

    def finish(self, metrics: dict, figures: list[Path]) -> None:
        "Log the metrics and the report's figures."
        with self.writer(self.folder / "result") as writer:
            for name, value in numbers(metrics).items():
                writer.add_scalar(name, value)
            for path in figures:
                writer.add_image(path.stem, matplotlib.image.imread(path)[..., :3], dataformats="HWC")


class WandbTracker:
    "A Weights & Biases run, through fastai's WandbCallback; WANDB_MODE=offline keeps it in the run's folder."

    def __init__(
        self,
        folder: Path,  # of the run
    ):
        try:
            import wandb
            from fastai.callback.wandb import WandbCallback
        except ImportError as error:
            raise MissingExtra("wandb", "--track wandb") from error

        class BlindWandbCallback(WandbCallback):
            "fastai's; its `before_fit` asks all of the Learner's arguments for their attributes, which some lack."

            needs_images = False

            def before_fit(self):
                "Count on from what has been logged."
                self.run = not hasattr(self.learn, "lr_finder")
                self._wandb_step, self._wandb_epoch = wandb.run.step - 1, 0

        self.wandb, self.callback, self.folder = wandb, BlindWandbCallback, folder
        self.run = wandb.init(project="cifar_fast", name=folder.name, dir=str(folder), settings={"silent": True})

    def cbs(self, stage: str) -> list[Callback]:
        "fastai's callback."
        return [self.callback(log_preds=False)]

    def finish(self, metrics: dict, figures: list[Path]) -> None:
        "Log the metrics and the report's figures, and close the run."
        self.run.config.update(json.loads((self.folder / "config.json").read_text()))
        self.run.summary.update(numbers(metrics))
        self.run.log({path.stem: self.wandb.Image(str(path)) for path in figures})
        self.run.finish()


class MLflowTracker:
    "An MLflow run; without MLFLOW_TRACKING_URI in the run's folder `mlflow.db`."

    def __init__(
        self,
        folder: Path,  # of the run
    ):
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtra("mlflow", "--track mlflow") from error
        self.mlflow, self.folder, own = mlflow, folder, folder.absolute()
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{own / 'mlflow.db'}")
            if mlflow.get_experiment_by_name("cifar_fast") is None:
                mlflow.create_experiment("cifar_fast", artifact_location=(own / "mlruns").as_uri())
        mlflow.set_experiment("cifar_fast")
        mlflow.start_run(run_name=folder.name)

    def cbs(self, stage: str) -> list[Callback]:
        "A callback that logs each epoch's row."
        return [MLflowCallback(self.mlflow, stage)]

    def finish(self, metrics: dict, figures: list[Path]) -> None:
        "Log the metrics and the report's figures, and close the run."
        config = json.loads((self.folder / "config.json").read_text())
        self.mlflow.log_params({k: v for k, v in config.items() if k != "asked"})
        self.mlflow.log_metrics(numbers(metrics))
        for path in figures:
            self.mlflow.log_artifact(str(path))
        self.mlflow.end_run()


class MLflowCallback(Callback):
    "Logs each epoch's row to the active MLflow run; fastai has no such callback."

    order, needs_images = Recorder.order + 1, False

    def __init__(
        self,
        mlflow,  # the package
        stage: str,  # of the run
    ):
        self.mlflow, self.stage = mlflow, stage

    def after_epoch(self):
        "Log the row that the Recorder has just completed."
        row = dict(zip(self.recorder.metric_names, self.recorder.log))
        values = {f"{self.stage}/{k}": float(v) for k, v in row.items() if isinstance(v, float)}
        self.mlflow.log_metrics(values, step=self.epoch)


TRACKERS = {"tensorboard": TensorBoardTracker, "wandb": WandbTracker, "mlflow": MLflowTracker}


def make_trackers(
    names: str,  # comma-separated; csv, which every run writes anyway, stands for none
    folder: Path,  # of the run
) -> list:
    "The trackers that `names` asks for. Raises `InputError` for an unknown name, `MissingExtra`."
    asked = [o for o in names.split(",") if o and o != "csv"]
    if unknown := set(asked) - set(TRACKERS):
        raise InputError(f"there is no tracker {unknown.pop()!r}: give some of csv, {', '.join(TRACKERS)}")
    return [TRACKERS[o](folder) for o in asked]


def moving_hypers(opt) -> dict[str, float]:
    "What schedules move, by name and layer group."
    return {f"{k}_{i}": float(h[k]) for i, h in enumerate(opt.hypers) for k in HYPERS if k in h}


def numbers(metrics: dict) -> dict[str, float]:
    "The entries of metrics.json that are plain numbers."
    return {k: float(v) for k, v in json.loads(json.dumps(metrics, default=str)).items() if type(v) in (int, float)}
