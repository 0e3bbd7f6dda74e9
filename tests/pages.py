"""What the README and docs/ tell readers to type, and a reader who does it: in this process, on few images."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path

from cifar_fast import commands
from cifar_fast.cli import one_line_parser
from cifar_fast.experiment import Experiment, load_experiment
from cifar_fast.options import as_function, with_choices

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Parsed here; other tests run them.
LONG = ("models", "sweep", "serve", "speedrun", "bench", "bench/gpu", "bench/ideas", "reproduce")
SMALL = {"--images": "100", "--test-images": "50", "--data": "digits", "--epochs": "1", "--seeds": "2",
         "--device": "cpu", "--precision": "fp32"}  # fmt: skip
SMALLER = {"custom": {"--width": "4"}, "transfer": {"--weights": "none", "--unfreeze-epochs": "1"}}


@dataclass(frozen=True)
class Block:
    "A block of code of a page."

    language: str
    title: str  # of a file that the reader writes, else empty
    text: str

    @property
    def commands(self) -> list[list[str]]:
        "Lines of a shell, each as its words, without comments."
        lines = self.text.splitlines() if self.language == "sh" else []
        return [words for words in (shlex.split(o, comments=True) for o in lines) if words]


def blocks(page: Path) -> list[Block]:
    "All of a page, from the top."
    found = re.findall(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*o) for o in found]


def all_commands(start: str) -> list[list[str]]:
    "Those of all pages that begin with these words."
    words = start.split()
    return [o for page in PAGES for block in blocks(page) for o in block.commands if o[: len(words)] == words]


class Reader:
    "Somebody who types what a page says, from the top, in the current folder."

    def __init__(self, page: Path):
        self.page, self.names = page, {"__name__": "page"}

    def read(self) -> None:
        "Do all of it. Raises whatever goes wrong."
        for block in blocks(self.page):
            if block.title:
                Path(block.title).write_text(block.text)
            elif block.language == "python" and "gradio_client" not in block.text:  # tests/deploy/test_app.py
                exec(compile(block.text, str(self.page), "exec"), self.names)
            for words in block.commands:
                self.type(words)

    def type(self, words: list[str]) -> None:
        "One command."
        program, *args = words
        if program == "make":
            assert re.search(rf"^{args[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif program == "accelerate":  # tests/training/test_distributed.py launches
            i = next(i for i, o in enumerate(args) if o.endswith(".py"))
            parse(experiment_of(args[i]), args[i + 1 :])
        elif program in ("python", "cifar-fast"):
            name = args[0].removeprefix("experiments/").removesuffix(".py")
            if args[0] == "run":
                args = args[1:]
            if name in LONG:
                parse(getattr(commands, name, None) or script(name).main, args[1:])
            elif name in ("compare", "evaluate", "predict"):
                ended(getattr(commands, name), args[1:])
            else:
                self.train(args[0], args[1:])
        else:
            raise AssertionError(f"{self.page.name}: no test does {' '.join(words)}")

    def train(self, script: str, args: list[str]) -> None:
        "An experiment, which leaves what pages say a run leaves."
        made = experiment_of(script)
        if not {"--run", "--resume"} & set(args):
            args = [*args, "--run", f"runs/{len(list(Path().glob('runs/*')))}"]  # quicker than names by the second
        ended(made, [*args, *smaller(made.name, args)])
        folder = Path(next(value for name, value in pairwise(args) if name in ("--run", "--resume")))
        assert (folder / "report.html").exists()
        several = [o.parent for o in folder.glob("*/metrics.json")]
        assert len(several) >= 2 or not {"--seeds", "--folds"} & set(args)
        for run in several or [folder]:
            assert (run / "metrics.json").exists() and (run / "export.pkl").exists()


def script(name: str):
    "A script of experiments/, as a module: a folder beside it may have its name."
    spec = spec_from_file_location(f"script_{Path(name).stem}", ROOT / f"experiments/{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def experiment_of(script: str) -> Experiment:
    "What a file of the reader's, a script of the repository or a job of `cifar-fast` trains."
    if Path(script).exists():
        return load_experiment(script)
    return load_experiment(ROOT / script if "examples" in script else Path(script).stem)


def smaller(name: str, args: list[str]) -> list[str]:
    "Options that make a training short, whatever the page asks for."
    if "--resume" in args:
        return []
    options = {**SMALL, **SMALLER.get(name, {})}
    keep = ["--data", "--images", "--test-images"] if "photos" in args else []
    keep += ["--width"] if "--width" in args else []
    keep += [] if "--seeds" in args else ["--seeds"]
    return [word for option, value in options.items() if option not in keep for word in (option, value)]


def parse(made: Experiment | Callable, args: list[str]) -> None:
    "Read the options as the command would. Raises SystemExit for one that there is not."
    if isinstance(made, Experiment):
        one_line_parser(as_function([o.parameter for o in made.all.values()], made.name, "")).parse_args(args)
    else:
        one_line_parser(with_choices(made)).parse_args(args)


def ended(made: Experiment | Callable, args: list[str]) -> None:
    "Do it, to its good end."
    try:
        made.main(args, made.__name__)
    except SystemExit as end:
        assert end.code == 0, args
