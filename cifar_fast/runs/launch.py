"""Starting an experiment: one seed or several, a new run or one that was stopped."""

import json
from pathlib import Path
from statistics import stdev
from types import SimpleNamespace
from typing import TYPE_CHECKING

from fastai.learner import Learner
from fastai.torch_core import num_distrib

from cifar_fast.analysis.stats import mean_interval, share_bounds
from cifar_fast.data.formats import ImageSet
from cifar_fast.device import be_deterministic
from cifar_fast.errors import InputError
from cifar_fast.options import OF_A_PLACE, OF_A_START, check_seeds
from cifar_fast.progress import quiet_as_before
from cifar_fast.runs.compare import write_comparison
from cifar_fast.runs.folder import Run, check_begun
from cifar_fast.runs.one_seed import Training, images_from_options, run_identity
from cifar_fast.runs.results import SEED_FOLDER, Runs, seed_folders

if TYPE_CHECKING:
    from cifar_fast.experiment import Experiment


class SeedSeries:
    "The same training from several seeds: a run folder for each, `seeds.json` and a page about all."

    def __init__(
        self,
        experiment: "Experiment",
        options: SimpleNamespace,  # of the experiment; `seeds` says how many
        images: ImageSet | None = None,  # read where they are needed
        identity: dict | None = None,  # of `run_identity`, where the seeds go on
    ):
        self.experiment, self.options, self.images, self.identity = experiment, options, images, identity
        self.run = Run(options.run, experiment.name, bool(options.resume))
        self.learn: Learner | None = None

    def execute(self) -> int:
        "Train all that are not done; the exit code. Raises `InputError`."
        o = self.options
        asked = {k: v for k, v in vars(o).items() if k not in OF_A_START}
        try:
            self.images = images_from_options(o)
            self.identity = run_identity(self.experiment, self.images, self.identity)
            about = {"asked": asked, "defaults": self.experiment.defaults(), "experiment": self.identity}
            self.run.write_json("config.json", {**asked, **about})
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
        options = SimpleNamespace(**{**vars(self.options), **own})
        training = Training(self.experiment, options, self.images, self.identity)
        code = training.execute()
        self.learn = training.learn
        return code

    def report(self) -> None:
        "Write what came out, and say it."
        runs = Runs.read(self.run.folder)
        values = runs.accuracies
        mean, half = mean_interval(values)
        low, high = share_bounds(mean, half)
        result = {"accuracies": values, "mean": mean, "deviation": stdev(values), "interval": [low, high]}
        self.run.write_json("seeds.json", result)
        title = f"{runs.metrics.get('about', runs.name)}, {len(values)} seeds"
        write_comparison([runs], self.run.folder / "report.html", title)
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


def resumed_options(
    experiment: "Experiment",
    folder: str,  # of the run
    options: SimpleNamespace,  # as given now
    given: set[str],  # names of those that were given
) -> tuple[SimpleNamespace, dict]:  # the options it was begun with, and its identity
    "What the run in `folder` was begun with. Raises `InputError` where there is none of this experiment."
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
        asked, before = dict(config["asked"]), config.get("experiment") or {}
        begun = experiment.options(**{**asked, "run": folder, "resume": folder})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no run of {experiment.name} to go on with ({error})") from error
    check_begun(folder, before, {"name": experiment.name}, "resume it with that experiment")
    advice = "--resume with --anyway goes on all the same, and is no longer one experiment"
    if before.get("source") and not options.anyway and before["source"] != experiment.source:
        raise InputError(
            f"the source of {experiment.name} has changed since {folder} was begun: undo that, or {advice}"
        )
    free = {*OF_A_START, *OF_A_PLACE, "data"}
    check_begun(folder, vars(begun), {o: getattr(options, o) for o in given - free}, "leave it out")
    for name in given & {"device", "track", "quiet", "data"}:
        setattr(begun, name, getattr(options, name))
    return begun, before


def train(
    experiment: "Experiment",
    options: SimpleNamespace,  # all of the experiment's, from `Experiment.options`
    given: set[str] = frozenset(),  # names of the options that were given, for a run that goes on
) -> tuple[int, Path, Learner | None]:  # exit code, run folder, and the Learner where one was trained
    "One training, or one for each seed. Raises `InputError`."
    before: dict = {}
    if options.resume:
        options, before = resumed_options(experiment, options.resume, options, set(given))
        if is_finished(Path(options.run)):
            print(f"{options.run} is finished already.", flush=True)
            return 0, Path(options.run), None
    check_seeds(options.seed, options.seeds)
    if options.seeds > 1 and num_distrib() > 1:
        raise InputError("many processes train one seed: leave --seeds out, or train without accelerate launch")
    if options.deterministic:
        be_deterministic()
    work = SeedSeries if options.seeds > 1 else Training
    with quiet_as_before():
        made = work(experiment, options, identity=before)
        return made.execute(), made.run.folder, made.learn
