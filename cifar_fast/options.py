"""Options: what a function's parameter may be, read from its signature, and those that all experiments share.

Nothing here may import torch or fastai: `--help` and a mistyped option answer at once.
"""

from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fastcore.docments import ann_parts, docments
from fastcore.script import anno2str

from cifar_fast.errors import InputError, check


class Number:
    "An argparse type that calls itself `name` in --help and says what is `wanted`; an annotation, alone or `| None`."

    def __init__(self, name: str, convert: Callable, fits: Callable, wanted: str):
        self.__name__, self.convert, self.fits, self.wanted = name, convert, fits, wanted

    def __call__(self, text: str):
        try:
            value = self.convert(text)
        except ValueError:
            value = None
        if value is None or not self.fits(value):
            raise ArgumentTypeError(f"{text!r} is not {self.wanted}")
        return value

    def __or__(self, other):
        return Union[self, other]  # noqa: UP007 - which is `|` itself


count = Number("count", int, lambda o: o >= 1, "a whole number of at least 1")
amount = Number("amount", int, lambda o: o >= 0, "a whole number of at least 0")
rate = Number("rate", float, lambda o: 0 < o < float("inf"), "a number above 0")
nonnegative = Number("number", float, lambda o: 0 <= o < float("inf"), "a number of at least 0")
seed_number = Number("seed", int, lambda o: 0 <= o < 2**32, "a whole number from 0 to 4,294,967,295")
share = Number("share", float, lambda o: 0 <= o < 1, "a number of at least 0 and below 1")
opt_name = Literal["adam", "sgd", "both", "adamw", "nadam", "lamb", "lion", "muon", "radam", "ranger"]
pixels = Number("pixels", int, lambda o: 8 <= o <= 1024, "a whole number of pixels from 8 to 1024")


def rate_or_auto(text: str) -> float | str:
    "A learning rate, or `auto`."
    return text if text == "auto" else rate(text)


rate_or_auto.__name__ = "rate|auto"


def check_seeds(seed: int, n: int) -> None:
    "Raises `InputError` where the last of `n` seeds from `seed` on is more than random numbers begin with."
    if seed + n > 2**32:
        raise InputError(f"{n} seeds from {seed} on end above {2**32 - 1:,}: begin with a smaller --seed")


Repeated = Annotated[str, {"action": "append"}]  # an option that may be given several times
Positional = Annotated[str, {"opt": False, "nargs": "?"}]  # an argument without a name, which may be left out


def shared_options(
    data: str = "auto",  # images: auto, cifar10, cifar100, digits, or the path of a folder, an archive or a .npz
    labels: str | None = None,  # csv or jsonl that names the files of --data and their classes
    skip_bad: bool = False,  # go on without images that cannot be read
    epochs: count = 30,  # training epochs
    bs: count = 64,  # images a batch
    opt: opt_name | None = None,  # optimizer; both: the better of adam and sgd on held-out images; default: its own
    lr: rate_or_auto = 1e-3,  # learning rate, the schedule's first or one_cycle's highest; auto: lr_find's valley
    lr_end: rate = 8e-5,  # last learning rate of the decay schedule
    schedule: Literal["decay", "constant", "one_cycle"] = "decay",  # how the learning rate goes
    decay: Literal["exp", "linear", "cosine", "step"] = "exp",  # shape of the decay schedule
    size: pixels = 32,  # pixels of a side fed to the network
    flip: Literal["none", "random", "alternating"] = "none",  # mirror training images
    translate: amount = 0,  # shift training images by up to so many pixels
    cutout: amount = 0,  # blank a square of so many pixels in training images
    erase: share = 0.0,  # probability that a random rectangle of a training image is blanked
    color: share = 0.0,  # brightness, contrast and saturation of training images vary by up to this factor
    auto_augment: Literal["none", "trivial", "rand", "augmix"] = "none",  # torchvision's policies on training images
    sampling: Literal["none", "balanced"] = "none",  # balanced: batches draw rare classes as often as others
    mixup: nonnegative = 0.0,  # a: mix pairs of training images and labels, by shares of Beta(a, a); 0 for none
    cutmix: nonnegative = 0.0,  # a: paste rectangles of other training images, of sizes by Beta(a, a); 0 for none
    label_smoothing: share = 0.0,  # share of each label that goes to all classes
    class_weights: Literal["none", "balanced"] = "none",  # balanced: classes count the same, however many images
    wd: share = 0.0,  # weight decay, decoupled
    momentum: share = 0.0,  # of SGD
    warmup: amount = 0,  # epochs in which the learning rate rises from 0, before the schedule goes on
    clip: nonnegative = 0.0,  # largest norm of the gradients; 0: any
    accumulate: count = 1,  # batches whose gradients make a step
    ema: share = 0.0,  # decay of a moving average of the weights, which is validated and saved; 0 for none
    swa: share = 0.0,  # last part of the training whose weights are averaged, validated and saved; 0 for none
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",  # auto: bf16 where it is faster
    compile: bool = False,  # run the network through torch.compile
    early_stop: amount = 0,  # stop after so many epochs without gain on held-out images, then train on all
    images: amount = 0,  # training images to use, each class in its share; 0: all
    test_images: amount = 0,  # test images to use; 0: all
    seed: seed_number = 0,  # of weights, batches and splits
    seeds: count = 1,  # train so many times, from `seed` on, and report mean and interval
    folds: amount = 0,  # train so many times, each without another part of the training images, and test on that part
    at_once: count = 1,  # of the seeds or folds, so many train at the same time on one GPU
    drop_labels: str | None = None,  # csv of evaluate --labels: train without the images that it lists
    also_test: Repeated = None,  # test on these images too: CIFAR-10.1, -C, -10H as .npy, or a folder; several times
    track: str = "csv",  # log to csv (always), tensorboard, wandb, mlflow; several with commas
    quiet: bool = False,  # say the result alone
    deterministic: bool = False,  # on a GPU: the same seed gives the same weights, more slowly
    device: str = "auto",  # auto, cpu, cuda or another torch device
    run: str | None = None,  # folder to write; default: runs/<experiment>-<date>-<time>
    resume: str | None = None,  # folder of a run that was stopped: go on with its options
    anyway: bool = False,  # with --resume: go on though the experiment's source has changed
):
    "The options that all experiments have."


