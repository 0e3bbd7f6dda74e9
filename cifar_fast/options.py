"""The training scripts' options, checked before anything heavy is imported, and their exit codes.

Nothing here may import torch or fastai: `--help` and a mistyped option answer at once.
"""

import os
import re
import signal
import sys
import warnings
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from types import SimpleNamespace
from typing import Annotated

from fastcore.meta import delegates
from fastcore.script import anno_parser

from cifar_fast.errors import InputError, RunError


def _number(name: str, convert, fits, wanted: str):
    "An argparse type that calls itself `name` in --help and says what is `wanted`."

    def parse(text: str):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    parse.__name__ = name
    return parse


count = _number("count", int, lambda o: o >= 1, "a whole number of at least 1")
amount = _number("amount", int, lambda o: o >= 0, "a whole number of at least 0")
rate = _number("rate", float, lambda o: 0 < o < float("inf"), "a number above 0")
seed_number = _number("seed", int, lambda o: 0 <= o < 2**32, "a whole number from 0 to 4,294,967,295")
share = _number("share", float, lambda o: 0 <= o < 1, "a number of at least 0 and below 1")
pixels = _number("pixels", int, lambda o: 8 <= o <= 1024, "a whole number of pixels from 8 to 1024")


def rate_or_auto(text: str) -> float | str:
    "A learning rate, or `auto`."
    return text if text == "auto" else rate(text)


rate_or_auto.__name__ = "rate|auto"


def check_seeds(
    seed: int,  # the first
    n: int,  # how many follow one another
) -> None:
    "Raises `InputError` where the last is more than random numbers begin with."
    if seed + n > 2**32:
        raise InputError(f"{n} seeds from {seed} on end above {2**32 - 1:,}: begin with a smaller --seed")


def choice(*names: str) -> dict:
    "argparse's choices, for an Annotated option."
    return {"choices": list(names)}


Repeated = Annotated[str, {"action": "append"}]  # an option that may be given several times


def training_options(
    data: str = "auto",  # images: auto, cifar10, digits, or the path of an archive or a folder of images
    epochs: count = 30,  # training epochs
    bs: count = 64,  # images a batch
    lr: rate_or_auto = 1e-3,  # learning rate, the schedule's first or one_cycle's highest; auto: lr_find's valley
    lr_end: rate = 8e-5,  # last learning rate of the decay schedule
    schedule: Annotated[str, choice("decay", "constant", "one_cycle")] = "decay",  # how the learning rate goes
    decay: Annotated[str, choice("exp", "linear", "cosine", "step")] = "exp",  # shape of the decay schedule
    size: pixels = 32,  # pixels of a side fed to the network
    flip: Annotated[str, choice("none", "random", "alternating")] = "none",  # mirror training images
    translate: amount = 0,  # shift training images by up to so many pixels
    cutout: amount = 0,  # blank a square of so many pixels in training images
    precision: Annotated[str, choice("auto", "fp32", "bf16", "fp16")] = "auto",  # auto: bf16 where it is faster
    compile: bool = False,  # run the network through torch.compile
    early_stop: amount = 0,  # stop after so many epochs without gain on held-out images, then train on all
    images: amount = 0,  # training images to use, as many of each class; 0: all
    test_images: amount = 0,  # test images to use; 0: all
    seed: seed_number = 0,  # of weights, batches and splits
    seeds: count = 1,  # train so many times, from `seed` on, and report mean and interval
    track: str = "csv",  # log to csv (always), tensorboard, wandb, mlflow; several with commas
    quiet: bool = False,  # say the result alone
    deterministic: bool = False,  # on a GPU: the same seed gives the same weights, more slowly
    device: str = "auto",  # auto, cpu, cuda or another torch device
    run: str | None = None,  # folder to write; default: runs/<script>-<date>-<time>
    resume: str | None = None,  # folder of a run that was stopped: go on with its options, others are ignored
):
    "The options that all training scripts have."


@delegates(training_options)
def custom_options(
    opt: Annotated[str, choice("adam", "sgd", "both")] = "adam",  # optimizer; both: the better on held-out images
    convs: count = 3,  # convolutions
    width: count = 32,  # filters of the first convolution; each has twice those of the one before
    dense: count = 2,  # dense layers, the output layer among them
    conv_dropout: share = 0.0,  # dropout after the convolutions
    dropout: share = 0.5,  # dropout after the hidden dense layer
    logit_dropout: share = 0.5,  # dropout on the logits, as in the article; 0 leaves it out
    no_bn: bool = False,  # leave batch norm out
    agc: share = 0.0,  # adaptive gradient clipping at this ratio; 0 for none
    **kwargs,
):
    "The options of custom.py."


@delegates(training_options)
def transfer_options(
    weights: str = "auto",  # of the body: auto, imagenet, none, or the path of a .pth or .safetensors state dict
    arch: str = "resnet18",  # a torchvision ResNet
    head: Annotated[str, choice("linear", "fastai")] = "linear",  # linear: one dense layer; fastai: its default head
    opt: Annotated[str, choice("adam", "sgd", "both")] = "adam",  # optimizer; both: the better on held-out images
    frozen_bn: Annotated[str, choice("eval", "train")] = "eval",  # train: batch norm statistics of the body move
    unfreeze_epochs: amount = 0,  # epochs of fine-tuning the whole network afterwards
    unfreeze_lr: rate = 1e-3,  # highest learning rate of the fine-tuning; the body's first layers get a hundredth
    cache_features: bool = False,  # keep the frozen body's features on the disk, for other runs
    **kwargs,
):
    "The options of transfer.py."


