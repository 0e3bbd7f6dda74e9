"""Timed runs of a record recipe: warm-up first, device-synchronised, whitening and final evaluation inside."""

import time
from ast import literal_eval
from contextlib import suppress
from dataclasses import asdict, fields
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import matplotlib
import psutil
import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed

from bench.airbench import AirbenchScript, Outcome, PlainRecipe
from cifar_fast.analysis.stats import accuracy_interval
from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.loaders import image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.device import parse_device, time_when_done
from cifar_fast.errors import InputError
from cifar_fast.options import check_seeds
from cifar_fast.records.callbacks import TestTimeViews
from cifar_fast.records.recipes import Recipe, record_learner
from cifar_fast.runs.facts import data_line, run_facts
from cifar_fast.runs.folder import HistoryLogger, Run
from cifar_fast.training.callbacks.measure import Stopwatch, some_train_dl
from cifar_fast.versions import versions


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
        name: str = "cifar_fast",  # in lines and tables
        **changes,  # of the recipe
    ):
        self.name, self.device = name, device
        self.watch = Stopwatch()  # of the last run's training alone
        torch.backends.cudnn.benchmark = True  # batches come in few shapes, and the warm-up tries cuDNN's ways
        self.learn = record_learner(image_dls(images, device=device), target, precision, compile, **changes)
        self.learn.remove_cb(self.learn.progress)

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
        learn.dls.train.epoch = 0
        with learn.no_logging():
            began = time_when_done(self.device)
            learn.whiten()
            whitening = time_when_done(self.device) - began
            learn.fit_record(cbs=[watch, *cbs])
            began = time_when_done(self.device)
            accuracy = learn.validate(cbs=TestTimeViews(learn.recipe.views))[1]
            testing = time_when_done(self.device) - began
        self.watch = watch
        return Outcome(accuracy, whitening + watch.seconds + testing)


Contender = RecordRuns | AirbenchScript | PlainRecipe


class Speedrun:
    "experiments/speedrun.py's work: runs of ours, in turns with those of a peer, and the last of ours as a run folder."

    def __init__(self, options: SimpleNamespace):
        check_seeds(options.seed, options.runs)
        self.options, self.device = options, parse_device(options.device)
        self.changes = changes_of(options.change)
        if options.peer == "unchanged" and not self.changes:
            raise InputError("--peer unchanged is for --change: give that too, or another peer")
        self.run = Run(options.run, "speedrun", advice="give another --run")
        self.outcomes: dict[str, list[Outcome]] = {}
        self.wall_seconds = 0.0

    def execute(self) -> None:
        "Do all of it. Whatever ends it early, finished runs are kept; without one it leaves no folder of its own."
        try:
            self._execute()
        except BaseException:
            if self.outcomes:
                self.say_results()
            else:
                self.run.discard()
            raise
        finally:
            self.run.release()

    def _execute(self) -> None:
        o = self.options
        matplotlib.use("Agg")
        self.images = load_images(o.data).fewer(o.images, o.test_images)
        compile = o.compile == "on" or (o.compile == "auto" and self.device.type == "cuda")
        mode = "reduce-overhead" if compile and self.device.type == "cuda" else compile  # CUDA graphs
        self.how = self.images, o.target, self.device, o.precision, mode
        ours = RecordRuns(*self.how, **self.changes)
        self.title = f"{data_line(ours.learn.dls)}, RecordNet for {o.target} %"
        self.precision = ours.learn.precision
        resolved = {"run": str(self.run.folder), "precision": self.precision, "device": str(self.device)}
        about = {"recipe": asdict(ours.learn.recipe), "experiment": {"name": "speedrun"}}
        self.run.write_json("config.json", {**vars(o), **resolved, **about})
        contenders = [ours, *([self.peer()] if o.peer else [])]
        self.warm_up(contenders, compile)
        for i in range(o.runs):
            for contender in contenders:
                self.turn(contender, o.seed + i, contender is ours)
        self.report(ours)

    def peer(self) -> Contender:
        "Whom ours is measured against."
        o = self.options
        if o.peer == "unchanged":
            return RecordRuns(*self.how, name="the recipe unchanged")
        if o.peer == "recipe":
            return PlainRecipe(self.images, o.peer_epochs, self.device, self.precision)
        if self.device.type != "cuda" or self.precision == "fp32":
            raise InputError("airbench's script computes on a GPU in half precision, and ours is to do so too: give "
                             "--device cuda and --precision fp16 or bf16, or --peer recipe")  # fmt: skip
        return AirbenchScript(o.peer, o.target, self.images)

    def warm_up(self, contenders: list[Contender], compile: bool) -> None:
        "A run each that does not count, where it compiles or where cuDNN looks for its fastest ways."
        for contender in contenders if compile or self.device.type == "cuda" else ():
            began = time.perf_counter()
            contender.warm_up()
            print(f"{contender.name}: warm-up {time.perf_counter() - began:.1f} s", flush=True)

    def turn(self, contender: Contender, seed: int, is_ours: bool) -> None:
        "One run that counts."
        last = seed == self.options.seed + self.options.runs - 1
        cbs = [HistoryLogger(self.run)] if last and is_ours else []
        try:
            outcome = contender.run(seed, cbs) if cbs else contender.run(seed)
        except BaseException:
            if cbs:
                self.run.forget_history()  # of a run without a result
            raise
        self.outcomes.setdefault(contender.name, []).append(outcome)
        self.wall_seconds = self.wall_seconds or seconds_since_start()  # after the first of ours
        print(f"{contender.name}, seed {seed}: {outcome.accuracy:.2%} in {outcome.seconds:.2f} s", flush=True)
        self.run.write_json("speedrun.json", {
            "title": self.title, "target": self.options.target, "machine": device_line(self.device),
            "precision": self.precision, "wall_seconds": self.wall_seconds, **self.results(), "versions": versions(),
        })  # fmt: skip

    def results(self) -> dict[str, dict]:
        "A `summary` of each contender's runs so far."
        return {name: summary(outcomes, self.options.target) for name, outcomes in self.outcomes.items()}

    def report(self, ours: RecordRuns) -> None:
        "Write the last run's folder, and say what came out."
        o, learn, last = self.options, ours.learn, self.outcomes[ours.name][-1]
        facts = run_facts(learn, f"speedrun to {o.target} %", o.seed + o.runs - 1)
        some_train = some_train_dl(learn.dls)
        learn.add_cb(TestTimeViews(learn.recipe.views))  # what is reported and exported predicts as the record does
        self.run.finish(learn, {
            **facts, "epochs": learn.recipe.epochs, "opt": "muon", "lr": learn.recipe.filter_lr, "schedule": "linear",
            "views": learn.recipe.views,
            "train_accuracy": learn.validate(dl=some_train)[1], "record_seconds": last.seconds,
            "train_seconds": ours.watch.seconds, "images_per_second": ours.watch.images / ours.watch.seconds,
            "interrupted": False,
        })  # fmt: skip
        self.say_results()

    def say_results(self) -> None:
        "A line for each contender, and one about where that was."
        for name, result in self.results().items():
            print(f"{name}: {line_of(result, self.options.target)}")
        machine, wall = device_line(self.device), self.wall_seconds
        print(f"{self.title}: {machine}, {self.precision}; first result {wall:.1f} s after the start "
              f"-> {self.run.folder}", flush=True)  # fmt: skip


