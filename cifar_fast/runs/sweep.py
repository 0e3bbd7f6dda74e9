"""Many trials: Ray Tune searches options of an experiment, on held-out training images alone.

Optuna proposes, ASHA ends early what lags behind. Every finished trial is a file in the sweep's folder, from which a
sweep that was killed goes on; the winner is trained on all training images, and tested, once.

Optuna's JournalStorage loses no finished trial in a kill either (none of 194 in 9 kills), but one damaged line makes
all of it unreadable, and a lock that a kill has left makes the next start wait for 30 s. Files have neither fault.
"""

import logging
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from fastai.callback.core import Callback
from fastai.learner import Recorder

from cifar_fast.analysis.charts import plot_sweep
from cifar_fast.data.sources import load_images
from cifar_fast.device import parse_device
from cifar_fast.errors import InputError, MissingExtra
from cifar_fast.files import read_json, stored, write_csv, write_json
from cifar_fast.options import MAY_MOVE, OF_A_START
from cifar_fast.progress import be_quiet
from cifar_fast.runs.folder import Run, check_begun
from cifar_fast.runs.launch import train
from cifar_fast.runs.one_seed import check_batches, fit_stage, images_from_options, learner_from_options, run_identity
from cifar_fast.runs.rehearsal import in_a_line, try_out
from cifar_fast.training.callbacks.guards import StopOnNaN

if TYPE_CHECKING:
    from cifar_fast.experiment import Experiment

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before ray is imported: nothing is reported to anybody
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # which takes Ctrl-C for the end of the search
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths mean here what they mean elsewhere
try:
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch
except ImportError as error:
    raise MissingExtra("sweep", "sweep.py") from error

USUAL = {"trials": 16, "per_gpu": 1, "seed": 0}  # where nothing is said
KINDS = {"loguniform": 2, "uniform": 2, "randint": 2, "choice": None}  # and how many arguments they take
OPEN = {("lr", "auto"), ("opt", "both")}  # what a training finds out by trainings of its own
NOT_FOR_TRIALS = {*OF_A_START, "run", "track", "quiet", "data", "seeds", "at_once", "early_stop", "cache_features"}


@dataclass(frozen=True)
class Param:
    "An option of an experiment and what to try for it."

    name: str  # of the option, with underscores
    kind: str  # loguniform, uniform, randint (the end included), choice, or fixed
    values: tuple  # bounds, choices, or the one value

    @classmethod
    def parse(cls, text: str, experiment: "Experiment") -> "Param":
        "`lr=loguniform(1e-4,1e-2)`, `head=choice(linear,fastai)`, `epochs=3`. Raises `InputError`."
        found = re.fullmatch(r"\s*([\w-]+)\s*=\s*(?:(\w+)\((.*)\)|([^()]*))\s*", text)
        if not found:
            raise InputError(f"{text!r} is no parameter: write lr=loguniform(1e-4,1e-2), head=choice(a,b) or epochs=3")
        kind, args, fixed = found[2], found[3], found[4]
        if kind not in (None, *KINDS):
            raise InputError(f"{text!r}: there is no {kind}, but {', '.join(KINDS)}")
        parsed = [experiment.parse_option(found[1], o.strip()) for o in (fixed if kind is None else args).split(",")]
        name, values = parsed[0][0], tuple(value for _, value in parsed)
        if {(name, o) for o in values} & OPEN:
            raise InputError(f"{text!r}: that chooses by itself; trials want a value")
        if kind is None and len(values) == 1:
            return cls(name, "fixed", values)
        if kind is None:
            raise InputError(f"{text!r}: give one value, or {name}=choice({fixed})")
        if KINDS[kind] not in (None, len(values)):
            raise InputError(f"{text!r}: {kind} takes two bounds")
        if kind != "choice":
            _check_bounds(text, kind, *values)
        return cls(name, kind, values)

    def space(self):
        "Ray Tune's domain, or the fixed value."
        if self.kind == "fixed":
            return self.values[0]
        if self.kind == "choice":
            return tune.choice(list(self.values))
        low, high = self.values
        return getattr(tune, self.kind)(low, high + (self.kind == "randint"))


