"""The one door: a function `(dls, own parameters...) -> Learner` is an experiment, on a command line and in Python.

It is light itself: torch and fastai are imported when an experiment is called.
"""

import ast
import hashlib
import inspect
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, update_wrapper
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from cifar_fast.cli import exit_codes, one_line_parser
from cifar_fast.errors import InputError
from cifar_fast.modules import module_name, module_of
from cifar_fast.options import (
    CHOOSING,
    OF_A_START,
    OF_THE_PARSER,
    SHARED,
    Option,
    as_function,
    check_kind,
    is_choosing,
    options_of,
)
from cifar_fast.text import did_you_mean

if TYPE_CHECKING:
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    from cifar_fast.runs.results import Runs

BUILT_IN = "cifar_fast.baselines"  # the module of the experiments that come with the package
FITTING = ("lr", "lr_end", "schedule", "decay", "warmup")  # shared options that say how to fit


@dataclass(frozen=True)
class Stage:
    "A part of an experiment's training: its own fit, checkpoints and place in the history."

    name: str  # in the history
    epochs: int  # 0 leaves the stage out
    fit: Callable | None = None  # (learn, cbs), which fits for `epochs` with these; None: by the shared options


def shared_stage(epochs: int) -> list[Stage]:
    "The stages of an experiment that brings none: one fit, as the shared options say."
    return [Stage("train", epochs)]


