"""Repeat the article: its four trainings, its claims, why its transfer failed, and its next steps, on one page."""

from typing import Literal

from cifar_fast.cli import command
from cifar_fast.options import amount, count, seed_number


@command
def main(
    data: str = "auto",  # images: auto, cifar10, digits, or the path of an archive or a folder of images
    weights: str = "auto",  # of ResNet-18: auto, imagenet, none, or the path of a state dict
    epochs: count = 30,  # of the four trainings
    study_epochs: count = 10,  # of the transfer study and the next steps
    images: amount = None,  # training images of the study and the next steps; 0: all; default: 10,000, or all
    test_images: amount = None,  # test images of the study and the next steps; 0: all; default: 2,000, or all
    body: str = "",  # another body for the study, a network of torchvision or timm/NAME
    body_weights: str = "auto",  # of that body: auto, imagenet, an entry of torchvision, none, or a path
    seeds: count = 3,  # of each next step
    seed: seed_number = 0,  # the first one
    parts: str = "article,memory,study,next",  # which to do, comma-separated; the first two make the table of claims
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",  # auto: bf16 where it is faster
    device: str = "auto",  # auto, cpu, cuda or another torch device
    run: str = "runs/reproduce",  # folder to write; where it holds a part of this already, the rest is added
):
    "Repeat the article and write one page about it. Interrupted, it goes on where it stopped."
    options = dict(locals())
    for name in ("run", "parts"):
        del options[name]

    from article.reproduction import PARTS, Reproduction
    from cifar_fast.errors import InputError

    names = parts.split(",")
    if unknown := set(names) - set(PARTS):
        raise InputError(f"there is no part {unknown.pop()!r}: give some of {','.join(PARTS)}")
    names = [o for o in PARTS if o in {"article", "memory", *names}]
    return Reproduction(run, names, **options).execute()