def _check_bounds(text: str, kind: str, low, high) -> None:
    "Raises `InputError`."
    if not all(type(o) in (int, float) for o in (low, high)) or not -inf < low < high < inf:
        raise InputError(f"{text!r}: give two numbers, the smaller first")
    if isinstance(low, int) and kind != "randint":
        raise InputError(f"{text!r}: that is a whole number; try randint or choice")
    if isinstance(low, float) and kind == "randint":
        raise InputError(f"{text!r}: that is no whole number; try uniform or loguniform")
    if kind == "loguniform" and low <= 0:
        raise InputError(f"{text!r}: loguniform begins above 0")


class ReportAccuracy(Callback):
    "Tells Ray Tune the accuracy on held-out images after each epoch."

    order, needs_images, epochs = Recorder.order + 1, False, 0

    def after_epoch(self):
        "Report; here ASHA may end the trial."
        names = list(self.recorder.metric_names)
        self.epochs += 1
        tune.report({"accuracy": float(self.recorder.log[names.index("accuracy")]), "epoch": self.epochs})


def train_trial(
    config: dict,  # options that this trial has
    experiment: "Experiment",
    fixed: dict,  # options that all have
) -> None:
    "One trial, in a process of Ray's: nine tenths of the training images, accuracy on the last tenth."
    torch.set_num_threads(1)
    be_quiet()
    o = experiment.options(**{**fixed, **config})
    learn = learner_from_options(experiment, o, images_from_options(o), "holdout", parse_device(o.device))
    try_out(learn, experiment)
    cbs = [StopOnNaN(), ReportAccuracy()]
    with in_a_line(experiment, learn), learn.no_bar(), learn.no_logging():
        for stage in experiment.stages(o):
            fit_stage(learn, stage, o, o.lr, cbs)


class KeepTrials(tune.Callback):
    "Writes each finished trial, in full or ended by ASHA, as a file."

    def __init__(self, folder: Path):
        self.folder = folder

    def on_trial_complete(self, iteration, trials, trial, **info):
        "Write it, whole or not at all."
        result = trial.last_result
        if "accuracy" in result:
            content = {"config": stored(trial.config), "accuracy": result["accuracy"], "epochs": result["epoch"]}
            write_json(self.folder / f"{uuid.uuid4().hex[:12]}.json", content)


