"""Several runs side by side: one page and one table, with a verdict on every pair."""

from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch

from cifar_fast.analysis.charts import History, plot_complexity, plot_curves
from cifar_fast.analysis.interpret import plot_confusion_difference
from cifar_fast.analysis.shift import Shift, plot_shift
from cifar_fast.analysis.stats import Comparison, compare_methods, compare_models, holm, seeds_needed
from cifar_fast.errors import InputError
from cifar_fast.runs.page import Picture, write_page
from cifar_fast.runs.report import warnings_of
from cifar_fast.runs.results import NO_METHOD, FinishedRun, Runs, duration, known, percent
from cifar_fast.text import counted


def read_methods(folders: list[str | Path]) -> list[Runs]:
    "A method a folder, called by the folder's name, or by its path where two have the same name."
    methods = [Runs.read(o) for o in folders]
    names = [o.name for o in methods]
    return [replace(o, name=str(path)) if names.count(o.name) > 1 else o for o, path in zip(methods, folders)]


def compare(
    first: Runs | str | Path,  # runs, or their folder
    second: Runs | str | Path,
) -> Comparison:  # which a notebook shows
    """Welch's test where both have several seeds, else McNemar's on the first runs.

    Raises `InputError` where the test images or the classes are not the same. Several seeds may have seen the images
    at another size, as of a folder that was read with another --size.
    """
    first, second = (o if isinstance(o, Runs) else Runs.read(o) for o in (first, second))
    if folds := [o.name for o in (first, second) if o.are_folds]:
        raise InputError(f"{folds[0]} has folds, which were tested on training images: compare runs of several seeds")
    names = f"{second.name} against {first.name}"
    one, other = first.first, second.first
    several = len(first.runs) > 1 and len(second.runs) > 1
    if one.test_images != other.test_images and not (several and _same_labels(one, other)):
        raise InputError(f"{first.name} and {second.name} were tested on different images: compare like with like")
    if several:
        return replace(compare_methods(first.accuracies, second.accuracies), names=names)
    if not _same_labels(one, other):
        raise InputError(f"{first.name} and {second.name} know different classes: compare like with like")
    return replace(compare_models(one.predictions.right, other.predictions.right), names=names)


def _same_labels(one: FinishedRun, other: FinishedRun) -> bool:
    same_classes = list(one.predictions.vocab) == list(other.predictions.vocab)
    return same_classes and torch.equal(one.predictions.targs, other.predictions.targs)


def result_rows(methods: list[Runs]) -> list[dict[str, str]]:
    "A dict a method: each column's name and cell."
    return [
        {
            "run": o.name,
            "test accuracy": o.accuracy_text,
            "seeds": str(len(o.runs)),
            "train accuracy": percent(o.mean("train_accuracy")),
            "training": duration(o.mean("train_seconds")),
            "images/s": known(o.mean("images_per_second"), "{:,.0f}"),
            "parameters": counted(o.metrics["params"]),
            "MACs": counted(o.metrics["macs"]),
            "memory": f"{o.mean('peak_memory_mb'):,.0f} MB",
        }
        for o in methods
    ]


def verdict_rows(
    pairs: Iterable[tuple[Runs, Runs]],  # all that one page compares
) -> list[dict[str, str]]:
    "A dict a pair: pair, test, difference, interval, p, verdict, seeds. Several pairs are corrected for being many."
    found = [compare(*pair) for pair in pairs]
    return [
        {
            "pair": o.names,
            "test": o.test,
            "difference": f"{o.difference * 100:+.2f} points",
            "interval": f"{o.low * 100:+.2f} to {o.high * 100:+.2f}",
            "p": f"{p:.3f}" if p >= 0.001 else f"{p:.0e}",
            "verdict": replace(o, p=p).verdict,
            "seeds": seeds_line(o),
        }
        for o, p in zip(found, holm([o.p for o in found]))
    ]


