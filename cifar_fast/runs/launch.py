"""Starting an experiment: one seed, several or folds; a new run or one that was stopped."""

from functools import partial
from pathlib import Path
from statistics import stdev
from types import SimpleNamespace
from typing import TYPE_CHECKING

from fastai.learner import Learner
from fastai.torch_core import num_distrib
from fastcore.basics import chunked

from cifar_fast.analysis.predictions import write_predictions
from cifar_fast.data.image_set import ImageSet, fold_indices
from cifar_fast.device import be_deterministic, parse_device
from cifar_fast.errors import InputError
from cifar_fast.files import FOLD_FOLDER, SEED_FOLDER, numbered_folders, read_json, stored
from cifar_fast.options import MAY_MOVE, OF_A_PLACE, OF_A_START, check_seeds
from cifar_fast.progress import be_quiet, quiet_as_before, say, say_whose
from cifar_fast.runs.compare import write_comparison
from cifar_fast.runs.folder import Run, check_begun
from cifar_fast.runs.folds import OUT_OF_FOLD, out_of_fold
from cifar_fast.runs.one_seed import OneSeed, images_from_options, run_config, run_identity
from cifar_fast.runs.page import Answer, write_page
from cifar_fast.runs.report import warnings_of
from cifar_fast.runs.results import Runs, percent
from cifar_fast.runs.trackers import TRACKERS, find_trackers
from cifar_fast.training.turns import Turns

if TYPE_CHECKING:
    from cifar_fast.experiment import Experiment


class Series:
    """Several trainings of one experiment: a run folder for each, a .json about all, and a page.

    Each kind says the `numbers` of its trainings, what is a `training`'s own, and what to `report`.
    """

    about: str  # name of the .json file
    part: str  # of a training, how its folder's name begins

    def __init__(
        self,
        experiment: "Experiment",
        options: SimpleNamespace,  # of the experiment; `seeds` says how many
        identity: dict | None = None,  # of `run_identity`, where the seeds go on
    ):
        self.experiment, self.options, self.identity = experiment, options, identity
        self.run = Run(options.run, experiment.name, bool(options.resume))
        self.learn: Learner | None = None

    def execute(self) -> int:
        "Train all that are not done; the exit code. Raises `InputError`. Where nothing was learnt no folder is left."
        try:
            self.images = images_from_options(self.options)
            self.identity = run_identity(self.experiment, self.images, self.identity)
            self.run.write_json("config.json", run_config(self.experiment, self.options, self.identity))
            if code := self.train_all():
                return code
            self.report(Runs.read(self.run.folder))
        except Exception:
            if not numbered_folders(self.run.folder, self.part):
                self.run.discard()
            raise
        finally:
            self.run.release()
        return 0

    def train_all(self) -> int:
        "Train all that are not done, one after another or so many at once; the first exit code that is not 0."
        left = [o for o in self.numbers() if not is_finished(self.folder(o))]
        for some in chunked(left, self.options.at_once):
            if len(some) == 1:
                codes = [self.train(some[0])]
            else:
                be_quiet(self.options.quiet)
                turns = Turns(len(some), device := parse_device(self.options.device))
                slow = ", on a CPU no faster than one after another" if device.type == "cpu" else ""
                say(f"{len(some)} trainings at once{slow}: {self.part}{some[0]} to {self.part}{some[-1]}")
                codes = turns.do([partial(self.train, o, turns) for o in some])
            if failed := [130 if o is None else o for o in codes if o != 0]:
                return failed[0]
        return 0

    def folder(self, number: int) -> Path:
        "Of a training."
        return self.run.folder / f"{self.part}{number}"

    def train(
        self,
        number: int,
        turns: Turns | None = None,  # that it takes with others
    ) -> int:
        "Do one training, or go on with it; the exit code."
        folder = self.folder(number)
        if turns:
            say_whose(folder.name)
        own, images, identity = self.training(number)
        own |= {"seeds": 1, "folds": 0, "run": str(folder), "resume": str(folder) if folder.exists() else None}
        options = SimpleNamespace(**{**vars(self.options), **own})
        training = OneSeed(self.experiment, options, images, identity, turns)
        code = training.execute()
        self.learn = training.learn
        return code


class SeedSeries(Series):
    "The same training from several seeds."

    about, part = "seeds.json", SEED_FOLDER

    def numbers(self) -> range:
        "The seeds."
        return range(self.options.seed, self.options.seed + self.options.seeds)

    def training(self, number: int) -> tuple[dict, ImageSet, dict]:
        "Options, images and identity: the same images, another seed."
        return {"seed": number}, self.images, self.identity

    def report(self, runs: Runs) -> None:
        "Mean, interval, and the page of the seeds side by side."
        values, mean, (low, high) = runs.accuracies, runs.accuracy, runs.interval
        result = {"accuracies": values, "mean": mean, "deviation": stdev(values), "interval": [low, high]}
        self.run.write_json(self.about, result)
        title = f"{runs.about}, {len(values)} seeds"
        write_comparison([runs], self.run.folder / "report.html", title)
        print(f"{title}: test accuracy {mean:.2%}, deviation {stdev(values):.2%}, 95 % interval "
              f"{low:.2%} to {high:.2%} -> {self.run.folder}", flush=True)  # fmt: skip


