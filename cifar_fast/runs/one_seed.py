"""One training, from options to a run folder: choosing on held-out images, each stage, and one test."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from fastai.callback.schedule import SuggestionMethod
from fastai.learner import Learner
from fastai.torch_core import distrib_barrier, num_distrib, rank_distrib, set_seed
from fastcore.foundation import L
from matplotlib import pyplot as plt

import cifar_fast.training.schedules  # noqa: F401 - patches fit_decay onto Learner
from cifar_fast.data.duplicates import exact_duplicates
from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.labelled_sets import read_indices
from cifar_fast.data.loaders import TensorDL, image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.device import parse_device
from cifar_fast.errors import InputError
from cifar_fast.files import read_json, stored
from cifar_fast.options import CHOOSING, OF_A_START, is_choosing
from cifar_fast.progress import be_quiet, say
from cifar_fast.runs.checkpoint import NAME as CHECKPOINT
from cifar_fast.runs.checkpoint import Checkpoint, read_checkpoint
from cifar_fast.runs.facts import accuracy_on, images_hash, run_facts
from cifar_fast.runs.folder import HistoryLogger, Run, SilentRun
from cifar_fast.runs.rehearsal import in_a_line, try_out
from cifar_fast.runs.test_sets import SecondTest, read_second_tests
from cifar_fast.runs.trackers import TrackedFit, find_trackers, numbers
from cifar_fast.training.callbacks.guards import Interruptible, StopOnNaN
from cifar_fast.training.callbacks.measure import Stopwatch, TrainAccuracy
from cifar_fast.training.callbacks.stops import FirstBatchOnly, StopAfter, StopEarly
from cifar_fast.training.turns import TakesTurns, Turns

if TYPE_CHECKING:
    from cifar_fast.experiment import Experiment, Stage


def images_from_options(options: SimpleNamespace) -> ImageSet:
    "The images that a run's options ask for. Raises `InputError`."
    images = load_images(options.data, options.size, options.labels, options.skip_bad)
    images = images.fewer(options.images, options.test_images)
    return images.without(read_indices(options.drop_labels, images.train_y)) if options.drop_labels else images


def learner_from_options(
    experiment: "Experiment",
    options: SimpleNamespace,  # all of the experiment's
    images: ImageSet,  # of `images_from_options`
    valid: str,  # test or holdout, as of `image_dls`
    device: torch.device,
) -> Learner:
    "A fresh Learner on fresh DataLoaders, both from the seed alone. Raises `InputError`."
    o = options
    set_seed(o.seed)
    flip = o.flip if o.flip in ("random", "alternating") else "none"  # an experiment may have values of its own
    dls = image_dls(
        images, o.bs or 64, valid, o.size, flip, max(0, o.translate), max(0, o.cutout), o.erase, o.color,
        o.auto_augment, o.sampling, seed=o.seed, device=device,
    )  # fmt: skip
    learn = experiment.learner(dls, o)
    valid = learn.dls.valid
    if not isinstance(valid, TensorDL) or not valid.dataset.y.equal(dls.valid.dataset.y):
        raise InputError(f"{experiment.name} tests on other images than it is given: make its Learner of its own dls")
    return learn


def check_batches(
    experiment: "Experiment",
    options: SimpleNamespace,  # all of the experiment's
    images: ImageSet,  # of `images_from_options`
    device: torch.device,
) -> None:
    "Where batches are of one image, one through each stage. Raises `InputError` where batch norm cannot train on it."
    if options.bs != 1:
        return
    still_open = {"lr": ("auto", 1e-3), "opt": ("both", "adam")}
    found = {k: value for k, (choice, value) in still_open.items() if getattr(options, k) == choice}
    options = SimpleNamespace(**{**vars(options), **found})
    learn = learner_from_options(experiment, options, images, "test", device)
    try_out(learn, experiment)
    try:
        with in_a_line(experiment, learn), learn.no_bar(), learn.no_logging():
            for stage in experiment.stages(options):
                fit_stage(learn, stage, options, options.lr, [FirstBatchOnly()])
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "batch norm cannot train on batches of one image: give --bs 2 or more, or leave batch norm out"
        ) from error


def fit_stage(
    learn: Learner,
    stage: "Stage",
    options: SimpleNamespace,  # that say how, where the stage does not
    lr: float,  # the schedule's first, or one_cycle's highest
    cbs: list,  # of the fit
) -> None:
    "One fit."
    if stage.fit is not None:
        stage.fit(learn, cbs)
    elif options.schedule == "one_cycle":
        learn.fit_one_cycle(stage.epochs, lr, cbs=cbs)
    else:
        kind = "constant" if options.schedule == "constant" else options.decay
        learn.fit_decay(stage.epochs, lr, options.lr_end, kind, cbs=cbs, warmup=options.warmup)


class OneSeed:
    "One training, as its options describe it: `choose` what is open on held-out images, train each stage, and test."

    def __init__(
        self,
        experiment: "Experiment",
        options: SimpleNamespace,  # all of the experiment's
        images: ImageSet | None = None,  # of `images_from_options`, where they have been read
        identity: dict | None = None,  # of `run_identity`: with `images` this run's, else what it is to find again
        turns: Turns | None = None,  # that it takes with other trainings
    ):
        self.experiment, self.options, self.images, self.identity = experiment, options, images, identity
        self.turns = turns
        be_quiet(options.quiet or rank_distrib() > 0)
        self.device = parse_device(options.device)
        self.run = (SilentRun if rank_distrib() else Run)(options.run, experiment.name, bool(options.resume))
        self.stopwatch, self.interruptible = Stopwatch(), Interruptible(for_good=True)
        self.opt, self.epochs, self.lr, self.choice = options.opt, None, options.lr, {}
        self.state: dict | None = None  # of the checkpoint that the run goes on from, until its fit takes it
        self.carried = {"results": [], "lrs": {}}  # of fits that are done: what each checkpoint carries on
        self.learn: Learner | None = None
        self.second_tests: list[SecondTest] = []
        self.opened = ExitStack()  # what is closed however the run ends
        self.tried = False

    def execute(self) -> int:
        "Do all of it; the exit code. Raises `InputError`. A training that fails in its first epoch leaves no folder."
        try:
            with self.opened:
                return self._execute()
        except Exception:
            self.run.discard()
            raise
        finally:
            self.run.release()

    @cached_property
    def trackers(self) -> list:
        "Opened when the first fit asks for them: by then the input has been found usable."
        kinds = [] if rank_distrib() else find_trackers(self.options.track)
        return [o(self.run.folder, self.opened) for o in kinds]

    def go_on(self) -> None:
        "Take up the checkpoint of a run that was stopped; without one the run begins anew."
        self.state = read_checkpoint(self.run.folder / CHECKPOINT)
        if self.state:
            self.carried = self.state["extra"]
            self.run.history, self.run.batches = self.state["history"], [tuple(o) for o in self.state["batches"]]
            done = sum(row["stage"] == self.state["stage"] for row in self.run.history)
            say(f"Going on after {done} epochs of the stage {self.state['stage']!r}.")

    def _execute(self) -> int:
        o = self.options
        find_trackers(o.track)  # refuses unknown ones before the images are read
        if self.run.resumed:
            self.go_on()
        if self.images is None:
            self.images = images_from_options(o)
            self.identity = run_identity(self.experiment, self.images, self.identity)
        x, y = self.images.test_x, self.images.test_y
        self.second_tests = read_second_tests(o.also_test or [], self.images.vocab, x.shape[-1], y, self.images.levels)
        self.write_config({})
        check_batches(self.experiment, o, self.images, self.device)
        unfinished = self.choose() if o.opt == "both" or o.early_stop else None
        self.learn = learn = self.learner("test")
        if num_distrib() > 1:
            bs = learn.dls.train.bs
            say(f"{num_distrib()} processes: {bs} images a batch each, {bs * num_distrib()} a step")
        if unfinished:
            learn.model.load_state_dict(unfinished.model.state_dict())
        skipped = {"skipped": list(self.images.skipped)} if self.images.skipped else {}
        resolved = {"precision": learn.precision, "device": str(self.device), "weights": learn.weights, "opt": self.opt}
        self.write_config({**resolved, "data": self.images.name, **skipped})
        if not self.interrupted:
            self.train(learn)
        if rank_distrib():
            return 0  # a launcher ends the first process, which still writes, where another one failed
        self.report(learn)
        return 130 if self.interrupted else 0

    def write_config(self, resolved: dict) -> None:
        "config.json, with what `auto` came to."
        config = run_config(self.experiment, self.options, self.identity)
        self.run.write_json("config.json", config | {"run": str(self.run.folder)} | resolved)

    @property
    def interrupted(self) -> bool:
        "Whether Ctrl-C has ended a fit."
        return self.interruptible.interrupted

    def learner(self, valid: str, opt: str | None = None) -> Learner:
        "A fresh Learner for the optimizer `opt`, or for the one that is chosen."
        options = SimpleNamespace(**{**vars(self.options), "opt": opt or self.opt})
        learn = learner_from_options(self.experiment, options, self.images, valid, self.device)
        learn.path = self.run.folder
        if not self.tried:
            try_out(learn, self.experiment)
            self.tried = True
        return learn

    def choose(self) -> Learner | None:
        """Train on nine tenths of the training images; the last tenth picks the optimizer, and the last stage's epochs.

        Gives the Learner that Ctrl-C has interrupted, else None.
        """
        results, patience = self.carried["results"], self.options.early_stop
        *before, stage = self.experiment.stages(self.options)
        for opt in ("adam", "sgd") if self.options.opt == "both" else (self.options.opt,):
            if any(o["opt"] == opt for o in results):
                continue
            say(f"Choosing on held-out training images{f': {opt}' if opt else ''}")
            learn, name = self.learner("holdout", opt), f"{CHOOSING}-{opt or 'epochs'}"
            stop = [StopEarly(monitor="accuracy", patience=patience)] if patience else []
            self.fit_stages(learn, [*(f"{name}-{o.name}" for o in before), name], stop)
            if self.interrupted:
                self.opt = opt
                return learn
            held_out = [row["accuracy"] for row in self.run.history if row["stage"] == name]
            if not held_out:
                raise InputError(f"the stage {stage.name!r} ends before its first epoch: nothing can be chosen by it")
            # without early stopping the last epoch counts: it is the one that the final training ends with
            best = max(range(len(held_out)), key=held_out.__getitem__) if stop else len(held_out) - 1
            results.append({"opt": opt, "epochs": best + 1, "held_out_accuracy": held_out[best]})
        winner = max(results, key=lambda o: o["held_out_accuracy"])
        self.opt, self.epochs = winner["opt"], winner["epochs"]
        self.choice = {"candidates": results, "chosen": winner}
        epochs = f"{self.epochs} of {stage.epochs} epochs{f' of {stage.name}' if before else ''}"
        say(f"Chosen: {', '.join(filter(None, [self.opt, epochs]))}. Training on all training images.")
        if (swa := self.options.swa) and self.epochs <= (1 - swa) * stage.epochs:
            last = f"the last {swa * 100:g} % of {stage.epochs} epochs"
            say(f"Nothing is averaged: early stopping ends before {last}, which --swa averages.")
        return None

    def train(self, learn: Learner) -> None:
        "The training that counts, stage by stage; where epochs were chosen, they are the first of the same schedule."
        self.stopwatch = Stopwatch()  # choosing does not count
        if self.state:
            self.stopwatch.seconds, self.stopwatch.images = self.state["watch"]
        names = [o.name for o in self.experiment.stages(self.options)]
        self.fit_stages(learn, names, [StopAfter(self.epochs)] if self.epochs else [])

    def fit_stages(self, learn: Learner, names: list[str], extra: list) -> None:
        "Every stage's fit, called so in the history, from where a stopped run is; `extra` are callbacks of the last."
        here = self.state["stage"] if self.state else None
        stages = list(zip(self.experiment.stages(self.options), names, strict=True))
        for stage, name in stages[names.index(here) if here in names else 0 :]:
            if not self.interrupted:
                self.fit(learn, stage, name, extra if name == names[-1] else [])

    def callbacks(self, stage: str, extra: list) -> L:
        "What every fit of a run carries."
        state = None
        if self.state and self.state["stage"] == stage:
            state, self.state = self.state, None
        cbs = [self.stopwatch, TrainAccuracy(), HistoryLogger(self.run, stage), StopOnNaN()]
        cbs += [Checkpoint(self.run, stage, state, self.carried), self.interruptible]
        cbs += [TakesTurns(self.turns)] if self.turns else []
        return L([*cbs, *(TrackedFit(tracker, stage) for tracker in self.trackers), *extra])

    def fit(self, learn: Learner, stage: "Stage", name: str, extra: list = ()) -> None:
        "One fit, which stands in the history as `name`."
        lr = self.options.lr
        if lr == "auto" and stage.fit is None:
            lr = self.carried["lrs"][name] = self.carried["lrs"].get(name) or self.find_lr(learn)
            self.lr = lr
        cbs = self.callbacks(name, list(extra))
        with in_a_line(self.experiment, learn, self.run.history), self.shared(learn):
            fit_stage(learn, stage, self.options, lr, cbs)

    def shared(self, learn: Learner) -> AbstractContextManager:
        "The context of a fit: with other processes, where `accelerate launch` has started several."
        if num_distrib() < 2:
            return nullcontext()
        from cifar_fast.training.distributed import shared_training  # accelerate, which one process does not need

        return shared_training(learn)

    def find_lr(self, learn: Learner) -> float:
        "fastai's valley suggestion, from training losses alone; of many processes the first searches, for all."
        if rank_distrib():
            lr = 0.0
            distrib_barrier()  # where fastai's LRFinder, of which only the first rank saves weights, waits to load them
        else:
            with in_a_line(self.experiment, learn):
                lr = float(learn.lr_find(suggest_funcs=SuggestionMethod.Valley).valley)
        if num_distrib() > 1:
            from cifar_fast.training.distributed import of_first_rank  # accelerate, which one process does not need

            with self.shared(learn):
                lr = of_first_rank(lr)
        self.run.write_figure("lr_find.png", plt.gcf())
        plt.close()
        say(f"Learning rate found: {lr:.2e}")
        return lr

    def report(self, learn: Learner) -> None:
        "Test, write what is left to write, and say in one line what came out."
        o, watch, images = self.options, self.stopwatch, self.images
        compile_seconds = getattr(vars(learn).get("compiled"), "seconds", 0.0)  # of the callback, where it is there
        seconds = watch.seconds - compile_seconds
        trained = [row for row in self.run.history if not is_choosing(row["stage"])]
        facts = run_facts(learn, self.experiment.name, o.seed)
        metrics = self.run.finish(learn, {
            **facts,
            "epochs": len(trained),
            "opt": self.opt,
            "lr": self.carried["lrs"].get("train", self.lr),
            "schedule": o.schedule,
            "train_accuracy": trained[-1]["train_accuracy"] if trained else None,
            "train_seconds": seconds,
            "compile_seconds": compile_seconds,
            "images_per_second": watch.images * max(num_distrib(), 1) / seconds if seconds else None,
            "processes": max(num_distrib(), 1),
            "at_once": self.turns.n if self.turns else 1,
            "choice": self.choice,
            "skipped_images": len(images.skipped),
            "leaked_images": len(exact_duplicates(images.train_x, images.test_x)) if images.leaked else 0,
            "interrupted": self.interrupted,
        }, self.second_tests)  # fmt: skip
        config = read_json(self.run.folder / "config.json")
        for tracker in self.trackers:
            tracker.finish(numbers(metrics), config, sorted(self.run.folder.glob("*.png")))
        done = f"interrupted after {len(trained)} epochs, " if self.interrupted else ""
        print(
            f"{facts['title']}: {done}{accuracy_on(facts['tested_on'])} {metrics['accuracy']:.2%} "
            f"after {seconds:.0f} s of training "
            f"-> {self.run.folder}",
            flush=True,
        )


def run_config(experiment: "Experiment", options: SimpleNamespace, identity: dict) -> dict:
    "What config.json holds: the options, as asked and by default, and what the run must find again to go on."
    asked = {k: v for k, v in vars(options).items() if k not in OF_A_START}
    return stored({**asked, "asked": asked, "defaults": experiment.defaults(), "experiment": identity})


def run_identity(
    experiment: "Experiment",
    images: ImageSet,
    before: dict | None = None,  # of the run when it was begun, where it goes on
) -> dict:
    "What a run must find again to go on. Raises `InputError` for other images than before."
    found = images_hash(images)
    if before and before.get("images", found) != found:
        raise InputError(
            f"the run was begun on other images than are there now ({images.name}): name those with --data"
        )
    return {
        "name": experiment.name,
        "file": str(experiment.file) if experiment.source and experiment.file else None,
        "source": experiment.source,
        "images": found,
    }
