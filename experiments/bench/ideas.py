"""Each training idea against the plain training, over seeds: what it gains, and what it costs.

`python experiments/bench/ideas.py --data cifar10` prints what docs/schedules.md says of the custom CNN, and with
`--experiment record` of the record network. Runs that are there already are not made again.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from cifar_fast.analysis.stats import Comparison, holm
from cifar_fast.baselines import custom, record
from cifar_fast.cli import command
from cifar_fast.errors import InputError
from cifar_fast.experiment import Experiment
from cifar_fast.options import amount, count
from cifar_fast.runs.compare import compare
from cifar_fast.runs.folder import check_begun
from cifar_fast.runs.launch import is_finished
from cifar_fast.runs.results import Runs

IDEAS: dict[str, dict] = {
    "flip random": {"flip": "random"},
    "translate 2": {"translate": 2},
    "cutout 8": {"cutout": 8},
    "erase 0.25": {"erase": 0.25},
    "color 0.2": {"color": 0.2},
    "auto-augment trivial": {"auto_augment": "trivial"},
    "auto-augment rand": {"auto_augment": "rand"},
    "auto-augment augmix": {"auto_augment": "augmix"},
    "mixup 0.4": {"mixup": 0.4},
    "cutmix 0.9": {"cutmix": 0.9},
    "label-smoothing 0.1": {"label_smoothing": 0.1},
    "ema 0.99": {"ema": 0.99},
    "swa 0.25": {"swa": 0.25},
    "wd 0.05": {"wd": 0.05},
    "warmup 1": {"warmup": 1},
    "clip 1": {"clip": 1.0},
    "accumulate 2": {"accumulate": 2},
    "opt adamw": {"opt": "adamw"},
    "opt muon": {"opt": "muon"},
    "opt lion, lr 3e-4": {"opt": "lion", "lr": 3e-4, "lr_end": 2.4e-5},
}

IN_THE_RECIPE = {"translate 2", "label-smoothing 0.1", "wd 0.05", "warmup 1"}  # the record recipes have their own
EXPERIMENTS: dict[str, tuple[Experiment, list[str]]] = {
    "custom": (custom, list(IDEAS)),
    "record": (record, [o for o in IDEAS if o not in IN_THE_RECIPE and not o.startswith("opt ")]),
}


def trained(
    experiment: Experiment,  # of the package
    folder: Path,  # of the run, which is read where it is there already
    options: dict,  # that differ from the experiment's defaults
) -> Runs:
    "The run with these options. Raises `InputError` where one with others is there."
    if not folder.exists():
        return experiment.run(**options, quiet=True, run=str(folder))
    found = Runs.read(folder) if is_finished(folder) else experiment.run(resume=str(folder), quiet=True)
    begun = {**found.first.config, "seeds": len(found.runs)}
    check_begun(folder, begun, {k: o for k, o in options.items() if k not in ("data", "device")})
    return found


def _row(name: str, plain: Runs, found: Runs, result: Comparison, p: float) -> str:
    gain = f"{result.difference * 100:+.1f} ({result.low * 100:+.1f} to {result.high * 100:+.1f})"
    cost = _seconds(found) / _seconds(plain)
    return f"| `--{name}` | {gain} | {p:.2g} | {replace(result, p=p).verdict} | {cost:.2f}x |"


def _seconds(runs: Runs) -> float:
    return sum(o.metrics["train_seconds"] for o in runs.runs)


@command
def main(
    experiment: Literal["custom", "record"] = "custom",  # the custom CNN, or the record recipe for 90 %
    data: str = "cifar10",  # cifar10, digits, or the path of images
    epochs: count = 5,  # of each training
    seeds: count = 3,  # of each idea
    images: amount = 10_000,  # training images; 0: all
    test_images: amount = 0,  # test images; 0: all
    only: str = "",  # ideas to try, as in the table, with semicolons between; default: all
    device: str = "auto",  # auto, cpu, cuda or another torch device
    run: str = "runs/ideas",  # folder of the runs
):
    "Train an experiment plainly and with each idea, and print what each gains."
    made, ideas = EXPERIMENTS[experiment]
    asked = [o.strip() for o in only.split(";") if o.strip()] or ideas
    if unknown := set(asked) - set(ideas):
        raise InputError(f"there is no idea {unknown.pop()!r} for {experiment}: give some of {'; '.join(ideas)}")
    common = dict(data=data, epochs=epochs, seeds=seeds, images=images, test_images=test_images, device=device)
    plain = trained(made, Path(run) / "plain", common)
    found = [trained(made, Path(run) / o.replace(" ", "-").replace(",", ""), common | IDEAS[o]) for o in asked]
    results = [compare(plain, o) for o in found]
    print(f"plain: {plain.accuracy_text}, {_seconds(plain):.1f} s of training\n")
    print("| idea | gain in points, 95 % interval | p, by Holm | verdict | time |\n|---|---|---|---|---|")
    for name, runs, result, p in zip(asked, found, results, holm([o.p for o in results])):
        print(_row(name, plain, runs, result, p))