class FoldSeries(Series):
    "A training without each part of the training images, which it is tested on; the test images have no part in it."

    about, part = "folds.json", FOLD_FOLDER

    def numbers(self) -> range:
        "Of the folds."
        fold_indices(self.images.train_y, self.options.folds)  # refuses too many, before the first is trained
        return range(1, self.options.folds + 1)

    def training(self, number: int) -> tuple[dict, ImageSet, dict]:
        "Training images alone, other ones to test on in each fold; a fold alone is not gone on with as a whole run."
        images = self.images.fold(number, self.options.folds)
        return {}, images, run_identity(self.experiment, images)

    def report(self, runs: Runs) -> None:
        "Predictions of every training image by the model that was trained without it; mean and interval."
        preds = out_of_fold(runs, self.images.train_y)
        write_predictions(self.run.folder / OUT_OF_FOLD, preds, self.identity["images"])
        mean, interval = runs.accuracy, runs.interval
        self.run.write_json(self.about, {"accuracies": runs.accuracies, "mean": mean, "interval": interval})
        title = f"{runs.about}, {len(runs.runs)} folds"
        line = (
            f"accuracy on held-out training images {mean:.2%}, 95 % interval {interval[0]:.2%} to {interval[1]:.2%} "
            "(folds share training images: the interval is Nadeau and Bengio's corrected one)"
        )
        rows = [[o.name, percent(o.accuracy, 2), percent(o.metrics["calibration_error"])]
                for o in runs.runs]  # fmt: skip
        answer = Answer("folds", "Folds", [line], ["fold", "accuracy", "calibration error"], rows)
        write_page(self.run.folder / "report.html", "evidence.html", title,
                   warnings=warnings_of(runs.metrics), answers=[answer])  # fmt: skip
        print(f"{title}: {line} -> {self.run.folder}", flush=True)


def is_finished(folder: Path) -> bool:
    "Whether a run's page, or the seeds' page, which are written last, are there and speak of whole trainings."
    if not (folder / "report.html").exists():
        return False
    try:
        for series in (SeedSeries, FoldSeries):
            if (folder / series.about).exists():
                n = len(read_json(folder / series.about)["accuracies"])
                return sum(map(is_finished, numbered_folders(folder, series.part))) == n
        return not read_json(folder / "metrics.json")["interrupted"]
    except (OSError, ValueError, KeyError):
        return False


def resumed_options(
    experiment: "Experiment",
    folder: str,  # of the run
    options: SimpleNamespace,  # as given now
    given: set[str],  # names of those that were given
) -> tuple[SimpleNamespace, dict]:  # the options it was begun with, and its identity
    "What the run in `folder` was begun with. Raises `InputError` where there is none of this experiment."
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is no folder, so there is no run to go on with: give --resume the folder of one")
    if options.run and Path(options.run) != Path(folder):
        raise InputError(f"--resume goes on in {folder}: leave --run out")
    try:
        config = read_json(Path(folder) / "config.json")
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
    free = {*OF_A_START, *OF_A_PLACE, *MAY_MOVE}
    asked_now = {o: getattr(options, o) for o in given - free}
    check_begun(folder, stored(vars(begun)), stored(asked_now), "leave it out")  # so that NaN is NaN
    for name in given & ({*OF_A_PLACE, *MAY_MOVE} - {"run"}):
        setattr(begun, name, getattr(options, name))
    return begun, before


def check_series(
    options: SimpleNamespace,  # all of an experiment's
) -> None:
    "Raises `InputError` where what is asked of several seeds or folds does not go together."
    o = options
    check_seeds(o.seed, o.seeds)
    if (o.seeds > 1 or o.folds) and num_distrib() > 1:
        raise InputError("many processes train one seed: leave out --seeds and --folds, or accelerate launch")
    if o.folds == 1 or (o.folds and o.seeds > 1):
        raise InputError("--folds takes 2 or more, and no --seeds beside it: give one of the two")
    if o.folds and o.also_test:
        raise InputError("--folds tests on training images: leave --also-test out, and ask a run on all of them")
    if o.at_once == 1:
        return
    if not o.folds and o.seeds == 1:
        raise InputError("--at-once is for --seeds or --folds: give one of them, or leave it out")
    if alone := [name for name, kind in TRACKERS.items() if kind in find_trackers(o.track) and not kind.several]:
        raise InputError(f"{alone[0]} logs one training at a time: leave --at-once out, or --track {alone[0]}")
    if parse_device(o.device).type not in ("cuda", "cpu"):
        raise InputError("--at-once is for CUDA, and works on a CPU: leave it out, or give --device cuda")


def train(
    experiment: "Experiment",
    options: SimpleNamespace,  # all of the experiment's, from `Experiment.options`
    given: set[str] = frozenset(),  # names of the options that were given, for a run that goes on
) -> tuple[int, Path, Learner | None]:  # exit code, run folder, and the Learner where one was trained
    "One training, or one for each seed or fold. Raises `InputError`."
    before: dict = {}
    if options.anyway and not options.resume:
        raise InputError("--anyway is for --resume: give that too, or leave it out")
    if options.resume:
        options, before = resumed_options(experiment, options.resume, options, set(given))
        if is_finished(Path(options.run)):
            print(f"{options.run} is finished already.", flush=True)
            return 0, Path(options.run), None
    check_series(options)
    if options.deterministic:
        be_deterministic()
    work = FoldSeries if options.folds else SeedSeries if options.seeds > 1 else OneSeed
    with quiet_as_before():
        made = work(experiment, options, identity=before)
        return made.execute(), made.run.folder, made.learn