def changes_of(
    texts: list[str] | None,  # NAME=VALUE each
) -> dict[str, Any]:
    "What is to be other in a recipe. Raises `InputError` for what it does not have."
    res, known = {}, {o.name: o.default for o in fields(Recipe)}
    for text in texts or ():
        name, _, value = text.partition("=")
        if name not in known or name in res or not value:
            raise InputError(f"--change is {text!r}: give NAME=VALUE, each once, of {', '.join(known)}")
        with suppress(ValueError, SyntaxError):  # what is no number is a word, as a flip's
            value = literal_eval(value)
        is_one_of_several = isinstance(known[name], tuple) and not isinstance(value, tuple)
        res[name] = (value,) if is_one_of_several else value
    return res


def summary(
    outcomes: list[Outcome],  # of one contender
    target: float,  # percent
) -> dict:
    "Mean accuracy with its interval, mean seconds, and how many runs reached the target."
    accuracies = [o.accuracy for o in outcomes]
    return {
        "runs": [asdict(o) for o in outcomes],
        "mean_accuracy": fmean(accuracies),
        "interval": accuracy_interval(accuracies),
        "mean_seconds": fmean(o.seconds for o in outcomes),
        "at_target": sum(round(o, 6) >= target / 100 for o in accuracies),  # a float32's 0.9 is a little less
    }


def line_of(result: dict, target: float) -> str:
    "A `summary` as people read it."
    n, interval = len(result["runs"]), result["interval"]
    spread = f" (95 % interval {interval[0]:.2%} to {interval[1]:.2%})" if interval else ""
    return (f"mean accuracy {result['mean_accuracy']:.2%}{spread}, mean {result['mean_seconds']:.2f} s, "
            f"{result['at_target']} of {n} runs at {target} % or above")  # fmt: skip


def device_line(device: torch.device) -> str:
    "What computed."
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def seconds_since_start() -> float:
    "Wall-clock seconds since this process began, imports included."
    return time.time() - psutil.Process().create_time()
