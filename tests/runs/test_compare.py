"""Runs side by side."""

import json
import shutil

import pytest

from cifar_fast.errors import InputError
from cifar_fast.runs.compare import (
    compare,
    differing_settings,
    read_methods,
    result_rows,
    verdict_rows,
    write_comparison,
)
from cifar_fast.runs.results import Runs


@pytest.fixture
def two_runs(digits_run, other_digits_run):
    return [Runs.read(digits_run), Runs.read(other_digits_run)]


def test_two_trained_models_are_compared_image_by_image(two_runs):
    row = verdict_rows(two_runs)[0]
    assert "McNemar" in row["test"] and "360 images" in row["test"]
    difference = two_runs[1].accuracies[0] - two_runs[0].accuracies[0]
    assert row["difference"] == f"{difference * 100:+.2f} points"


def test_only_settings_that_differ_are_listed(two_runs):
    rows = differing_settings(two_runs)
    assert ["schedule", "decay", "constant"] in rows
    assert not {"bs", "seed", "run"} & {row[0] for row in rows}


def test_the_page_has_curves_and_the_confusion_difference(two_runs, tmp_path):
    page = write_comparison(two_runs, tmp_path / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert two_runs[0].name in page and "not CIFAR-10" in page


def test_several_seeds_are_compared_as_methods(digits_run, other_digits_run, tmp_path):
    for name, run in (("a", digits_run), ("b", other_digits_run)):
        for seed in range(2):
            folder = shutil.copytree(run, tmp_path / name / f"seed-{seed}")
            metrics = json.loads((folder / "metrics.json").read_text())
            metrics["accuracy"] = {"a": 0.5, "b": 0.7}[name] + seed / 1000
            (folder / "metrics.json").write_text(json.dumps(metrics))
    methods = [Runs.read(tmp_path / o) for o in "ab"]
    found = compare(*methods)
    assert "Welch" in found.test and found.verdict == "better" and found.difference == pytest.approx(0.2)
    assert methods[0].accuracy_text.startswith("50.05 % ±")
    page = write_comparison(methods[:1], tmp_path / "seeds.html").read_text()
    assert "50.10 %" in page and "lr_end" in page and "Settings that differ" not in page


def test_runs_with_other_classes_on_the_same_images_are_compared_without_a_confusion_difference(
    digits_run, other_digits_run, tmp_path
):
    for name, run in (("a", digits_run), ("b", other_digits_run)):
        for seed in range(2):
            shutil.copytree(run, tmp_path / name / f"seed-{seed}")
    methods = [Runs.read(tmp_path / o) for o in "ab"]
    predictions = methods[1].first.predictions
    predictions.vocab, predictions.preds = ["even", "odd"], predictions.preds[:, :2]
    predictions.targs = predictions.targs % 2
    page = write_comparison(methods, tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "Welch" in page


def test_copies_of_seed_folders_are_passed_over(digits_run, tmp_path):
    for name in ("seed-0", "seed-1", "seed-0 (2)", "seed-1 copy"):
        shutil.copytree(digits_run, tmp_path / name)
    assert len(Runs.read(tmp_path).runs) == 2
    for name in ("empty/seed-0", "empty/seed-0 (2)"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match="no finished run"):
        Runs.read(tmp_path / "empty")


def test_a_run_without_an_epoch_has_no_training_accuracy(two_runs):
    import dataclasses

    first = two_runs[0].first
    none = Runs("none", [dataclasses.replace(first, metrics={**first.metrics, "train_accuracy": None})])
    assert result_rows([none])[0][3] == "-"


def test_a_page_that_cannot_be_written_is_one_line(two_runs, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere/page.html"):
        with pytest.raises(InputError, match="--out"):
            write_comparison(two_runs, path)


def test_other_test_images_cannot_be_paired(two_runs):
    import dataclasses

    other = Runs("other", [dataclasses.replace(two_runs[1].first, test_images="else")])
    with pytest.raises(InputError, match="different images"):
        compare(two_runs[0], other)


def test_runs_of_the_same_name_are_called_by_their_paths(digits_run, tmp_path):
    for parent in "ab":
        shutil.copytree(digits_run, tmp_path / parent / "seed-0")
    folders = [tmp_path / "a/seed-0", tmp_path / "b/seed-0", digits_run]
    assert [o.name for o in read_methods(folders)] == [str(folders[0]), str(folders[1]), digits_run.name]


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        Runs.read(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        Runs.read(tmp_path / "nowhere")
