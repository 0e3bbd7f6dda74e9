"""Evidence beyond test accuracy: a finished run is asked, and a page beside it says what came out."""

import json
from dataclasses import dataclass
from pathlib import Path

from cifar_fast.errors import InputError
from cifar_fast.files import finite, write_atomically
from cifar_fast.runs.questions import ask_shift, ask_test_set
from cifar_fast.runs.report import warnings_of, write_page
from cifar_fast.runs.subject import Answer, Subject

PAGE, NUMBERS = "evidence.html", "evidence.json"


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
    data: str | Path | None = None,  # where the run's images are now; None: where they were
    device: str = "cpu",  # a torch device
) -> Evidence:
    """Ask a finished run, and write evidence.html and evidence.json into its folder.

    The page has what was asked now; the numbers of other questions, asked before, stay in evidence.json. Raises
    `InputError` for what cannot be used, before anything is written.
    """
    subject = Subject(run, data, device)
    other = Subject(baseline, data, device) if baseline else None
    answers = [ask_test_set(subject, o) for o in paths]
    if shift:
        answers.append(ask_shift(subject, other))
    if not answers:
        raise InputError("nothing is asked: name test sets, or give --shift; --help lists all questions")
    return write_evidence(subject, answers)


def write_evidence(subject: Subject, answers: list[Answer]) -> Evidence:
    "Write the page and the numbers."
    folder = subject.runs.folder
    page = write_page(
        folder / PAGE, "evidence.html", f"Evidence: {subject.run.metrics['title']}",
        warnings=warnings_of(subject.run.metrics), answers=answers, about=_about(subject),
    )  # fmt: skip
    numbers = read_evidence(folder) | {o.name: o.numbers for o in answers}
    text = json.dumps(finite(numbers), indent=2) + "\n"
    write_atomically((folder / NUMBERS).absolute(), lambda tmp: tmp.write_text(text))
    return Evidence(page, answers)


def _about(subject: Subject) -> str:
    if len(subject.runs.runs) > 1:
        return f"Of the {len(subject.runs.runs)} seeds the first is asked, where nothing else is said."
    return ""


def read_evidence(folder: Path) -> dict:
    "evidence.json of a run's folder; empty where nothing was asked."
    try:
        found = json.loads((folder / NUMBERS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
