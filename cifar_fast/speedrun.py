"""Timed runs of a record recipe: warm-up first, device-synchronised, whitening and final evaluation inside."""

import time
from dataclasses import asdict

import psutil
import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed

import cifar_fast.schedules  # noqa: F401 - fit_decay
from cifar_fast.airbench import Outcome
from cifar_fast.callbacks import Stopwatch
from cifar_fast.formats import ImageSet
from cifar_fast.loader import image_dls
from cifar_fast.record import TestTimeViews, record_learner
from cifar_fast.stats import mean_interval


class RecordRuns:
    """Runs of one record recipe from several seeds; network and optimizer are compiled once.

    What counts: whitening the first layer, training, and one evaluation of the test images with test-time
    augmentation. What does not: loading the data, the warm-up run, and watching the test images after each epoch.
    """

    def __init__(
        self,
        images: ImageSet,  # to train and test on
        target: int,  # percent: 90, 94 or 96
        device: torch.device,  # where
        precision: str = "auto",  # auto, fp32, bf16 or fp16
        compile: bool | str = False,  # whether to run network and optimizer through torch.compile, or a mode of it
        **changes,  # of the recipe
    ):
        self.name, self.device = "cifar_fast", device
        torch.backends.cudnn.benchmark = True  # batches come in few shapes, and the warm-up tries cuDNN's ways
        self.learn = record_learner(image_dls(images, device=device), target, precision, compile, **changes)

    def warm_up(self) -> None:
        "A whole run, after which nothing is left to compile."
        self.run(0)

    def run(
        self,
        seed: int,  # of weights and batches
        cbs: list[Callback] = (),  # of the fit
    ) -> Outcome:
        "One run from random weights."
        learn, watch = self.learn, Stopwatch()
        set_seed(seed)
        learn.model.reset_parameters()
        learn.dls.train.rng.seed(seed)
        learn.dls.train.epoch, learn.opt = 0, None
        with learn.no_bar(), learn.no_logging():
            began = self._now()
            learn.whiten()
            whitening = self._now() - began
            learn.fit_record(cbs=[watch, *cbs])
            began = self._now()
            accuracy = learn.validate(cbs=TestTimeViews(learn.recipe.views))[1]
            testing = self._now() - began
        return Outcome(accuracy, whitening + watch.seconds + testing)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def summary(
    outcomes: list[Outcome],  # of one contender
    target: float,  # percent
) -> dict:
    "Mean accuracy with its interval, mean seconds, and how many runs reached the target."
    accuracies = [o.accuracy for o in outcomes]
    mean, half = mean_interval(accuracies)
    return {
        "runs": [asdict(o) for o in outcomes],
        "mean_accuracy": mean,
        "interval": None if half is None else [mean - half, mean + half],
        "mean_seconds": sum(o.seconds for o in outcomes) / len(outcomes),
        "at_target": sum(o >= target / 100 for o in accuracies),
    }


def seconds_since_start() -> float:
    "Wall-clock seconds since this process began, imports included."
    return time.time() - psutil.Process().create_time()