def seeds_line(found: Comparison) -> str:
    "How many seeds it would take to see the difference at hand, and one of half a point."
    if found.deviation == 0:
        return "More seeds, or more test images, would show how far chance goes."
    if found.deviation is None:
        return "Two trained models: whether the ways of training differ, several seeds of each would say (--seeds 5)."
    asked = {"this difference": abs(found.difference), "half a point": 0.005}
    needed = {what: seeds_needed(o, found.deviation) for what, o in asked.items()}
    said = [f"{what}, {f'{n:,} seeds' if n else 'more than 1,000 seeds'}" for what, n in needed.items()]
    return f"To see it with 80 % probability, each side needs: for {'; for '.join(said)}."


def shifts(methods: list[Runs]) -> dict[str, Shift]:
    "What `evaluate --shift` has measured, by method, of those that were asked about the same test images."
    found, images = {}, set()
    for o in methods:
        kept = o.evidence.get("shift")
        if kept and {o.first.test_images} >= images:
            found[o.name] = Shift(**{field.name: kept[field.name] for field in fields(Shift)})
            images = {o.first.test_images}
    return found


def evidence_table(methods: list[Runs]) -> tuple[list[str], list[list[str]]]:
    "Header and a row a method: calibration, and what `evaluate` and --also-test have found of any of them."
    shifted, tests = shifts(methods), _second_tests(methods)
    columns = {"calibration error": [percent(o.mean("calibration_error")) for o in methods]}
    after = [o.evidence.get("confidence", {}).get("after", {}).get("calibration_error") for o in methods]
    columns["after temperature"] = [percent(o) for o in after]
    if shifted:
        baseline, measured = next(iter(shifted)), [shifted.get(o.name) for o in methods]
        errors = [o and o.error_against(shifted[baseline]) for o in measured]
        columns["accuracy under change"] = [percent(o and o.mean) for o in measured]
        columns[f"mean corruption error, {baseline} = 1"] = [known(o, "{:.3f}") for o in errors]
    for name in dict.fromkeys(name for o in tests for name in o):
        columns[name] = [percent(o.get(name)) for o in tests]
    columns = {name: o for name, o in columns.items() if set(o) != {"-"}}
    return ["run", *columns], [list(row) for row in zip([o.name for o in methods], *columns.values())]


def _second_tests(methods: list[Runs]) -> list[dict[str, float]]:
    "A dict a method: mean accuracy over seeds on each set of --also-test; sets of one name are told apart by path."
    found: list[dict[tuple[str, str], list[float]]] = [{} for _ in methods]
    for own, method in zip(found, methods):
        for run in method.runs:
            for path, sets in run.metrics.get("also_tested", {}).items():
                for name, numbers in sets.items():
                    if isinstance(numbers, dict):  # else what people said
                        own.setdefault((path, name), []).append(numbers["accuracy"])
    names = [name for _, name in {key for own in found for key in own}]
    return [
        {f"{path}: {name}" if names.count(name) > 1 else name: fmean(o) for (path, name), o in own.items()}
        for own in found
    ]


def evidence_note(
    header: list[str],  # of `evidence_table`
) -> str:
    "What the columns of such a table are."
    said = ["Calibration and further test sets: means over seeds."]
    if {"after temperature", "accuracy under change"} & set(header):
        said.append("Temperature and change: the first seed's.")
    if any(o.startswith("mean corruption error") for o in header):
        said.append("Mean corruption error: errors under change over the baseline's; below 1 is better.")
    return " ".join(said)


def correction_line(n_pairs: int) -> str:
    "How several verdicts on one page were corrected; empty for one."
    if n_pairs < 2:
        return ""
    return f"p and verdicts are corrected for {n_pairs} comparisons (Holm 1979); intervals are not."


