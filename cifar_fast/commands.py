"""What scripts do, each a function whose parameters are its options; heavy imports stand inside.

`cifar-fast NAME` and `python experiments/NAME.py` are the same.
"""

import sys
from types import SimpleNamespace
from typing import Literal

from cifar_fast.cli import command, exit_codes
from cifar_fast.errors import InputError
from cifar_fast.options import Positional, Repeated, amount, count, seed_number
from cifar_fast.text import did_you_mean


@command
def sweep(
    experiment: Positional = None,  # custom, transfer, record, file.py or file.py:name
    script: str = "custom",  # the same, as an option
    param: Repeated = None,  # try NAME=loguniform(a,b), uniform(a,b), randint(a,b) or choice(x,y); fix NAME=value
    data: str = "auto",  # images: auto, cifar10, digits, or the path of an archive or a folder of images
    labels: str | None = None,  # csv or jsonl that names the files of --data and their classes
    trials: count = None,  # trials in all; default: 16, or with --resume as many as before
    address: str | None = None,  # of a Ray cluster; default: this machine
    per_gpu: count = None,  # trials that share a GPU; default: 1, or with --resume as before
    seed: seed_number = None,  # of the search; default: 0, or with --resume as before
    run: str | None = None,  # folder to write; default: runs/sweep-<date>-<time>
    resume: str | None = None,  # folder of a stopped sweep: go on; --data and --labels may name what has moved
):
    "Search options of an experiment on held-out images, and leave a table, a picture and the winner's run folder."
    asked = {name: o for name, o in locals().items() if name not in ("experiment", "script")}
    from cifar_fast.experiment import load_experiment
    from cifar_fast.runs.sweep import Sweep, of_sweep, sweep_options

    name = experiment or (of_sweep(resume) if resume else script)
    return Sweep(load_experiment(name), sweep_options(**asked)).execute()


@command
def compare(
    *runs: str,  # run folders, or folders that --seeds has filled; none: list all runs
    out: str | None = None,  # page to write; default: comparison.html, or runs.html
    folder: str = "runs",  # below which to look for runs, where none is named
    sort: Literal["when", "accuracy", "seconds", "name"] = "when",  # of the list
    best: amount = 0,  # list so many with the best accuracy; 0: all
    data: str | None = None,  # list runs on this data set alone
    where: Repeated = None,  # list runs with this option alone, NAME=VALUE
):
    "Put runs side by side, with a verdict on every pair; or list all runs."
    from pathlib import Path

    if not runs:
        from cifar_fast.runs.overview import list_runs, write_overview

        if wrong := [o for o in where or () if "=" not in o]:
            raise InputError(f"--where is {wrong[0]!r}: give NAME=VALUE, as in --where width=256")
        rows = list_runs(folder, sort, best or None, data, dict(o.split("=", 1) for o in where or ()))
        print(f"{rows}\n-> {write_overview(rows, Path(out or 'runs.html'))}")
        return
    from cifar_fast.runs.compare import comparison_text, read_methods, write_comparison

    methods = read_methods(list(dict.fromkeys(runs)))
    page = write_comparison(methods, Path(out or "comparison.html"))
    print(f"{comparison_text(methods)}\n-> {page}")


@command
def evaluate(
    run: str,  # folder of a finished run, or one that --seeds has filled
    *paths: str,  # further test sets: CIFAR-10.1, CIFAR-10-C, CIFAR-10H as .npy, or folders of images
    shift: bool = False,  # change the test images in 15 ways, five severities each
    baseline: str | None = None,  # folder of another run, to compare the shift with
    confidence: bool = False,  # how far its probabilities can be trusted, and on what share of images it is right
    held_out: str | None = None,  # folder of the same training with --folds: what held-out images are needed for
    ood: str | None = None,  # images of no class, to tell apart: digits, a folder, a .npy, or SVHN's test_32x32.mat
    ensemble: bool = False,  # what all seeds know together
    duplicates: bool = False,  # which test images are among the training images
    neighbours: bool = False,  # which training images are like the mistakes, and a map of the test images
    labels: bool = False,  # which labels of training images look wrong, by cleanlab; needs --held-out
    explain: bool = False,  # where the network looks, by captum
    data: str | None = None,  # where the run's images are now; default: where they were
    device: str = "cpu",  # cpu, cuda or another torch device
):
    "Ask a finished run for more than its test accuracy, and write evidence.html beside it."
    asked = SimpleNamespace(**locals())
    from cifar_fast.runs.evidence import evidence_of

    return evidence_of(asked)


@command
def predict(
    model: str,  # folder of a saved model or of a run with --seeds, or .onnx file
    *images: str,  # image files, and folders to look through
    json: bool = False,  # print JSON: file, label, probability and all probabilities
    csv: bool = False,  # print CSV: file, label, probability
    calibrated: bool = False,  # as sure as the temperature says that evaluate --held-out has found
    device: str = "cpu",  # for a folder's model: cpu, cuda or another torch device
    bs: count = 256,  # images a batch
):
    "Say what is in image files. Unreadable ones are listed at the end, and make the exit code 1."
    from cifar_fast.deploy.predictor import Predictor, find_images
    from cifar_fast.deploy.tables import print_predictions

    if json and csv:
        raise InputError("--json and --csv exclude each other: give one")
    if not images:
        raise InputError("no image is named: give image files or folders")
    files = find_images(images)
    predictor = Predictor(model, device, bs, calibrated)
    return print_predictions(predictor, files, "json" if json else "csv" if csv else "table")


@command
def serve(
    model: str,  # folder of a saved model (a run's model/), or .onnx file
    examples: str | None = None,  # folder of example images; default: examples/ in the model's folder
    host: str = "127.0.0.1",  # address to listen on; 0.0.0.0 lets others in
    port: count = 7860,  # port to listen on
    max_upload: count = 10,  # megabytes a picture may have
):
    "Serve a page on which a saved model can be tried, until Ctrl-C."
    from cifar_fast.deploy.app import build_app
    from cifar_fast.deploy.app import serve as serve_app

    app = build_app(model, examples)
    print(f"http://{host}:{port}", flush=True)
    serve_app(app, host, port, max_upload)


def run(args: list[str]) -> None:
    "`cifar-fast run mixer.py --width 256`: an experiment of a file."
    from cifar_fast.experiment import load_experiment

    with exit_codes():
        if not args or args[0].startswith("-"):
            raise InputError("no experiment is named: cifar-fast run file.py, or file.py:name, then its options")
        made = load_experiment(args[0])
    made.main(args[1:], f"cifar-fast run {args[0]}")


def main() -> None:
    "The console command `cifar-fast`: a job, then its options."
    from cifar_fast import baselines
    from cifar_fast.experiment import experiments_of

    jobs = experiments_of(baselines) | {name: o for name, o in globals().items() if hasattr(o, "main")}
    job, args = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if job == "run":
        run(args)
    elif job in jobs:
        jobs[job].main(args, f"cifar-fast {job}")
    elif job in ("--help", "-h"):
        print("usage: cifar-fast JOB [options]; cifar-fast JOB --help lists them\n")
        about = {**{name: o.__doc__ for name, o in jobs.items()}, "run": run.__doc__}
        print("\n".join(f"  {name:<10} {doc.splitlines()[0]}" for name, doc in about.items()))
    else:
        with exit_codes():
            if job.endswith(".py"):
                raise InputError(f"{job} is no job: cifar-fast run {job} starts the experiment of a file")
            raise InputError(f"there is no job {job!r}{did_you_mean(job, jobs)}: give one of run, {', '.join(jobs)}")