class Experiment:
    "A function that makes a Learner, and all that can be done with it. `experiment` makes one."

    def __init__(
        self,
        function: Callable,  # (dls, own parameters...) -> Learner
        stages: Callable = shared_stage,  # (options by name...) -> list[Stage]
    ):
        self.function, self.make_stages, self.name = function, stages, function.__name__
        update_wrapper(self, function)
        try:
            if next(iter(inspect.signature(function).parameters), None) != "dls":
                raise InputError("its first parameter is to be dls: the DataLoaders")
            self.own = options_of(function, leave_out=("dls",))
            if clash := set(self.own) & {*OF_A_START, *OF_THE_PARSER, "run", "track", "quiet", "seeds", "at_once"}:
                why = "has the name of an option of every experiment"
                raise InputError(f"its parameter {min(clash)!r} {why}: rename it")
            for name in set(self.own) & set(SHARED):
                check_kind(self.own[name], SHARED[name])
            self.all = {**self.own, **{k: v for k, v in SHARED.items() if k not in self.own}}
            if twice := [o for o in self.all if o.startswith("no_") and o[3:] in self.all]:
                raise InputError(f"its parameter {twice[0]!r} is what --no-{twice[0][3:]} stands for: rename it")
            self.for_stages = list(inspect.signature(stages).parameters)
            if unknown := [o for o in self.for_stages if o not in self.all]:
                raise InputError(f"its stages ask for {unknown[0]!r}, which is none of its options")
        except InputError as error:
            raise InputError(f"{self.name} makes no experiment: {error}") from error

    def __call__(self, dls: "DataLoaders", **own) -> "Learner":
        "The Learner that the function makes, as a LeanLearner that reports accuracy. Raises `InputError`."
        from cifar_fast.training.adapt import as_lean

        return as_lean(self.function(dls, **own))

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={o.default!r}" for name, o in self.own.items())
        return f"experiment {self.name}({own}): .run(), .sweep([...]), .options(); {self.name}(dls) gives the Learner"

    def __reduce__(self):
        if self.file is None:  # of a notebook: by value, where the pickler can
            return Experiment, (self.function, self.make_stages)
        if self.module == BUILT_IN:
            return load_experiment, (self.name,)
        return load_experiment, (f"{self.file}:{self.name}", module_name(self.file))

    # What it is

    @property
    def module(self) -> str:
        "Where the function is from."
        return self.function.__module__

    @property
    def file(self) -> Path | None:
        "The file that holds the function; None for a notebook's cell."
        file = Path(self.function.__code__.co_filename)
        return file.resolve() if file.is_file() and "ipykernel" not in str(file) else None

    @property
    def source(self) -> str | None:
        "A hash of the file's text, or of the cell's function; None for experiments of the package."
        if self.module == BUILT_IN:
            return None
        try:
            text = self.file.read_text() if self.file else inspect.getsource(self.function)
        except (OSError, TypeError):
            return None
        return hashlib.sha256(text.encode()).hexdigest()

    # Options

    def options(self, **changed: Any) -> SimpleNamespace:
        "All options; those that are not given have their defaults. Raises `InputError` for what does not fit."
        values = {name: o.default for name, o in self.all.items()}
        for name, value in changed.items():
            stored = self.stored_name(name)
            value = self.option(stored).check(value)
            values[stored] = value if stored == name or value is None else not value
        options = SimpleNamespace(**values)
        self.check_fitting(options)
        return options

    def stored_name(self, name: str) -> str:
        "The option that `name` gives: of `no_bn` it is `bn`, where that is a flag."
        is_negated = name.startswith("no_") and name[3:] in self.all and self.all[name[3:]].kind is bool
        return name[3:] if is_negated else name

    def option(self, name: str) -> Option:
        "The option `name`. Raises `InputError` where there is none."
        if name not in self.all:
            raise InputError(
                f"{self.name} has no option {name!r}{did_you_mean(name, self.all)}: see {self.name} --help"
            )
        return self.all[name]

    def parse_option(self, name: str, text: str) -> tuple[str, Any]:
        "Name and value of an option given as text; `no_bn` is `bn`, negated. Raises `InputError`."
        name = name.replace("-", "_")
        value = self.option(stored := self.stored_name(name)).parse(text)
        return stored, value if stored == name or value is None else not value

    def check_fitting(self, options: SimpleNamespace) -> None:
        "Raises `InputError` for an option that stages of its own would not look at."
        for one, other in (("mixup", "cutmix"), ("ema", "swa")):
            if getattr(options, one) and getattr(options, other):
                raise InputError(f"--{one} and --{other} are two ways to do the same: give one of them")
        if options.warmup and options.schedule == "one_cycle":
            raise InputError("one_cycle warms up by itself: leave --warmup out")
        if any(o.fit is None for o in self.stages(options)):
            for name in (o for o in FITTING if o in self.own and getattr(options, o) is not None):
                SHARED[name].check(getattr(options, name))  # its own may admit what no shared fit can do
            return
        for name in (o for o in FITTING if o not in self.own and o not in self.for_stages):
            if getattr(options, name) != self.all[name].default:
                raise InputError(f"{self.name} has stages of its own, which do not look at --{name}: leave it out")

    def defaults(self) -> dict[str, Any]:
        "Each option's default, but of those that only say how a run is started."
        return {name: o.default for name, o in self.all.items() if name not in OF_A_START}

    def stages(self, options: SimpleNamespace) -> list[Stage]:
        "What a training with these options goes through. Raises `InputError` where stages cannot be told apart."
        made = [o for o in self.make_stages(**{name: getattr(options, name) for name in self.for_stages}) if o.epochs]
        names = [o.name for o in made]
        if unusable := [o for o in names if names.count(o) > 1 or is_choosing(o)]:
            raise InputError(
                f"{self.name} has a stage {unusable[0]!r}: give each a name of its own, which does not begin with "
                f"{CHOOSING!r}"
            )
        return made

    def learner(self, dls: "DataLoaders", options: SimpleNamespace) -> "Learner":
        "The Learner for these options: what the function does not ask for is done here."
        from cifar_fast.training.adapt import as_lean, with_precision
        from cifar_fast.training.ideas import with_ideas
        from cifar_fast.training.optimizers import optimizer

        learn = self.function(dls, **{name: getattr(options, name) for name in self.own})
        learn = as_lean(learn, options.precision)
        if "precision" not in self.own:
            with_precision(learn, options.precision)
        if "opt" not in self.own and options.opt is not None:
            learn.opt_func, learn.opt = optimizer(options.opt), None
        with_ideas(learn, options, self.own)
        if options.compile and "compile" not in self.own:
            from cifar_fast.training.callbacks.compiled import Compiled

            learn.add_cb(Compiled())
        return learn

    # Doing it

    def run(self, **changed: Any) -> "Runs":
        """Train, test and write the run's folder, as the shell does; options by name.

        `mixer.run(epochs=10, seeds=3, width=256)`. Gives the finished run, or the seeds' runs. Raises `InputError`
        for what does not fit, KeyboardInterrupt where Ctrl-C has ended it before there was anything to report.
        """
        from cifar_fast.runs.launch import train
        from cifar_fast.runs.results import Runs

        code, folder, learn = train(self, self.options(**changed), given={self.stored_name(o) for o in changed})
        if code and not (folder / "report.html").exists():
            raise KeyboardInterrupt
        runs = Runs.read(folder)
        runs.learn = learn
        return runs

    def sweep(self, param: list[str], **changed: Any) -> "Runs":
        "Search options on held-out images, as `cifar-fast sweep` does; the winner's run. Raises `InputError`."
        from cifar_fast.runs.results import Runs
        from cifar_fast.runs.sweep import Sweep, sweep_options

        search = Sweep(self, sweep_options(param=param, **changed))
        search.execute()
        return Runs.read(search.run.folder / "winner")

    def main(
        self,
        args: list[str] | None = None,  # None: those of the process
        prog: str | None = None,  # the script's name in messages; None: as it was called
    ) -> None:
        "The command line: train, and end the process with the exit code."
        function = as_function([o.parameter for o in self.all.values()], self.name, self.__doc__ or "")
        parser = one_line_parser(function, prog)
        unset = object()  # in place of defaults, which argparse leaves out where there is a value
        blank = {name: None if o.repeated else unset for name, o in self.all.items()}  # None: what argparse appends to
        found = vars(parser.parse_args(args, Namespace(**blank)))
        given = {name: found[name] for name in self.all if found[name] is not blank[name]}
        with exit_codes():
            from cifar_fast.runs.launch import train

            code = train(self, self.options(**given), given=set(given))[0]
        sys.exit(code)