OF_A_START = ("resume", "anyway")  # say how a run is started, not what it is
OF_THE_PARSER = ("help", "pdb", "xtra")  # fastcore's parser has them itself
OF_A_PLACE = ("run", "device", "at_once", "track", "quiet")  # say where, not what
MAY_MOVE = ("data", "labels")  # a run goes on where they name the same images in another place
CHOOSING = "choose"  # how the names of stages begin that choose on held-out images


def is_choosing(stage: str) -> bool:
    "Whether a stage of a run's history chooses, and is no part of the training that counts."
    return stage.startswith(CHOOSING)


@dataclass(frozen=True)
class Option:
    "A parameter of a function, as an option of a command line."

    name: str
    kind: Callable | type  # what makes a value of text: int, Path, `count`, ...; bool for a flag
    choices: tuple  # of values; empty: any
    default: Any
    help: str
    extra: dict = field(default_factory=dict)  # of argparse's `add_argument`, as fastcore's parser takes it
    optional: bool = False  # whether None is one of its values, `none` on a command line

    @classmethod
    def of(cls, name: str, found: dict) -> "Option":
        "From what fastcore's docments found. Raises `InputError` for an annotation that makes no option."
        anno, meta = ann_parts(found.anno)
        extra = next((o for o in meta if isinstance(o, dict)), {})
        choices, optional = tuple(extra.get("choices", ())), False
        if get_origin(anno) in (Union, UnionType):
            kinds, optional = [o for o in get_args(anno) if o is not NoneType], NoneType in get_args(anno)
            anno = kinds[0] if len(kinds) == 1 else None
        if get_origin(anno) is Literal:
            choices, optional = tuple(o for o in get_args(anno) if o is not None), optional or None in get_args(anno)
            anno = type(choices[0]) if len({type(o) for o in choices}) == 1 else None
        anno = str if anno is NoneType and found.default is None else anno
        is_other_type = isinstance(anno, type) and anno not in (bool, int, float, str, Path)
        if not callable(anno) or get_origin(anno) or is_other_type:
            raise InputError(
                f"its parameter {name!r} has an annotation that makes no option ({found.anno}): annotate it with int, "
                "float, str, bool, Path, a Literal, or count, share, ... of cifar_fast.options"
            )
        return cls(name, anno, choices, found.default, found.docment or "", extra, optional and "action" not in extra)

    @property
    def repeated(self) -> bool:
        "Whether it may be given several times: the value is a list."
        return self.extra.get("action") == "append"

    def means_none(self, text: str) -> bool:
        "Whether `text` on a command line is None; where one of the choices is called so, it is that."
        return self.optional and text.lower() == "none" and text not in map(str, self.choices)

    def parse(self, text: str) -> Any:
        "The value that `text` means on a command line. Raises `InputError`."
        return None if self.means_none(text) else self._made(text)

    def _made(self, text: str) -> Any:
        known = list(map(str, self.choices))
        check(self.name, text, not known or text in known, f"one of {', '.join([*known, *['none'] * self.optional])}")
        if self.kind is bool:
            check(self.name, text, text.lower() in ("true", "false"), "true or false")
            return text.lower() == "true"
        try:
            return [self.kind(text)] if self.repeated else self.kind(text)
        except (ArgumentTypeError, TypeError, ValueError) as error:
            wanted = f"{text!r} is no {self.kind.__name__}" if isinstance(error, ValueError) else error
            raise InputError(f"{self.name}: {wanted}") from error

    def check(self, value: Any) -> Any:
        "`value`, given from Python, as the option has it. Raises `InputError`."
        if value is None and (self.optional or self.default is None):
            return None
        if self.repeated and isinstance(value, (list, tuple)):
            return [o for each in value for o in self.check(each)]
        if self.kind is bool:
            check(self.name, value, isinstance(value, bool), "True or False")
            return value
        fits = value is not None and not isinstance(value, bool)
        fits = fits and (self.kind is not str or isinstance(value, (str, Path)))
        check(self.name, value, fits, f"a {self.kind.__name__}")
        return self._made(str(value))  # a text "none" that comes from Python is that text

    @property
    def parameter(self) -> Parameter:
        "As a parameter that fastcore's parser takes."
        kind, text, choices = self.kind, self.help, list(self.choices)
        extra = self.extra | ({"choices": choices} if choices else {})
        if self.optional:
            kind = self._or_none()
            extra |= (
                {"choices": [*choices, None], "metavar": f"{{{','.join(map(str, choices))},none}}"} if choices else {}
            )
            extra |= {"nargs": "?", "const": True} if self.kind is bool else {}  # a flag that may have a value
        elif self.default is True:
            text = f"without {text}"  # the flag is --no-x
        anno = Annotated[kind, text, extra]
        return Parameter(self.name, Parameter.KEYWORD_ONLY, default=self.default, annotation=anno)

    def _or_none(self) -> Callable:
        "An argparse type of an option that may be None."

        def parse(text: str):
            if self.means_none(text):
                return None
            return self.parse(text) if self.kind is bool else self.kind(text)

        parse.__name__ = f"{anno2str(self.kind)}|none"
        return parse


