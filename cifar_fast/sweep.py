"""Many trials: Ray Tune searches options of a training script, on held-out training images alone.

Optuna proposes, ASHA ends early what lags behind. Every finished trial is a file in the sweep's folder, from which a
sweep that was killed goes on; the winner is trained on all training images, and tested, once.
"""

import csv
import json
import logging
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from fastai.callback.core import Callback
from fastai.learner import Recorder
from fastai.torch_core import set_seed
from matplotlib.figure import Figure

from cifar_fast.callbacks import StopOnNaN
from cifar_fast.data import load_images
from cifar_fast.device import parse_device
from cifar_fast.errors import InputError, MissingExtra
from cifar_fast.experiment import data_line, fit_scheduled, fit_unfrozen, unfreeze_epochs
from cifar_fast.files import write_atomically
from cifar_fast.launch import TRAININGS, train_from_options
from cifar_fast.loader import image_dls
from cifar_fast.options import parse_option, script_options
from cifar_fast.progress import be_quiet
from cifar_fast.run import Run

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

N_TRIALS = 16  # where nothing is said
KINDS = {"loguniform": 2, "uniform": 2, "randint": 2, "choice": None}  # and how many arguments they take
OPEN = {("lr", "auto"), ("opt", "both")}  # what a script finds out by trainings of its own


@dataclass(frozen=True)
class Param:
    "An option of a training script and what to try for it."

    name: str  # of the option, with underscores
    kind: str  # loguniform, uniform, randint (the end included), choice, or fixed
    values: tuple  # bounds, choices, or the one value

    @classmethod
    def parse(cls, text: str, script: str) -> "Param":
        "`lr=loguniform(1e-4,1e-2)`, `head=choice(linear,fastai)`, `epochs=3`. Raises `InputError`."
        found = re.fullmatch(r"\s*([\w-]+)\s*=\s*(?:(\w+)\((.*)\)|([^()]*))\s*", text)
        if not found:
            raise InputError(f"{text!r} is no parameter: write lr=loguniform(1e-4,1e-2), head=choice(a,b) or epochs=3")
        name, kind, args, fixed = found[1].replace("-", "_"), found[2], found[3], found[4]
        if kind not in (None, *KINDS):
            raise InputError(f"{text!r}: there is no {kind}, but {', '.join(KINDS)}")
        values = tuple(parse_option(script, name, o.strip()) for o in (fixed if kind is None else args).split(","))
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
    if not all(type(o) in (int, float) for o in (low, high)) or low >= high:
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


def planned_epochs(
    options: SimpleNamespace,  # of a training script
) -> int:
    "Epochs of a trial that is not ended early."
    return options.epochs + unfreeze_epochs(options)


def train_trial(
    config: dict,  # options that this trial has
    script: str,  # custom or transfer
    fixed: dict,  # options that all have
) -> None:
    "One trial, in a process of Ray's: nine tenths of the training images, accuracy on the last tenth."
    torch.set_num_threads(1)
    be_quiet()
    o = script_options(script, **{**fixed, **config})
    images = load_images(o.data, o.size).fewer(o.images, o.test_images)
    set_seed(o.seed)
    device = parse_device(o.device)
    dls = image_dls(images, o.bs, "holdout", o.size, o.flip, o.translate, o.cutout, seed=o.seed, device=device)
    learn = TRAININGS[script](o)(dls, o.opt)
    cbs = [StopOnNaN(), ReportAccuracy()]
    with learn.no_bar(), learn.no_logging():
        fit_scheduled(learn, o, o.epochs, o.lr, cbs)
        if unfreeze_epochs(o):
            fit_unfrozen(learn, o, cbs)


class KeepTrials(tune.Callback):
    "Writes each finished trial, in full or ended by ASHA, as a file."

    def __init__(self, folder: Path):
        self.folder = folder

    def on_trial_complete(self, iteration, trials, trial, **info):
        "Write it, whole or not at all."
        result = trial.last_result
        if "accuracy" in result:
            content = {"config": trial.config, "accuracy": result["accuracy"], "epochs": result["epoch"]}
            text = json.dumps(content, indent=2) + "\n"
            write_atomically(self.folder / f"{uuid.uuid4().hex[:12]}.json", lambda tmp: tmp.write_text(text))


