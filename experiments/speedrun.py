"""Train by a record recipe against the clock: to 90, 94 or 96 % on CIFAR-10."""

from types import SimpleNamespace
from typing import Literal

from cifar_fast.cli import command
from cifar_fast.options import Repeated, amount, count, rate, seed_number


@command
def main(
    target: Literal[90, 94, 96] = 94,  # percent that the recipe is made for
    data: str = "auto",  # images: auto, cifar10, digits, or the path of an archive or a folder of images
    runs: count = 1,  # runs that count, from `seed` on
    change: Repeated = None,  # NAME=VALUE of the recipe, as epochs=3 or hard=1,0.5
    peer: str | None = None,  # in turns with ours: unchanged, recipe (airbench's, in a plain loop) or its checkout
    peer_epochs: rate = 8.0,  # epochs of --peer recipe; fractions too
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",  # auto: bf16 where it is faster
    compile: Literal["auto", "on", "off"] = "auto",  # torch.compile; auto: on a GPU
    images: amount = 0,  # training images to use, each class in its share; 0: all
    test_images: amount = 0,  # test images to use; 0: all
    seed: seed_number = 0,  # of the first run's weights and batches
    device: str = "auto",  # auto, cpu, cuda or another torch device
    run: str | None = None,  # folder to write; default: runs/speedrun-<date>-<time>
):
    "Train by a record recipe, timed, as often as asked, and leave a run folder."
    options = SimpleNamespace(**locals())
    from bench.speedrun import Speedrun

    Speedrun(options).execute()
