"""The article's trainings one after another into one folder, continued where they stopped, and the page about them."""

import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

from article import claims as article
from article.claims import Claims, Training, explanation
from article.published import plot_published
from cifar_fast.analysis.charts import History, plot_complexity, plot_curves
from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.sources import load_images
from cifar_fast.errors import InputError
from cifar_fast.experiment import load_experiment
from cifar_fast.files import read_json, write_json
from cifar_fast.progress import say
from cifar_fast.runs.compare import correction_line, result_rows, verdict_rows
from cifar_fast.runs.facts import images_hash
from cifar_fast.runs.folder import check_begun
from cifar_fast.runs.launch import is_finished
from cifar_fast.runs.launch import train as launch
from cifar_fast.runs.page import Picture, write_page
from cifar_fast.runs.report import warnings_of
from cifar_fast.runs.results import Runs

PARTS = ("article", "memory", "study", "next")
IMAGES = "images_sha256"  # in reproduce.json, beside the options: what it was begun on
USUAL_SIZES = {"images": 10_000, "test_images": 2_000}  # of the study and the next steps


class Reproduction:
    "A folder of runs, a sub-folder a part. Parameters are documented in experiments/reproduce.py."

    def __init__(self, folder: str, parts: list[str], **options):
        self.folder, self.parts = Path(folder), parts
        path = self.folder / "reproduce.json"
        if not path.exists() and self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{folder} is there already and holds something else: give --run another folder")
        begun = read_json(path) if path.exists() else {}
        if not begun.get("body"):  # one may be added to what was done without
            begun = {k: o for k, o in begun.items() if k not in ("body", "body_weights")}
        elif not options["body"]:
            options |= {k: begun[k] for k in ("body", "body_weights")}
        known = begun.pop(IMAGES, None)
        if known and options["data"] == "auto":
            options["data"] = begun["data"]
        images = load_images(options["data"])
        options = _with_sizes({k: begun.get(k) if o is None else o for k, o in options.items()}, images)
        self.options = SimpleNamespace(**options)
        self.trainings = self.wanted()
        if known:  # images are compared by what they hold
            begun.pop("data")
        check_begun(folder, begun, options, "give the same, or --run another folder")
        found = images_hash(images)
        if known not in (None, found):
            raise InputError(f"{folder} was begun on other images than {options['data']} has: name those with --data")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {**options, IMAGES: found})

    def wanted(self) -> list[Training]:
        "The trainings of the parts that are asked for."
        o = self.options
        found = {
            "article": article.article_trainings(),
            "memory": article.memory_trainings(),
            "study": article.study_trainings(o.weights == "imagenet")
            + (article.body_trainings(o.body, o.body_weights) if o.body else []),
            "next": article.next_trainings(),
        }
        return [o for part in self.parts for o in found[part]]

    def execute(self) -> int:
        "Train what is missing, then write the page; the script's exit code. Raises `InputError`."
        for i, training in enumerate(self.trainings, 1):
            if is_finished(self.folder_of(training)):
                continue
            print(f"[{i}/{len(self.trainings)}] {training.part}: {training.what}", flush=True)
            if code := self.train(training):
                return code
        page = self.write()
        print(f"-> {page}", flush=True)
        return 0

    def folder_of(self, training: Training) -> Path:
        "Where its run goes."
        return self.folder / training.part / training.name

    def train(self, training: Training) -> int:
        "Train one; where its memory counts, in a process of its own, which holds nothing of the others."
        o = self.options
        common = {"data": o.data, "device": o.device, "seed": o.seed, "precision": o.precision, "epochs": o.epochs}
        if training.script == "transfer":
            common["weights"] = o.weights
        if training.part in ("study", "next"):
            common |= {"epochs": o.study_epochs, "images": o.images, "test_images": o.test_images}
        if training.part == "next":
            common["seeds"] = o.seeds
        folder = self.folder_of(training)
        changed = {**common, **training.options, "run": str(folder)}
        if (folder / "config.json").exists():
            changed = {"resume": str(folder), "data": o.data}
        else:
            shutil.rmtree(folder, ignore_errors=True)
        if training.part in ("study", "next"):
            return exit_code(training.script, changed)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
            return pool.submit(exit_code, training.script, changed).result()

    # The page

    def methods(self, part: str) -> dict[str, Runs]:
        "The part's runs by the training's name."
        return {o.name: Runs.read(self.folder_of(o), o.what) for o in self.trainings if o.part == part}

    def write(self) -> Path:
        "Write index.html from the runs in the folder."
        main, study, steps = (self.methods(o) for o in ("article", "study", "next"))
        claims = Claims({**main, **self.methods("memory")}, self.options.epochs)
        metrics = [o.first.metrics for o in main.values()]
        return write_page(
            self.folder / "index.html",
            "article.html",
            "A frozen ResNet-18 against a small CNN: the article, and here",
            warnings=list(dict.fromkeys(w for o in metrics for w in warnings_of(o))),
            about=f"{metrics[0]['title']}; {metrics[-1]['title']}. {self.options.epochs} epochs, batches of "
            f"{metrics[0]['bs']}, {metrics[0]['precision']}. One training a row: another seed gives other numbers.",
            claims=claims.all(),
            article=result_rows(list(main.values())),
            figures=self.figures(main, claims),
            # the memory of trainings in one process says little
            study=[{k: o for k, o in row.items() if k != "memory"} for row in result_rows(list(study.values()))],
            study_about=self.about("one seed; intervals are over test images"),
            explanation=explanation(study) if study else [],
            next=next_rows(list(steps.values())),
            next_about=self.about(
                f"{self.options.seeds} seeds a row; differences are from the custom CNN as it is, by Welch's test over "
                "seeds: they speak of methods, not of two trained models"
                if self.options.seeds > 1
                else "one seed: McNemar's test speaks of two trained models, not of methods"
            )
            + f" {correction_line(len(steps) - 1)}".rstrip(),
        )

    def about(self, what: str) -> str:
        "How the smaller trainings were made."
        o = self.options
        train, test = (f"{n:,}" if n else "all" for n in (o.images, o.test_images))
        images = f"{train} training images, {test} test images"
        return f"{images}, {o.study_epochs} epochs, {what}."

    def figures(self, main: dict[str, Runs], claims: Claims) -> list[Picture]:
        "The article's pictures."
        histories = [History(o.name, o.first.history.epochs, o.first.history.lrs) for o in main.values()]
        complexity = plot_complexity({o.name: o.first.metrics for o in main.values()})
        figures = [
            Picture.of(plot_curves(*histories), "Accuracy and loss of all four."),
            Picture.of(complexity, "Accuracy against operations and parameters, memory and speed."),
            Picture.of(
                plot_published({o.name: o.first.metrics for o in main.values()}),
                "The famous networks by torchvision's published entries, and those trained here.",
            ),
        ]
        wanted = {
            "confusion.png": "What is taken for what",
            "confused.png": "The images that classes are confused by",
            "channel6.png": "Channel 6 through the layers, for one image",
            "channel11.png": "Channel 11 through the layers",
        }
        for name, text in wanted.items():
            for method in (claims.custom, claims.resnet):
                if (path := method.first.folder / name).exists():
                    figures.append(Picture.of(path, f"{text}: {method.name}."))
        return figures


