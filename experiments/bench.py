"""Time this toolkit against what users would otherwise run: one table, and bench.json.

Contenders of a row get the same images, batch size and network, and take turns in one process; the median counts.
"""

from typing import Literal

from cifar_fast.cli import command
from cifar_fast.options import amount, count

ROWS = (
    *("custom", "augmented", "finetune", "predict", "transfer32", "transfer128", "frozen"),
    *("startup", "decoding", "single", "shipped", "accuracy"),
)


def run_soak(trials: int) -> None:
    "Print a line for each of the long trials."
    import tempfile
    from pathlib import Path

    from bench.soak import Soak

    with tempfile.TemporaryDirectory(prefix="soak-") as tmp:
        for line in Soak(Path(tmp), trials, trials * 20, trials * 4).all():
            print(f"- {line}", flush=True)


@command
def main(
    data: str = "cifar10",  # cifar10, digits, or the path of an archive or a folder
    weights: str = "none",  # of ResNet-18: imagenet, none or a path; speeds do not depend on it
    arch: str = "squeezenet1_1",  # of the row frozen: a network of torchvision
    rows: str = ",".join(ROWS),  # what to measure, comma-separated
    bs: count = 64,  # training images a batch
    images: count = 10_000,  # training images of a timed epoch, and test images
    repeats: count = 3,  # turns of each contender
    seeds: count = 5,  # of the row accuracy
    workers: amount = 0,  # of the peers' DataLoaders; 0: fastai's default, one a core
    quick: bool = False,  # 2,000 images, small rows, 3 minutes
    device: str = "auto",  # auto, cpu or cuda
    compile: bool = False,  # torch.compile for ours and for the compute limit
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",  # of ours beside fp32
    soak: bool = False,  # in place of timings: kills, damaged files, failing writes, memory (a quarter of an hour)
    trials: count = 50,  # of the soak's kills; twenty times as many damaged files, four times as many fits
    out: str = "bench.json",  # file to write
):
    "Time this toolkit against stock fastai, a plain PyTorch script and the compute limit."
    if soak:
        run_soak(trials)
        return
    from bench.timings import Benchmark
    from cifar_fast.errors import InputError

    if unknown := set(rows.split(",")) - set(ROWS):
        raise InputError(f"there is no row {unknown.pop()!r}: give some of {','.join(ROWS)}")
    if quick:
        images, repeats, seeds = min(images, 2_000), min(repeats, 3), 1
        rows = ",".join(o for o in rows.split(",") if o not in ("transfer128", "frozen", "accuracy"))
    bench = Benchmark(data, weights, arch, bs, images, repeats, seeds, workers, device, compile, precision, out)
    for row in rows.split(","):
        getattr(bench, row)()
    print(bench.table())
