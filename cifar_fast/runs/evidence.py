"""Evidence beyond test accuracy: a finished run is asked, and a page beside it says what came out."""

from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

from cifar_fast.deploy.modelcard import CARD, store_temperature
from cifar_fast.errors import InputError
from cifar_fast.files import read_json, write_json, write_text
from cifar_fast.progress import say
from cifar_fast.runs.folds import read_out_of_fold
from cifar_fast.runs.page import Answer, Picture, write_page
from cifar_fast.runs.questions import ask_confidence, ask_ensemble, ask_ood, ask_shift, ask_test_sets
from cifar_fast.runs.questions_on_images import ask_duplicates, ask_labels, ask_looks, ask_neighbours
from cifar_fast.runs.report import warnings_of
from cifar_fast.runs.results import EVIDENCE, read_evidence
from cifar_fast.runs.subject import Subject

PAGE = "evidence.html"
ANSWERS = "answers.json"  # what the page shows, for the next page


@dataclass(frozen=True)
class Evidence:
    "What came out."

    page: Path  # evidence.html
    answers: list[Answer]

    def __getitem__(self, name: str) -> dict:
        "The numbers of one question, by its name in evidence.json."
        return {o.name: o.numbers for o in self.answers}[name]

    def __str__(self) -> str:
        lines = [f"{o.title}: {line}" for o in self.answers for line in o.lines]
        return "\n".join([*lines, f"-> {self.page}"])

    __repr__ = __str__


def evidence_of(
    asked: SimpleNamespace,  # parameters of `commands.evaluate`
) -> Evidence:
    """Ask a finished run, and write evidence.html and evidence.json into its folder.

    What other questions, asked before, have found stays on the page and in evidence.json. Raises `InputError` for what
    cannot be used, before anything is written.
    """
    if asked.baseline and not asked.shift:
        raise InputError("--baseline is for --shift: give that too, or leave it out")
    if asked.held_out and not (asked.confidence or asked.labels):
        raise InputError("--held-out is for --confidence and --labels: give one of them, or leave it out")
    if asked.labels and not asked.held_out:
        raise InputError("--labels needs held-out predictions: train the same with --folds 5, and give --held-out")
    subject = Subject(asked.run, asked.data, asked.device)
    other = Subject(asked.baseline, asked.data, asked.device) if asked.baseline else None
    unseen = read_out_of_fold(asked.held_out, subject.run) if asked.held_out else None
    questions = [
        (asked.shift, lambda: ask_shift(subject, other)),
        (asked.confidence, lambda: ask_confidence(subject, unseen)),
        (asked.ood, lambda: ask_ood(subject, asked.ood)),
        (asked.ensemble, lambda: ask_ensemble(subject)),
        (asked.duplicates, lambda: ask_duplicates(subject)),
        (asked.neighbours, lambda: ask_neighbours(subject)),
        (asked.labels, lambda: ask_labels(subject, unseen)),
        (asked.explain, lambda: ask_looks(subject)),
    ]
    answers = ask_test_sets(subject, asked.paths) + [ask() for is_asked, ask in questions if is_asked]
    if not answers:
        raise InputError("nothing is asked: name test sets, or give --shift; --help lists all questions")
    return write_evidence(subject, answers)


def write_evidence(subject: Subject, answers: list[Answer]) -> Evidence:
    "Write the page and the numbers."
    folder = subject.runs.folder
    shown = answers + [o for o in _shown_before(folder / ANSWERS) if o.name not in {new.name for new in answers}]
    page = write_page(
        folder / PAGE, "evidence.html", f"Evidence: {subject.run.metrics['title']}",
        warnings=warnings_of(subject.run.metrics), answers=shown, about=_about(subject),
    )  # fmt: skip
    write_json(folder / ANSWERS, [{**asdict(o), "numbers": {}, "files": {}} for o in shown])
    numbers = read_evidence(folder) | {o.name: o.numbers for o in answers}
    if temperature := numbers.get("confidence", {}).get("temperature"):
        for o in subject.runs.runs:
            store_temperature(o.folder / "model" / CARD, temperature)
    for name, content in ((k, o) for answer in answers for k, o in answer.files.items()):
        write_text(folder / name, content)
    write_json(folder / EVIDENCE, numbers)
    return Evidence(page, answers)


def _shown_before(path: Path) -> list[Answer]:
    "Answers as the page shows them; none, and a line, where the file is damaged. It may be another's: all is escaped."
    if not path.exists():
        return []
    try:
        return [Answer(**{**o, "pictures": [Picture(**picture) for picture in o["pictures"]]}) for o in read_json(path)]
    except (ValueError, KeyError, TypeError) as error:
        say(f"{path} is damaged ({error}): the page has what is asked now.")
        return []


def _about(subject: Subject) -> str:
    if len(subject.runs.runs) > 1:
        kind = "folds" if subject.runs.are_folds else "seeds"
        return f"Of the {len(subject.runs.runs)} {kind} the first is asked, where nothing else is said."
    return ""