class Sweep:
    "experiments/sweep.py's work."

    def __init__(
        self,
        options: SimpleNamespace,  # of the script
    ):
        self.before = before = asked_before(options.resume) if options.resume else {}
        if before and not options.param:
            options = SimpleNamespace(**{**before, "trials": options.trials, "run": None, "resume": options.resume})
        trials = options.trials or before.get("trials") or N_TRIALS
        self.options = options = SimpleNamespace(**{**vars(options), "trials": trials})
        self.params = [Param.parse(o, options.script) for o in options.param or ()]
        if not any(o.kind != "fixed" for o in self.params):
            raise InputError("nothing to search: give --param, as in --param 'lr=loguniform(1e-4,1e-2)'")
        names = [o.name for o in self.params]
        if twice := {o for o in names if names.count(o) > 1}:
            raise InputError(f"{twice.pop()} has several --param: give one")
        self.n_failed = 0
        self.searched = [o for o in self.params if o.kind != "fixed"]
        self.fixed = {o.name: o.values[0] for o in self.params if o.kind == "fixed"}
        if clash := {"data", "run", "resume", "seeds", "early_stop", "cache_features"} & set(names):
            raise InputError(f"{clash.pop()} is not for trials: leave it out of --param")
        self.fixed |= {"data": options.data} | ({"cache_features": True} if options.script == "transfer" else {})
        script_options(options.script, **self.fixed)

    def execute(self) -> int:
        "Search, show, and train the winner; the exit code. Raises `InputError`."
        o = self.options
        self.run = Run(o.resume or o.run, "sweep", bool(o.resume))
        try:
            self.folder = self.run.folder / "trials"
            self.folder.mkdir(exist_ok=True)
            self.check_asked()
            images = load_images(self.fixed["data"], self.fixed.get("size", 32))  # decoded once, not by every trial
            self.check_found(data_line(images))
            done = self.finished()
            if done:
                print(f"Finished already: {len(done)} of {o.trials} trials.", flush=True)
            if len(done) < o.trials:
                self.search(done)
            trials = self.ranked(self.finished())
            if not trials:
                raise InputError("no trial came to an end: look at what they printed above")
            self.write(trials)
            return self.train_winner(self.winner(trials)) or int(self.n_failed > 0)
        except InputError:
            if not (self.run.folder / "trials").exists() or not self.finished():
                self.run.discard()
            raise
        finally:
            if self.run.folder.exists():
                self.run.release()

    def check_asked(self) -> None:
        "A sweep that goes on must search the same. Raises `InputError`."
        for name in ("script", "param", "data") if self.before else ():
            if self.before.get(name) != getattr(self.options, name):
                raise InputError(f"{self.run.folder} was begun with --{name} {self.before.get(name)}: give the same")
        self.run.write_json("config.json", {**self.before, **vars(self.options)})

    def check_found(self, found: str) -> None:
        "And on the same images, which `auto` and a path may come to have changed. Raises `InputError`."
        if (before := self.before.get("found", found)) != found:
            raise InputError(f"{self.run.folder} was begun on {before}, and {self.options.data} is now {found}")
        self.run.write_json("config.json", {**vars(self.options), "found": found})

    def finished(self) -> list[dict]:
        "All trials that have come to an end. Damaged files are renamed, and other trials run in their place."
        res = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                res.append(self.read_trial(path))
            except (ValueError, KeyError, TypeError):
                kept = path.rename(path.with_suffix(".damaged"))
                print(f"{path} is damaged and left out: it is now {kept.name}.", flush=True)
        return res

    def read_trial(self, path: Path) -> dict:
        "What `KeepTrials` wrote. Raises ValueError, KeyError or TypeError where it is damaged."
        trial = json.loads(path.read_text())
        config = {o.name: trial["config"][o.name] for o in self.searched}
        return {"config": config, "accuracy": float(trial["accuracy"]), "epochs": int(trial["epochs"])}

    def search(self, done: list[dict]) -> None:
        "Run the trials that are missing."
        o = self.options
        gpus = torch.cuda.device_count()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is said below, in one line
        ray.init(address=o.address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            points = [trial["config"] for trial in done] or None
            rewards = [trial["accuracy"] for trial in done] or None
            # known trials are points of the search, to which Ray gives no trial; the same seed would propose them again
            search = OptunaSearch(
                metric="accuracy",
                mode="max",
                seed=o.seed + len(done),
                points_to_evaluate=points,
                evaluated_rewards=rewards,
            )
            trainable = tune.with_parameters(train_trial, script=o.script, fixed=self.fixed)
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1, "gpu": min(1, gpus) / o.per_gpu if gpus else 0}),
                param_space={p.name: p.space() for p in self.searched},
                tune_config=tune.TuneConfig(
                    metric="accuracy", mode="max", num_samples=o.trials - len(done), search_alg=search,
                    scheduler=ASHAScheduler(time_attr="epoch", max_t=self.most_epochs(), grace_period=1),
                ),
                run_config=tune.RunConfig(
                    name="ray", storage_path=str(self.run.folder.absolute()), verbose=0,
                    callbacks=[KeepTrials(self.folder)],
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
        longest = {p.name: max(p.values) for p in self.searched if p.name in ("epochs", "unfreeze_epochs")}
        return planned_epochs(self.trial_options(longest))

    def trial_options(self, config: dict) -> SimpleNamespace:
        "All options of the trial that has `config`."
        return script_options(self.options.script, **{**self.fixed, **config})

    def is_whole(self, trial: dict) -> bool:
        "Whether ASHA has let the trial come to its end: one that it ended early says little about a whole training."
        return trial["epochs"] >= planned_epochs(self.trial_options(trial["config"]))

    def ranked(self, trials: list[dict]) -> list[dict]:
        "Best first, and what ASHA ended early last."
        return sorted(trials, key=lambda trial: (not self.is_whole(trial), -trial["accuracy"]))

    def write(self, trials: list[dict]) -> None:
        "sweep.csv, sweep.png, and the table on the screen."
        names = [p.name for p in self.searched]
        rows = [[*(trial["config"][name] for name in names), trial["epochs"], trial["accuracy"]] for trial in trials]
        header = [*names, "epochs", "held_out_accuracy"]

        def write_csv(tmp: Path) -> None:
            with tmp.open("w", newline="") as out:
                csv.writer(out).writerows([header, *rows])

        write_atomically(self.run.folder / "sweep.csv", write_csv)
        whole = [self.is_whole(trial) for trial in trials]
        self.run.write_figure("sweep.png", plot_sweep(trials, whole, self.searched, self.options.script))
        print("  ".join(f"{o:<16}" for o in header))
        for row in rows:
            print("  ".join(f"{f'{o:.4g}' if isinstance(o, float) else o!s:<16}" for o in row), flush=True)

    def winner(self, trials: list[dict]) -> dict:
        "The best of `trials`, sorted; among equals the one that `winner/` has been trained for."
        first = (self.is_whole(trials[0]), trials[0]["accuracy"])
        best = [trial for trial in trials if (self.is_whole(trial), trial["accuracy"]) == first]
        return next((trial for trial in best if was_asked(self.run.folder / "winner", trial["config"])), best[0])

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
        code = train_from_options(self.options.script, options)[0]
        if code == 0:
            shutil.rmtree(before, ignore_errors=True)
        return code


def asked_before(
    folder: str,  # of a sweep
) -> dict:
    "The options that it was begun with. Raises `InputError` where there is none."
    try:
        before = json.loads((Path(folder) / "config.json").read_text())
        if not before["param"]:
            raise ValueError("it has no param")
        return before
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no sweep to go on with ({error})") from error


def was_asked(
    folder: Path,  # of a run
    config: dict,  # options
) -> bool:
    "Whether the run in `folder` was begun with these options."
    try:
        asked = json.loads((folder / "config.json").read_text())["asked"]
        return config.items() <= asked.items()
    except (OSError, ValueError, KeyError):
        return False


def plot_sweep(
    trials: list[dict],  # config, accuracy and epochs of each
    whole: list[bool],  # whether each was trained to its end
    params: list[Param],  # that were searched
    title: str = "",  # of the figure
) -> Figure:
    "Held-out accuracy against each parameter; trials that ASHA ended early are hollow."
    fig = Figure(figsize=(4 * len(params) + 0.5, 3.6), layout="constrained")
    for ax, param in zip(fig.subplots(1, len(params), sharey=True, squeeze=False)[0], params):
        labels = [str(o) for o in param.values] if param.kind == "choice" else []
        for trial, in_full in zip(trials, whole):
            value = trial["config"][param.name]
            x = labels.index(str(value)) if labels else value
            ax.plot(x, trial["accuracy"], "o", color="C0", fillstyle="full" if in_full else "none")
        if labels:
            ax.set_xticks(range(len(labels)), labels)
            ax.margins(x=0.3)
        if param.kind == "loguniform":
            ax.set_xscale("log")
            ax.tick_params(axis="x", which="both", rotation=45)
        ax.set_xlabel(param.name)
        ax.grid(alpha=0.3)
    fig.axes[0].set_ylabel("accuracy on held-out images")
    fig.suptitle(f"{title}: {len(trials)} trials (hollow: ended early)", fontsize="medium")
    return fig
