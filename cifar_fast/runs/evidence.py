"""Evidence beyond test accuracy: a finished run is asked, and a page beside it says what came out."""

import json
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from markupsafe import Markup

from cifar_fast.deploy.modelcard import CARD, store_temperature
from cifar_fast.errors import InputError
from cifar_fast.files import finite, write_atomically
from cifar_fast.runs.folds import read_out_of_fold
from cifar_fast.runs.page import Answer, write_page
from cifar_fast.runs.questions import ask_confidence, ask_ensemble, ask_foreign, ask_shift, ask_test_sets
from cifar_fast.runs.questions_on_images import ask_duplicates, ask_labels, ask_looks, ask_neighbours
from cifar_fast.runs.report import warnings_of
from cifar_fast.runs.results import NUMBERS, read_evidence
from cifar_fast.runs.subject import Subject

PAGE = "evidence.html"
_KEPT = re.compile("<!-- answer (.*?) -->\n(.*?)<!-- end -->", re.DOTALL)  # as the template writes it


@dataclass(frozen=True)
class Evidence:
    "What came out."

    page: Path  # evidence.html
    answers: list[Answer]

    def __getitem__(self, name: str) -> dict:
        "The numbers of one question, by its name in evidence.json."
        return next(o.numbers for o in self.answers if o.name == name)

    def __str__(self) -> str:
        lines = [f"{o.title}: {line}" for o in self.answers for line in o.lines]
        return "\n".join([*lines, f"-> {self.page}"])


def evaluate(
    run: str | Path,  # folder of a finished run, or of several seeds
    *paths: str | Path,  # further test sets: folders, .npy files
    shift: bool = False,  # change the test images in 15 ways, five severities each
    baseline: str | Path | None = None,  # another run, to compare the shift with
    confidence: bool = False,  # how far its probabilities can be trusted
    held_out: str | Path | None = None,  # folder of the same training with `folds`, for what needs held-out images
    ood: str | Path | None = None,  # images of no class: digits, a folder, a .npy, or SVHN's test_32x32.mat
    ensemble: bool = False,  # what all seeds know together
    duplicates: bool = False,  # which test images are among the training images
    neighbours: bool = False,  # which training images are like the mistakes, and a map of the test images
    labels: bool = False,  # which labels of training images look wrong; needs `held_out`
    explain: bool = False,  # where the network looks
    data: str | Path | None = None,  # where the run's images are now; None: where they were
    device: str = "cpu",  # a torch device
) -> Evidence:
    """Ask a finished run, and write evidence.html and evidence.json into its folder.

    What other questions, asked before, have found stays on the page and in evidence.json. Raises `InputError` for what
    cannot be used, before anything is written.
    """
    subject = Subject(run, data, device)
    other = Subject(baseline, data, device) if baseline else None
    unseen = read_out_of_fold(held_out, subject.run) if held_out else None
    questions = [
        (shift, lambda: ask_shift(subject, other)),
        (confidence, lambda: ask_confidence(subject, unseen)),
        (ood, lambda: ask_foreign(subject, ood)),
        (ensemble, lambda: ask_ensemble(subject)),
        (duplicates, lambda: ask_duplicates(subject)),
        (neighbours, lambda: ask_neighbours(subject)),
        (labels, lambda: ask_labels(subject, unseen)),
        (explain, lambda: ask_looks(subject)),
    ]
    answers = ask_test_sets(subject, paths) + [ask() for is_asked, ask in questions if is_asked]
    if not answers:
        raise InputError("nothing is asked: name test sets, or give --shift; --help lists all questions")
    return write_evidence(subject, answers)


def write_evidence(subject: Subject, answers: list[Answer]) -> Evidence:
    "Write the page and the numbers."
    folder = subject.runs.folder
    page = write_page(
        folder / PAGE, "evidence.html", f"Evidence: {subject.run.metrics['title']}",
        warnings=warnings_of(subject.run.metrics), answers=answers, about=_about(subject),
        kept=_kept(folder / PAGE, {o.name for o in answers}),
    )  # fmt: skip
    numbers = read_evidence(folder) | {o.name: o.numbers for o in answers}
    if temperature := numbers.get("confidence", {}).get("temperature"):
        for o in subject.runs.runs:
            store_temperature((o.folder / "model" / CARD).absolute(), temperature)
    for name, content in ((k, o) for answer in answers for k, o in answer.files.items()):
        write_atomically((folder / name).absolute(), lambda tmp, content=content: tmp.write_text(content))
    text = json.dumps(finite(numbers), indent=2) + "\n"
    write_atomically((folder / NUMBERS).absolute(), lambda tmp: tmp.write_text(text))
    return Evidence(page, answers)


def _kept(page: Path, but: set[str]) -> dict[str, Markup]:
    "The blocks of a page that is there already, by the names of their questions; of those that are asked anew none."
    found = _KEPT.findall(page.read_text("utf-8")) if page.exists() else []
    return {unescape(name): Markup(block) for name, block in found if unescape(name) not in but}


def _about(subject: Subject) -> str:
    if len(subject.runs.runs) > 1:
        return f"Of the {len(subject.runs.runs)} seeds the first is asked, where nothing else is said."
    return ""