def settings_rows(methods: list[Runs]) -> list[list[str]]:
    "A row an option: its name, then each method's value. Of several methods those options that differ."
    configs = [o.first.config for o in methods]
    names = [name for name in dict.fromkeys(name for o in configs for name in o) if name not in NO_METHOD]
    rows = [[name, *(known(o.get(name)) for o in configs)] for name in names]
    return [row for row in rows if len(methods) == 1 or len(set(row[1:])) > 1]


def seed_rows(methods: list[Runs]) -> list[dict[str, str]]:
    "A dict a run of the methods that have several: each column's name and cell."
    return [
        {
            "run": method.name,
            "seed": str(o.metrics["seed"]),
            "test accuracy": percent(o.accuracy, 2),
            "train accuracy": percent(o.metrics.get("train_accuracy")),
            "training": duration(o.metrics.get("train_seconds")),
        }
        for method in methods
        for o in method.runs
        if len(method.runs) > 1
    ]


def comparison_figures(methods: list[Runs]) -> list[Picture]:
    "Curves together, what they cost, and how each confuses otherwise than the first."
    histories = [History(o.name, o.first.history.epochs, o.first.history.lrs) for o in methods]
    figures = [
        Picture.of(plot_curves(*histories), "Accuracy, loss and learning rate; of several seeds the first."),
    ]
    if len(methods) > 1:
        figures.append(Picture.of(plot_complexity({o.name: o.first.metrics for o in methods}), "What accuracy costs."))
    shifted = shifts(methods)
    for name in list(shifted)[1:]:
        baseline = next(iter(shifted))
        text = f"Accuracy against severity of change: {name}; dashed: {baseline}."
        figures.append(Picture.of(plot_shift(shifted[name], shifted[baseline]), text))
    for other in methods[1:]:
        first, second = methods[0].first, other.first
        same_classes = list(first.predictions.vocab) == list(second.predictions.vocab)
        if same_classes and first.test_images == second.test_images:
            text = f"{other.name} against {methods[0].name}, in images: red is worse, blue is better."
            figure = plot_confusion_difference(first.predictions, second.predictions)
            figures.append(Picture.of(figure, text))
    return figures


def write_comparison(
    methods: list[Runs],  # two or more, or the seeds of one
    path: Path,  # of the page
    heading: str = "Runs side by side",  # of the page
) -> Path:
    "Write the page. Raises `InputError` for runs that cannot be compared, or a path that cannot be a page."
    evidence_header, evidence = evidence_table(methods)
    return write_page(
        path,
        "comparison.html",
        heading,
        warnings=list(dict.fromkeys(w for o in methods for w in warnings_of(o.first.metrics))),
        results=result_rows(methods),
        verdicts=(verdicts := verdict_rows(combinations(methods, 2))),
        correction=correction_line(len(verdicts)),
        evidence_header=evidence_header,
        evidence=evidence if len(evidence_header) > 1 else [],
        evidence_note=evidence_note(evidence_header),
        seeds=seed_rows(methods),
        settings_title="Settings that differ" if len(methods) > 1 else "Settings",
        settings_header=["option", *(o.name for o in methods)],
        settings=settings_rows(methods),
        figures=comparison_figures(methods),
    )


def comparison_text(methods: list[Runs]) -> str:
    "What the page's tables say, for the terminal."
    verdicts, (header, evidence) = verdict_rows(combinations(methods, 2)), evidence_table(methods)
    results = result_rows(methods)
    said = [
        markdown_table(list(results[0]), [list(o.values()) for o in results]),
        "± and ranges are 95 % intervals, over seeds where there are several, else over test images.",
        *("{pair}: {difference} ({interval}), p = {p}: {verdict}. {test}. {seeds}".format(**row) for row in verdicts),
        *([markdown_table(header, evidence), evidence_note(header)] if len(header) > 1 else []),
        correction_line(len(verdicts)),
    ]
    return "\n".join(filter(None, said))


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    "A table for the terminal and for pasting."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(o.replace("|", "\\|") for o in row) + " |" for row in lines)
