"""Each training idea against the plain training, over seeds: what it gains, and what it costs.

`python experiments/bench/ideas.py --data cifar10` prints the table of docs/schedules.md. Runs that are there already
are not made again.
"""

from pathlib import Path

from cifar_fast.cli import command
from cifar_fast.options import amount, count

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


def _row(name: str, plain, found) -> str:
    from cifar_fast.runs.compare import compare

    result = compare(plain, found)
    gain = f"{result.difference * 100:+.1f} ({result.low * 100:+.1f} to {result.high * 100:+.1f})"
    return f"| `--{name}` | {gain} | {result.p:.2g} | {result.verdict} | {_seconds(found) / _seconds(plain):.2f}x |"


def _seconds(runs) -> float:
    return sum(o.metrics["train_seconds"] for o in runs.runs)


@command
def main(
    data: str = "cifar10",  # cifar10, digits, or the path of images
    epochs: count = 5,  # of each training
    seeds: count = 3,  # of each idea
    images: amount = 10_000,  # training images; 0: all
    test_images: amount = 0,  # test images; 0: all
    only: str = "",  # ideas to try, as in the table, with semicolons between; default: all
    device: str = "auto",  # auto, cpu, cuda or another torch device
    run: str = "runs/ideas",  # folder of the runs
):
    "Train the custom CNN plainly and with each idea, and print what each gains."
    from cifar_fast.baselines import custom
    from cifar_fast.errors import InputError
    from cifar_fast.runs.launch import is_finished
    from cifar_fast.runs.results import Runs

    asked = [o.strip() for o in only.split(";") if o.strip()] or list(IDEAS)
    if unknown := set(asked) - set(IDEAS):
        raise InputError(f"there is no idea {unknown.pop()!r}: give some of {'; '.join(IDEAS)}")

    def trained(name: str, options: dict) -> Runs:
        folder = Path(run) / name.replace(" ", "-").replace(",", "")
        if is_finished(folder):
            return Runs.read(folder)
        if folder.exists():
            return custom.run(resume=str(folder))
        common = dict(data=data, epochs=epochs, seeds=seeds, images=images, test_images=test_images, device=device)
        return custom.run(**{**common, **options}, quiet=True, run=str(folder))

    plain = trained("plain", {})
    print(f"plain: {plain.accuracy_text}, {_seconds(plain):.1f} s of training\n")
    print("| idea | gain in points, 95 % interval | p | verdict | time |\n|---|---|---|---|---|")
    for name in asked:
        print(_row(name, plain, trained(name, IDEAS[name])), flush=True)