def experiment(
    function: Callable | None = None,  # (dls, own parameters...) -> Learner; its own parameters have defaults
    *,
    stages: Callable = shared_stage,  # (options by name...) -> list[Stage]: how it is fitted
) -> Experiment:
    """Make an experiment of a function `(dls, own parameters...) -> Learner`.

    Own parameters become command-line options beside the shared ones: the comment is the help, the annotation the
    check (int, float, str, bool, Path, a Literal, or `count`, `share`, `pixels`, ... of cifar_fast.options). One with
    the name of a shared option is handed its value, and its default replaces the shared one. A script that holds
    experiments runs when it is started, whatever stands below; with several, its first argument is the one's name.
    A script with an `if __name__ == "__main__"` starts itself. Raises `InputError` for a function that makes none.
    """
    if function is None:
        return partial(experiment, stages=stages)
    if function.__module__ != "__main__" or not _is_script(function):
        return Experiment(function, stages)
    with exit_codes():
        made = Experiment(function, stages)
    _run_script(made.file)
    return made


def _is_script(function: Callable) -> bool:
    "Whether `function` stands in the file that this process was started with, and that file does not start itself."
    file = getattr(sys.modules["__main__"], "__file__", None)
    is_there = file and Path(file).resolve() == Path(function.__code__.co_filename).resolve()
    return bool(is_there) and not _starts_itself(file)


def _starts_itself(file: str | Path) -> bool:
    "Whether `file` has an `if __name__ == '__main__'`."
    tests = [o.test for o in ast.parse(Path(file).read_text()).body if isinstance(o, ast.If)]
    return any(isinstance(o, ast.Name) and o.id == "__name__" for test in tests for o in ast.walk(test))


def _run_script(file: Path) -> None:
    "The experiment of `file`, or the one that the first argument names, from the command line."
    with exit_codes():
        found = load_file(file)
        args, names = sys.argv[1:], ", ".join(found)
        if len(found) == 1:
            chosen = next(iter(found.values()))
        elif args and args[0] in found:
            chosen, args = found[args[0]], args[1:]
        else:
            raise InputError(f"{file.name} holds several experiments: name one first ({names})")
    chosen.main(args)


def experiments_of(module: ModuleType) -> dict[str, Experiment]:
    "The experiments of a module, by name."
    return {o.name: o for o in vars(module).values() if isinstance(o, Experiment)}


def load_file(
    file: str | Path,  # Python, which is run
    module: str | None = None,  # its name as a module, where another process knows it
) -> dict[str, Experiment]:
    "The experiments of a file, by name. Raises `InputError` where there are none."
    file = Path(file).expanduser().resolve()
    if not file.is_file():
        raise InputError(f"{file} does not exist: give the Python file of an experiment")
    found = experiments_of(module_of(file, module))
    if not found:
        raise InputError(f"{file} holds no experiment: decorate a function (dls, ...) -> Learner with @experiment")
    own = {name: o for name, o in found.items() if o.file == file}
    return own or found


def load_experiment(
    name: str | Path,  # of one of the package (custom, transfer, record), a file, or file.py:function
    module: str | None = None,  # the file's name as a module, where another process knows it
) -> Experiment:
    "The experiment that `name` means. Raises `InputError`."
    from cifar_fast import baselines

    text, built_in = str(name), experiments_of(baselines)
    if text in built_in:
        return built_in[text]
    parts = re.fullmatch(r"(.+\.py)(?::(.*))?", text)
    if parts is None:
        raise InputError(f"there is no experiment {text!r}: give {', '.join(built_in)}, file.py or file.py:function")
    file, function = parts.groups()
    found = load_file(file, module)
    if function is None and len(found) > 1:
        raise InputError(f"{text} holds several experiments: give {text}:NAME with one of {', '.join(found)}")
    if function not in (None, *found):
        raise InputError(f"{file} holds no experiment {function!r}, but {', '.join(found)}")
    return found[function or next(iter(found))]
