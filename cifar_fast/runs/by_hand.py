"""A Learner that was trained by hand gets the folder and the report of a run."""

from collections.abc import Sequence
from pathlib import Path

from fastai.learner import Learner

from cifar_fast.analysis.charts import History
from cifar_fast.data.loaders import TensorDL
from cifar_fast.errors import InputError
from cifar_fast.progress import say
from cifar_fast.runs.facts import run_facts
from cifar_fast.runs.folder import Run, plain
from cifar_fast.runs.results import Runs
from cifar_fast.runs.test_sets import read_second_tests


def _last_fit(learn: Learner, name: str) -> tuple[History, list[float]]:
    "The history of the last fit, and the loss of each batch; empty where it is not known."
    try:
        history = History.of(learn)
    except (InputError, AttributeError):  # forgotten, or a Learner without Recorder
        say("How it was trained is not known any more: the report has no curves.")
        return History(name, []), []
    return history, [float(o) for o in vars(learn).get("last_fit", learn.recorder).losses]


def write_run(
    learn: Learner,  # any fastai Learner on DataLoaders of this package, fitted however
    folder: str | Path,  # to write: new, or empty
    name: str = "by hand",  # of the experiment
    seed: int | None = None,  # that it was trained from; None: not known
    train_seconds: float | None = None,  # of training alone; None: not known
    also_test: Sequence[str | Path] = (),  # further test sets, as `--also-test` takes them
) -> Runs:
    """Test `learn` and write what a run leaves: history of its last fit, predictions, figures, model and report.

    What is not known is said to be unknown. Raises `InputError` for what is no Learner, for
    other DataLoaders, or for a folder that is not empty.
    """
    if not isinstance(learn, Learner):
        raise InputError(f"write_run takes a fastai Learner, and this is a {type(learn).__name__}: give one")
    if not isinstance(learn.dls.valid, TensorDL) or not len(learn.dls.valid_ds):
        advice = "make them with cifar_dls, or of an ImageSet of your arrays with image_dls"
        raise InputError(f"write_run tests on DataLoaders of this package: {advice}")
    tested = learn.dls.valid_ds
    levels = getattr(tested, "levels", None)  # which an older export.pkl lacks
    tests = read_second_tests(also_test, learn.dls.vocab, tested.x.shape[-1], tested.y.cpu(), levels)
    run, path = Run(folder, advice="give another folder"), learn.path
    try:
        history, losses = _last_fit(learn, name)
        for i, row in enumerate(history.epochs):
            batches = list(zip(history.lrs, losses)) if i == len(history.epochs) - 1 else []
            run.add_epoch({**{k: plain(o) for k, o in row.items()}, "stage": "train"}, batches)
        facts = run_facts(learn, name, seed)
        settings = {name: facts[name] for name in ("bs", "size", "precision")}
        identity = {"name": name, "file": None, "source": None, "images": None}
        run.write_json("config.json", {**settings, "asked": {}, "defaults": {}, "experiment": identity})
        trained = {"epochs": len(history.epochs), "train_accuracy": None, "train_seconds": train_seconds}
        unknown = {"opt": None, "lr": None, "schedule": None, "images_per_second": None, "choice": {}}
        run.finish(learn, {**facts, **trained, **unknown, "interrupted": False}, tests)
    except BaseException:
        run.forget_history()
        run.discard()  # so that it can be called again
        raise
    finally:
        learn.path = path
        run.release()
    runs = Runs.read(run.folder)
    runs.learn = learn
    return runs