def options_of(
    function: Callable,  # whose parameters are options
    leave_out: tuple[str, ...] = (),  # names of parameters that are none
) -> dict[str, Option]:
    "A function's parameters by name. Raises `InputError` for what makes no option, or a default that does not fit."
    res = {}
    for name, o in _parameters(function).items():
        if name in leave_out:
            continue
        if o.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD, Parameter.POSITIONAL_ONLY):
            raise InputError(f"its parameter {name!r} has no name on a command line: write each parameter out")
        if o.default is Parameter.empty:
            raise InputError(f"its parameter {name!r} has no default: give it one")
        res[name] = option = Option.of(name, o)
        if option.default is not None:
            try:
                option.check(option.default)
            except InputError as error:
                raise InputError(f"its default does not fit: {error}") from error
    return res


def check_kind(
    own: Option,  # of an experiment
    shared: Option,  # which has the same name
) -> None:
    "Raises `InputError` where the own one's values are of another kind than all that reads the option expects."
    wanted = list if shared.repeated else str if shared.default is None else type(shared.default)
    with suppress(InputError):
        wanted = type(shared.check(own.default))
    given = own.check(own.default)
    if own.optional and given is not None and not shared.optional:
        why = "has the name of an option of every experiment, which is never None"
        raise InputError(f"its parameter {own.name!r} {why}: annotate it without None, or rename it")
    numbers = type(given) is int and wanted is float
    if given is not None and type(given) is not wanted and not numbers and not isinstance(given, Path):
        kind = shared.kind.__name__.partition("|")[0]
        raise InputError(
            f"its parameter {own.name!r} has the name of an option of every experiment, which is no "
            f"{type(given).__name__}: annotate it with {kind}, or rename it"
        )


def _parameters(function: Callable) -> dict:
    "What docments finds of each parameter; without comments where there is no source, as of a cell in another process."
    try:
        return docments(function, full=True, returns=False, eval_str=True)
    except NameError as error:
        raise InputError(f"an annotation cannot be looked up ({error}): import what it names") from error
    except OSError:
        parameters = list(signature(function, eval_str=True).parameters.values())
        return docments(as_function(parameters, function.__name__, ""), full=True, returns=False)


SHARED = options_of(shared_options)


def as_function(parameters: list[Parameter], name: str, doc: str) -> Callable:
    "A function that does nothing and has this name, docstring and these parameters, for fastcore's parser."

    def nothing(**kwargs):
        pass

    nothing.__name__, nothing.__doc__, nothing.__signature__ = name, doc, Signature(parameters)
    return nothing


def with_choices(function: Callable) -> Callable:
    "A function with a script's parameters for fastcore's parser, which does not know Literals."
    parameters = [Option.of(name, o).parameter.replace(kind=o.kind) for name, o in _parameters(function).items()]
    return as_function(parameters, function.__name__, function.__doc__)