def speedrun_options(
    target: Annotated[int, {"choices": [90, 94, 96]}] = 94,  # percent that the recipe is made for
    data: str = "auto",  # images: auto, cifar10, digits, or the path of an archive or a folder of images
    runs: count = 1,  # runs that count, from `seed` on
    peer: str | None = None,  # run in turns with ours: recipe (airbench's, in a plain loop), or an airbench checkout
    peer_epochs: rate = 8.0,  # epochs of --peer recipe; fractions too
    precision: Annotated[str, choice("auto", "fp32", "bf16", "fp16")] = "auto",  # auto: bf16 where it is faster
    compile: Annotated[str, choice("auto", "on", "off")] = "auto",  # torch.compile; auto: on a GPU
    images: amount = 0,  # training images to use, as many of each class; 0: all
    test_images: amount = 0,  # test images to use; 0: all
    seed: seed_number = 0,  # of the first run's weights and batches
    device: str = "auto",  # auto, cpu, cuda or another torch device
    run: str | None = None,  # folder to write; default: runs/speedrun-<date>-<time>
):
    "The options of speedrun.py."


OPTIONS = {"custom": custom_options, "transfer": transfer_options}


def script_options(
    script: str,  # custom or transfer
    **changed,  # options that differ from the script's defaults
) -> SimpleNamespace:
    "All options of a training script. Raises TypeError for one that it does not have."
    defaults = {name: p.default for name, p in signature(OPTIONS[script]).parameters.items()}
    if unknown := set(changed) - set(defaults):
        raise TypeError(f"{script}.py has no option {unknown.pop()!r}")
    return SimpleNamespace(**{**defaults, **changed})


def parse_option(
    script: str,  # custom or transfer
    name: str,  # of an option
    text: str,  # its value, as on the command line
) -> str | int | float | bool:
    "The value that `text` means for an option. Raises `InputError`."
    parameters = signature(OPTIONS[script]).parameters
    if name not in parameters:
        raise InputError(f"{script}.py has no option {name!r}: see {script}.py --help")
    kind = parameters[name].annotation
    allowed = getattr(kind, "__metadata__", [{}])[0].get("choices")
    if allowed and text not in allowed:
        raise InputError(f"{name} is {text!r}: give one of {', '.join(allowed)}")
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name} is {text!r}: give true or false")
        return text.lower() == "true"
    try:
        return kind(text) if callable(kind) and not allowed and kind is not str else text
    except (ArgumentTypeError, TypeError) as error:
        raise InputError(f"{name}: {error}") from error


def sweep_options(
    script: Annotated[str, choice("custom", "transfer")] = "custom",  # whose options are searched
    param: Repeated = None,  # try NAME=loguniform(a,b), uniform(a,b), randint(a,b) or choice(x,y); fix NAME=value
    data: str = "auto",  # images: auto, cifar10, digits, or the path of an archive or a folder of images
    trials: count = None,  # trials in all; default: 16, or with --resume as many as before
    address: str | None = None,  # of a Ray cluster; default: this machine
    per_gpu: count = 1,  # trials that share a GPU
    seed: seed_number = 0,  # of the search
    run: str | None = None,  # folder to write; default: runs/sweep-<date>-<time>
    resume: str | None = None,  # folder of a sweep that was stopped: go on with its options, others are ignored
):
    "The options of sweep.py."


def one_line_errors(
    main: Callable,  # of a script, for fastcore's `call_parse`
) -> Callable:
    "`main`, after a look at the command line that ends on a wrong one with one line, where argparse prints its usage."
    if main.__module__ == "__main__":
        parser = anno_parser(main)
        parser.error = lambda message: parser.exit(2, f"error: {message}: see {parser.prog} --help\n")
        parser.parse_args()
    return main


_FASTAIS_LINE = "Exception occured in "  # and the callback's name, above what a callback has raised


@contextmanager
def exit_codes() -> Iterator[None]:
    """Ends a script with one line: 2 for an `InputError`, 1 where a run cannot go on, 130 for Ctrl-C.

    Libraries' deprecations stay silent.
    """
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    if _is_one_of_many():
        signal.signal(signal.SIGTERM, _end_with_the_others)  # by which a launcher ends what is left
    try:
        yield
    except (InputError, RunError, OSError) as error:  # OSError: a full disk, a folder that is gone or not for writing
        lines = [o for o in str(error).splitlines() if not o.startswith(_FASTAIS_LINE)]
        print(f"error: {' '.join(' '.join(lines).split()) or type(error).__name__}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except RuntimeError as error:
        if _is_one_of_many() and re.search("connection|gloo|nccl|peer", str(error), re.IGNORECASE):
            _end_with_the_others()
        if "CUDA error" not in str(error):
            raise
        print(f"error: the GPU failed ({str(error).splitlines()[0]})", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _is_one_of_many() -> bool:
    "Whether a launcher has started this process among others."
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _end_with_the_others(*args) -> None:
    print("error: another process of this training has ended: look at its message above", file=sys.stderr, flush=True)
    os._exit(1)  # a normal end would wait for the other processes