class Sweep:
    "A search, its folder, and the training of its winner."

    def __init__(
        self,
        experiment: "Experiment",
        options: SimpleNamespace,  # of `sweep_options`
    ):
        self.experiment = experiment
        self.before = before = asked_before(options.resume) if options.resume else {}
        if options.run and options.resume and Path(options.run) != Path(options.resume):
            raise InputError(f"--resume goes on in {options.resume}: leave --run out")
        given = {k: o for k, o in vars(options).items() if o != DEFAULTS[k]}
        begun = {k: o for k, o in before.items() if k in DEFAULTS.keys() - {"run"} and o is not None}
        self.options = options = SimpleNamespace(**{**DEFAULTS, **USUAL, **begun, **given})
        self.params = [Param.parse(o, experiment) for o in options.param or ()]
        self.searched, self.n_failed = [o for o in self.params if o.kind != "fixed"], 0
        if not self.searched:
            raise InputError("nothing to search: give --param, as in --param 'lr=loguniform(1e-4,1e-2)'")
        names = [o.name for o in self.params]
        if twice := {o for o in names if names.count(o) > 1}:
            raise InputError(f"{twice.pop()} has several --param: give one")
        self.fixed = {o.name: o.values[0] for o in self.params if o.kind == "fixed"}
        if clash := NOT_FOR_TRIALS & set(names):
            raise InputError(f"{clash.pop()} is not for trials: leave it out of --param")
        self.fixed |= {k: getattr(options, k) for k in MAY_MOVE if getattr(options, k) is not None}
        self.fixed |= {"cache_features": True} if "cache_features" in experiment.own else {}
        experiment.options(**self.fixed)

    def execute(self) -> int:
        "Search, show, and train the winner; the exit code. Raises `InputError`."
        o = self.options
        self.run = Run(o.resume or o.run, "sweep", bool(o.resume))
        try:
            self.folder = self.run.folder / "trials"
            self.folder.mkdir(exist_ok=True)
            self.check_begun()
            done = self.finished()
            if done:
                print(f"Finished already: {len(done)} of {o.trials} trials.", flush=True)
            if len(done) < o.trials:
                self.check_batches()
                self.search(done)
            trials = sorted(self.finished(), key=self.rank, reverse=True)
            if not trials:
                raise InputError("no trial came to an end: look at what they printed above")
            self.write(trials)
            return self.train_winner(self.winner(trials)) or int(self.n_failed > 0)
        except InputError:
            if not (self.run.folder / "trials").exists() or not self.finished():
                self.run.discard()
            raise
        finally:
            self.run.release()

    def check_begun(self) -> None:
        "A sweep that goes on must search the same, by the same source, on the same images. Raises `InputError`."
        o, before = self.options, self.before
        same = before.get("experiment") or {}
        found_again = {} if same.get("images") else {k: getattr(o, k) for k in MAY_MOVE}  # else by what they hold
        check_begun(self.run.folder, before, {"param": o.param, **found_again}, "give the same")
        who = {"name": self.experiment.name, "source": self.experiment.source}
        check_begun(self.run.folder, same, who, "go on with the experiment as it was")
        if not before:
            self.run.write_json("config.json", stored(vars(o)))
        images = load_images(
            o.data, self.fixed.get("size", 32), self.fixed.get("labels"), self.fixed.get("skip_bad", False)
        )  # decoded once, not by every trial
        identity = run_identity(self.experiment, images, same)
        self.run.write_json("config.json", stored({**vars(o), "experiment": identity}))

    def finished(self) -> list[dict]:
        "All trials that have come to an end. Damaged files are renamed, and other trials run in their place."
        res = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                trial = read_json(path)
                given = as_named_now(trial["config"])
                config = {o.name: self.experiment.option(o.name).check(given[o.name]) for o in self.searched}
                res.append({"config": config, "accuracy": float(trial["accuracy"]), "epochs": int(trial["epochs"])})
            except (ValueError, KeyError, TypeError):
                kept = path.rename(path.with_suffix(".damaged"))
                print(f"{path} is damaged and left out: it is now {kept.name}.", flush=True)
        return res

    def check_batches(self) -> None:
        "Raises `InputError` where the search may propose batches of one image, and batch norm cannot train on them."
        smallest = {p.name: min(p.values) for p in self.params if p.name == "bs"}
        first = {p.name: p.values[0] for p in self.searched}
        choices = [{p.name: value} for p in self.searched if p.kind == "choice" for value in p.values]
        for config in [{}, *choices]:
            options = self.trial_options({**first, **config, **smallest})
            if options.bs == 1:
                check_batches(self.experiment, options, images_from_options(options), parse_device(options.device))

    def search(self, done: list[dict]) -> None:
        "Run the trials that are missing."
        o = self.options
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is said below, in one line
        ray.init(address=o.address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            goal = dict(metric="accuracy", mode="max")
            # known trials are points of the search, to which Ray gives no trial; the same seed would propose them again
            search = OptunaSearch(
                **goal, seed=o.seed + len(done), points_to_evaluate=[trial["config"] for trial in done] or None,
                evaluated_rewards=[trial["accuracy"] for trial in done] or None,
            )  # fmt: skip
            trainable = tune.with_parameters(train_trial, experiment=self.experiment, fixed=self.fixed)
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1, "gpu": 1 / o.per_gpu if torch.cuda.device_count() else 0}),
                param_space={p.name: p.space() for p in self.searched},
                tune_config=tune.TuneConfig(
                    **goal, num_samples=o.trials - len(done), search_alg=search,
                    scheduler=ASHAScheduler(time_attr="epoch", max_t=self.most_epochs(), grace_period=1),
                    reuse_actors=True,  # else each trial imports torch and reads the images anew
                ),
                run_config=tune.RunConfig(
                    name="ray", storage_path=str(self.run.folder.absolute()), verbose=0,
                    callbacks=[KeepTrials(self.folder)],
                    failure_config=tune.FailureConfig(max_failures=1),  # where a node of the cluster is lost
                ),
            )  # fmt: skip
            errors = tuner.fit().errors
        finally:
            ray.shutdown()
        self.n_failed = len(errors)
        for error in errors[:1]:
            print(f"{len(errors)} trials failed, the first with: {str(error).splitlines()[-1].strip()}", flush=True)

    def most_epochs(self) -> int:
        "Epochs of the longest trial that the search may propose."
        return self.planned_epochs({p.name: max(p.values) for p in self.searched if p.name.endswith("epochs")})

    def planned_epochs(self, config: dict) -> int:
        "Epochs of the trial that has `config`, where it is not ended early."
        return sum(stage.epochs for stage in self.experiment.stages(self.trial_options(config)))

    def trial_options(self, config: dict) -> SimpleNamespace:
        "All options of the trial that has `config`."
        return self.experiment.options(**{**self.fixed, **config})

    def ran_in_full(self, trial: dict) -> bool:
        "Whether ASHA has let the trial come to its end: one that it ended early says little about a whole training."
        return trial["epochs"] >= self.planned_epochs(trial["config"])

    def rank(self, trial: dict) -> tuple[bool, float]:
        "More is better: what ASHA ended early is behind all others."
        return self.ran_in_full(trial), trial["accuracy"]

    def write(self, trials: list[dict]) -> None:
        "sweep.csv, sweep.png, and the table on the screen."
        names = [p.name for p in self.searched]
        values = [["none" if o is None else o for o in trial["config"].values()] for trial in trials]
        rows = [[*row, trial["epochs"], trial["accuracy"]] for row, trial in zip(values, trials)]
        header = [*names, "epochs", "held_out_accuracy"]
        write_csv(self.run.folder / "sweep.csv", header, rows)
        whole = [self.ran_in_full(trial) for trial in trials]
        self.run.write_figure("sweep.png", plot_sweep(trials, whole, self.searched, self.experiment.name))
        print("  ".join(f"{o:<16}" for o in header))
        for row in rows:
            print("  ".join(f"{f'{o:.4g}' if isinstance(o, float) else o!s:<16}" for o in row), flush=True)

    def winner(self, trials: list[dict]) -> dict:
        "The best of `trials`; among equals the one that `winner/` has been trained for, or the first."
        folder = self.run.folder / "winner"
        return max(trials, key=lambda trial: (*self.rank(trial), was_asked(folder, trial["config"])))

    def train_winner(self, winner: dict) -> int:
        "On all training images, tested once; another trial's training stays until this one is done."
        folder, before = self.run.folder / "winner", self.run.folder / "winner-before"
        print(f"Winner: {winner['config']}, {winner['accuracy']:.2%} of held-out images. Training on all.", flush=True)
        if folder.exists() and not was_asked(folder, winner["config"]):
            print(f"{folder} was trained for another trial, or is damaged: it is trained anew.", flush=True)
            if before.exists():
                shutil.rmtree(folder)  # not finished, as what is in `before` is
            else:
                folder.rename(before)
        options = self.trial_options(winner["config"])
        options.run, options.resume = str(folder), str(folder) if folder.exists() else None
        code = train(self.experiment, options, given=set(MAY_MOVE))[0]
        if code == 0:
            shutil.rmtree(before, ignore_errors=True)
        return code


