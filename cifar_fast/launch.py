"""Starting a training script's work: one seed or several, a new run or one that was stopped."""

import json
import sys
from pathlib import Path
from statistics import stdev
from types import SimpleNamespace

from fastai.torch_core import num_distrib

from cifar_fast.callbacks import AdaptiveGradientClip
from cifar_fast.compare import SEED_FOLDER, Method, seed_folders, write_comparison
from cifar_fast.device import be_deterministic
from cifar_fast.errors import InputError
from cifar_fast.experiment import Experiment, MakeLearner
from cifar_fast.learner import custom_learner, transfer_learner
from cifar_fast.options import check_seeds, script_options
from cifar_fast.run import Run
from cifar_fast.stats import mean_interval, share_bounds


def custom_from_options(o: SimpleNamespace) -> MakeLearner:
    "What custom.py trains, as (dls, opt) -> Learner."

    def make_learner(dls, opt):
        return custom_learner(
            dls, o.size, opt, precision=o.precision, compile=o.compile, n_convs=o.convs, width=o.width,
            n_dense=o.dense, conv_dropout=o.conv_dropout, dropout=o.dropout, logit_dropout=o.logit_dropout,
            bn=not o.no_bn, cbs=AdaptiveGradientClip(o.agc) if o.agc else None,
        )  # fmt: skip

    return make_learner


def transfer_from_options(o: SimpleNamespace) -> MakeLearner:
    "What transfer.py trains; the Learners that one of these makes share their frozen body's features."
    features, weights = {}, o.weights

    def make_learner(dls, opt):
        nonlocal weights
        learn = transfer_learner(
            dls, o.arch, weights, o.head, o.size, o.frozen_bn, features, o.cache_features, opt,
            precision=o.precision, compile=o.compile,
        )  # fmt: skip
        weights = "none" if learn.weights == "none" else weights  # what could not be downloaded is not tried again
        return learn

    return make_learner


TRAININGS = {"custom": custom_from_options, "transfer": transfer_from_options}


class SeedSeries:
    "The same training from several seeds: a run folder for each, `seeds.json` and a page about all."

    def __init__(
        self,
        name: str,  # of the script
        options: SimpleNamespace,  # of the script; `seeds` says how many
        make_learner: MakeLearner,  # (dls, opt) -> Learner
    ):
        self.name, self.options, self.make_learner = name, options, make_learner
        self.run = Run(options.run, name, bool(options.resume))

    def execute(self) -> int:
        "Train all that are not done; the script's exit code. Raises `InputError`."
        o = self.options
        asked = {k: v for k, v in vars(o).items() if k != "resume"}
        try:
            self.run.write_json("config.json", {**asked, "asked": asked})
            for seed in range(o.seed, o.seed + o.seeds):
                if code := self.train(seed):
                    return code
            self.report()
        except InputError:
            if not seed_folders(self.run.folder):
                self.run.discard()
            raise
        finally:
            self.run.release()
        return 0

    def train(self, seed: int) -> int:
        "Train one seed, or go on with it."
        folder = self.run.folder / f"{SEED_FOLDER}{seed}"
        if is_finished(folder):
            return 0
        own = {"seed": seed, "seeds": 1, "run": str(folder), "resume": str(folder) if folder.exists() else None}
        return Experiment(self.name, SimpleNamespace(**{**vars(self.options), **own}), self.make_learner).execute()

    def report(self) -> None:
        "Write what came out, and say it."
        method = Method.read(self.run.folder)
        values = method.accuracies
        mean, half = mean_interval(values)
        low, high = share_bounds(mean, half)
        result = {
            "accuracies": values,
            "mean": mean,
            "deviation": stdev(values),
            "interval": [low, high],
        }
        self.run.write_json("seeds.json", result)
        title = f"{method.first.metrics['title'].rpartition(', seed')[0]}, {len(values)} seeds"
        write_comparison([method], self.run.folder / "report.html", title)
        print(f"{title}: test accuracy {mean:.2%}, deviation {stdev(values):.2%}, 95 % interval "
              f"{low:.2%} to {high:.2%} -> {self.run.folder}", flush=True)  # fmt: skip


def is_finished(folder: Path) -> bool:
    "Whether a run's page, or the seeds' page, which are written last, are there and speak of whole trainings."
    if not (folder / "report.html").exists():
        return False
    try:
        if (folder / "seeds.json").exists():
            n = len(json.loads((folder / "seeds.json").read_text())["accuracies"])
            return sum(map(is_finished, seed_folders(folder))) == n
        return not json.loads((folder / "metrics.json").read_text())["interrupted"]
    except (OSError, ValueError, KeyError):
        return False


def resumed_options(script: str, folder: str) -> SimpleNamespace:
    "The options that the run in `folder` was begun with. Raises `InputError` where there is none of this script."
    try:
        asked = json.loads((Path(folder) / "config.json").read_text())["asked"]
        return script_options(script, **{**asked, "run": folder, "resume": folder})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no run of {script}.py to go on with ({error})") from error


def train_from_options(
    script: str,  # custom or transfer
    options: SimpleNamespace,  # of the script, from `options.script_options`
    make_learner: MakeLearner | None = None,  # None: what the script trains
) -> tuple[int, Path]:  # exit code and run folder
    "One training, or one for each seed. Raises `InputError`."
    if options.resume:
        options = resumed_options(script, options.resume)
        if is_finished(Path(options.run)):
            print(f"{options.run} is finished already.", flush=True)
            return 0, Path(options.run)
    check_seeds(options.seed, options.seeds)
    if options.seeds > 1 and num_distrib() > 1:
        raise InputError("many processes train one seed: leave --seeds out, or train without accelerate launch")
    if options.deterministic:
        be_deterministic()
    work = SeedSeries if options.seeds > 1 else Experiment
    experiment = work(script, options, make_learner or TRAININGS[script](options))
    return experiment.execute(), experiment.run.folder


def run_experiment(script: str, options: dict) -> None:
    "Do a script's work and end the process with its exit code."
    sys.exit(train_from_options(script, SimpleNamespace(**options))[0])