def next_rows(
    methods: list[Runs],  # the baseline first
) -> list[dict[str, str]]:
    "A dict a next step, and one of the baseline, without a verdict."
    nothing = dict.fromkeys(("difference", "interval", "p", "verdict"), "-")
    verdicts = [nothing, *verdict_rows((methods[0], o) for o in methods[1:])]
    return [{"name": o.name, "accuracy": o.accuracy_text, **row} for o, row in zip(methods, verdicts)]


def _with_sizes(options: dict, found: ImageSet) -> dict:
    "The options, how many images to take filled in where that is left open: 0, which is all, where there are fewer."
    if None not in (options["images"], options["test_images"]):
        return options
    for name, what, n in (("images", "training", len(found.train_y)), ("test_images", "test", len(found.test_y))):
        if options[name] is None:
            usual = USUAL_SIZES[name]
            options[name] = usual if usual <= n else 0
            if usual > n:
                say(f"{found.name} has {n:,} {what} images: all of them are taken, not {usual:,}.")
    return options


def end_with_parent() -> None:
    "Ends this process, in whatever it does, when the one that began it has ended: nobody would use its training."

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def exit_code(
    name: str,  # of an experiment of the package
    options: dict,  # that differ from its defaults
) -> int:
    "Train it, in whatever process this is."
    made = load_experiment(name)
    return launch(made, made.options(**options), given=set(options))[0]