DEFAULTS = dict(
    param=None, data="auto", labels=None, trials=None, address=None, per_gpu=None, seed=None, run=None, resume=None
)


def sweep_options(**given) -> SimpleNamespace:
    "The options of a sweep, as of `commands.sweep`. Raises `InputError` for one that it does not have."
    if unknown := set(given) - set(DEFAULTS):
        raise InputError(f"a sweep has no option {unknown.pop()!r}: it has {', '.join(DEFAULTS)}")
    return SimpleNamespace(**{**DEFAULTS, **given})


def asked_before(folder: str) -> dict:
    "The options that the sweep in `folder` was begun with. Raises `InputError` where there is none."
    try:
        before = read_json(Path(folder) / "config.json")
        if not before["param"]:
            raise ValueError("it has no param")
        return before
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no sweep to go on with ({error})") from error


def of_sweep(folder: str) -> str:
    "What `load_experiment` takes for the experiment of a sweep. Raises `InputError` where there is no sweep."
    before = asked_before(folder)
    same = before.get("experiment") or {"name": before.get("script", "custom"), "file": None}
    return f"{same['file']}:{same['name']}" if same["file"] else same["name"]


def as_named_now(config: dict) -> dict:
    "Options by name; those that version 0.1 kept negated, `no_bn`, are there as what they negate too."
    return {**config, **{name[3:]: not value for name, value in config.items() if name.startswith("no_")}}


def was_asked(folder: Path, config: dict) -> bool:
    "Whether the run in `folder` was begun with these options."
    try:
        asked = read_json(folder / "config.json")["asked"]
        return stored(config).items() <= as_named_now(asked).items()
    except (OSError, ValueError, KeyError):
        return False
