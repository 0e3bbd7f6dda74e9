"""A training script's work: from options to a run folder, choosing on held-out images and testing once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import matplotlib
from fastai.callback.schedule import SuggestionMethod
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.learner import Learner
from fastai.torch_core import distrib_barrier, num_distrib, rank_distrib, set_seed
from fastcore.foundation import L
from matplotlib import pyplot as plt

import cifar_fast.export
import cifar_fast.schedules  # noqa: F401 - this and the one above patch methods onto Learner
from cifar_fast.callbacks import Interruptible, StopOnNaN, Stopwatch, TrainAccuracy
from cifar_fast.checkpoint import NAME as CHECKPOINT
from cifar_fast.checkpoint import Checkpoint, read_checkpoint
from cifar_fast.data import load_images
from cifar_fast.device import parse_device
from cifar_fast.errors import InputError
from cifar_fast.formats import ImageSet
from cifar_fast.loader import image_dls
from cifar_fast.progress import be_quiet, say
from cifar_fast.report import write_report
from cifar_fast.run import HistoryLogger, Run, SilentRun
from cifar_fast.tracking import make_trackers

MakeLearner = Callable[..., Learner]


class Experiment:
    "One training, as its options describe it: `choose` what is open on held-out images, then `train` and test."

    def __init__(
        self,
        name: str,  # of the script
        options: SimpleNamespace,  # of `training_options` and the script's own
        make_learner: MakeLearner,  # (dls, opt) -> Learner
    ):
        self.options, self.make_learner = options, make_learner
        be_quiet(options.quiet or rank_distrib() > 0)
        self.device = parse_device(options.device)
        self.run = (SilentRun if rank_distrib() else Run)(options.run, name, bool(options.resume))
        self.stopwatch, self.interruptible = Stopwatch(), Interruptible()
        self.opt, self.epochs, self.lr, self.choice = options.opt, options.epochs, options.lr, {}
        self.state: dict | None = None  # of the checkpoint that the run goes on from, until its fit takes it
        self.kept = {"results": [], "lrs": {}}  # of fits that are done: what each checkpoint carries on

    def execute(self) -> int:
        "Do all of it; the script's exit code. Raises `InputError`, and leaves no folder of its own then."
        try:
            return self._execute()
        except InputError:
            self.run.discard()
            raise
        finally:
            self.run.release()

    def go_on(self) -> None:
        "Take up the checkpoint of a run that was stopped; without one the run begins anew."
        self.state = read_checkpoint(self.run.folder / CHECKPOINT)
        if self.state:
            self.kept = self.state["extra"]
            self.run.history, self.run.batches = self.state["history"], [tuple(o) for o in self.state["batches"]]
            say(f"Going on after {self.state['epoch'] + 1} epochs of the stage {self.state['stage']!r}.")

    def _execute(self) -> int:
        matplotlib.use("Agg")
        self.trackers = [] if rank_distrib() else make_trackers(self.options.track, self.run.folder)
        if self.run.resumed:
            self.go_on()
        self.images = load_images(self.options.data, self.options.size)
        self.images = self.images.fewer(self.options.images, self.options.test_images)
        if num_distrib() > 1:
            bs = self.options.bs
            say(f"{num_distrib()} processes: {bs} images a batch each, {bs * num_distrib()} a step")
        asked = {k: v for k, v in vars(self.options).items() if k != "resume"}
        self.run.write_json("config.json", {**asked, "run": str(self.run.folder), "asked": asked})
        unfinished = self.choose() if self.options.opt == "both" or self.options.early_stop else None
        learn = self.learner(valid="test")
        if unfinished:
            learn.model.load_state_dict(unfinished.model.state_dict())
        resolved = {"precision": learn.precision, "device": str(self.device), "weights": learn.weights, "opt": self.opt}
        options = {**asked, **resolved, "run": str(self.run.folder), "data": self.images.name}
        self.run.write_json("config.json", {**options, "asked": asked})
        if not self.interrupted:
            self.train(learn)
        if not rank_distrib():
            self.report(learn)
        return 130 if self.interrupted else 0

    @property
    def interrupted(self) -> bool:
        "Whether Ctrl-C has ended a fit."
        return self.interruptible.interrupted

    def learner(self, valid: str, opt: str | None = None) -> Learner:
        "A fresh Learner on fresh DataLoaders, both from the seed alone."
        o = self.options
        set_seed(o.seed)
        dls = image_dls(
            self.images, o.bs, valid, o.size, o.flip, o.translate, o.cutout, seed=o.seed, device=self.device
        )  # fmt: skip
        learn = self.make_learner(dls, opt or self.opt)
        learn.path = self.run.folder
        return learn

    def choose(self) -> Learner | None:
        """Train on nine tenths of the training images; the last tenth picks the optimizer and the number of epochs.

        Gives the Learner that Ctrl-C has interrupted, else None.
        """
        results = self.kept["results"]
        for opt in ("adam", "sgd") if self.options.opt == "both" else (self.options.opt,):
            if any(o["opt"] == opt for o in results):
                continue
            say(f"Choosing on held-out training images: {opt}")
            learn = self.learner("holdout", opt)
            stop = []
            if self.options.early_stop:
                stop = [EarlyStoppingCallback(monitor="accuracy", patience=self.options.early_stop)]
            self.fit(learn, self.epochs, f"choose-{opt}", stop)
            if self.interrupted:
                self.opt = opt
                return learn
            col = list(learn.recorder.metric_names).index("accuracy") - 1
            held_out = [row[col] for row in learn.recorder.values]
            # without early stopping the last epoch counts: it is the one that the final training ends with
            best = max(range(len(held_out)), key=held_out.__getitem__) if stop else len(held_out) - 1
            results.append({"opt": opt, "epochs": best + 1, "held_out_accuracy": held_out[best]})
        winner = max(results, key=lambda o: o["held_out_accuracy"])
        self.opt, self.epochs = winner["opt"], winner["epochs"]
        self.choice = {"candidates": results, "chosen": winner}
        say(f"Chosen: {self.opt}, {self.epochs} epochs. Training on all training images.")
        return None

    def train(self, learn: Learner) -> None:
        "The training that counts, and after it the fine-tuning, where it is asked for."
        self.stopwatch = Stopwatch()  # choosing does not count
        if self.state:
            self.stopwatch.seconds, self.stopwatch.images = self.state["watch"]
        if not self.state or self.state["stage"] == "train":
            self.fit(learn, self.epochs, "train")
        self.lr = self.kept["lrs"].get("train", self.lr)
        if unfreeze_epochs(self.options) and not self.interrupted:
            callbacks = self.callbacks("fine-tune", [])
            with self.shared(learn):
                fit_unfrozen(learn, self.options, callbacks)

    def callbacks(self, stage: str, extra: list) -> L:
        "What every fit of a run carries."
        state = None
        if self.state and self.state["stage"] == stage:
            state, self.state = self.state, None
        checkpoint = Checkpoint(self.run, stage, state, self.kept)
        logger = HistoryLogger(self.run, stage)
        tracking = [cb for tracker in self.trackers for cb in tracker.cbs(stage)]
        cbs = [self.stopwatch, TrainAccuracy(), logger, StopOnNaN(), checkpoint, self.interruptible]
        return L([*cbs, *tracking, *extra])

    def fit(self, learn: Learner, epochs: int, stage: str, extra: list = ()) -> None:
        "One fit by the schedule that the options name."
        o, lr = self.options, self.lr
        if lr == "auto":
            lr = self.kept["lrs"][stage] = self.kept["lrs"].get(stage) or self.find_lr(learn)
        cbs = self.callbacks(stage, list(extra))
        with self.shared(learn):
            fit_scheduled(learn, o, epochs, lr, cbs)

    def shared(self, learn: Learner) -> AbstractContextManager:
        "The context of a fit: with other processes, where `accelerate launch` has started several."
        if num_distrib() < 2:
            return nullcontext()
        from cifar_fast.distributed import shared_training  # accelerate, which one process does not need

        return shared_training(learn)

    def find_lr(self, learn: Learner) -> float:
        "fastai's valley suggestion, from training losses alone; its plot is saved as lr_find.png."
        lr = self.lr_of_first_rank(learn)
        self.run.write_figure("lr_find.png", plt.gcf())
        say(f"Learning rate found: {lr:.2e}")
        return lr

    def lr_of_first_rank(self, learn: Learner) -> float:
        "What lr_find suggests; of many processes the first searches, for all."
        if rank_distrib():
            lr = 0.0
            distrib_barrier()  # where fastai's LRFinder, of which only the first rank saves weights, waits to load them
        else:
            lr = float(learn.lr_find(suggest_funcs=SuggestionMethod.Valley).valley)
        if num_distrib() < 2:
            return lr
        from cifar_fast.distributed import of_first_rank  # accelerate, which one process does not need

        with self.shared(learn):
            return of_first_rank(lr)

    def report(self, learn: Learner) -> None:
        "Test, write what is left to write, and say in one line what came out."
        o, watch = self.options, self.stopwatch
        compile_seconds = learn.compiled.seconds if o.compile else 0.0
        seconds = watch.seconds - compile_seconds
        processes = max(num_distrib(), 1)
        title = f"{data_line(self.images)}, {learn.arch}{weights_line(learn)}, seed {o.seed}"
        trained = [row for row in self.run.history if not row["stage"].startswith("choose")]
        metrics = self.run.finish(learn, title, {
            "data": self.images.name,
            "data_is_cifar10": self.images.is_cifar10,
            "model": learn.arch,
            "weights": learn.weights,
            "epochs": len(trained),
            "bs": o.bs,
            "opt": self.opt,
            "lr": self.lr,
            "schedule": o.schedule,
            "size": o.size,
            "seed": o.seed,
            "device": str(self.device),
            "precision": learn.precision,
            "train_accuracy": trained[-1]["train_accuracy"] if trained else None,
            "train_seconds": seconds,
            "compile_seconds": compile_seconds,
            "images_per_second": watch.images * processes / seconds if seconds else None,
            "processes": processes,
            "choice": self.choice,
            "interrupted": self.interrupted,
        })  # fmt: skip
        self.run.write_examples(learn.export_safe("model", model_metrics(metrics)) / "examples", learn)
        write_report(self.run.folder)
        for tracker in self.trackers:
            tracker.finish(metrics, sorted(self.run.folder.glob("*.png")))
        done = f"interrupted after {len(trained)} epochs, " if self.interrupted else ""
        print(
            f"{title}: {done}test accuracy {metrics['accuracy']:.2%} after {seconds:.0f} s of training "
            f"-> {self.run.folder}",
            flush=True,
        )


def fit_scheduled(
    learn: Learner,
    options: SimpleNamespace,  # of a training script: schedule, decay, lr_end
    epochs: int,
    lr: float,  # the schedule's first, or one_cycle's highest
    cbs: list,  # of the fit
) -> None:
    "A fit by the schedule that the options name."
    if options.schedule == "one_cycle":
        learn.fit_one_cycle(epochs, lr, cbs=cbs)
    else:
        kind = "constant" if options.schedule == "constant" else options.decay
        learn.fit_decay(epochs, lr, options.lr_end, kind, cbs=cbs)


def unfreeze_epochs(
    options: SimpleNamespace,  # of a training script
) -> int:
    "Epochs of fine-tuning after the training; 0 for a script without it."
    return getattr(options, "unfreeze_epochs", 0)


def fit_unfrozen(
    learn: Learner,
    options: SimpleNamespace,  # of transfer.py: unfreeze_epochs, unfreeze_lr
    cbs: list,  # of the fit
) -> None:
    "Fine-tune the whole network, the body's first layers at a hundredth of the rate."
    learn.unfreeze()
    lr = options.unfreeze_lr
    learn.fit_one_cycle(options.unfreeze_epochs, slice(lr / 100, lr), cbs=cbs, reset_opt=True)


def data_line(images: ImageSet) -> str:
    "What the images are, never more than they are."
    counts = f"{len(images.train_y):,} + {len(images.test_y):,} images"
    if images.is_cifar10 or images.name == "part of cifar10":
        return f"{'CIFAR-10' if images.is_cifar10 else 'a part of CIFAR-10'} ({counts})"
    return f"{images.name}, not CIFAR-10 ({counts})"


def model_metrics(metrics: dict) -> dict:
    "What a saved model carries of a run's metrics.json."
    names = "title data_is_cifar10 accuracy train_accuracy loss per_class_accuracy taken_for epochs seed".split()
    return {name: metrics[name] for name in names}


def weights_line(learn: Learner) -> str:
    "Which weights a transfer started from."
    if learn.arch == "CustomCNN":
        return ""
    return " with random weights" if learn.weights == "none" else f" with {learn.weights} weights"
