"""Runs side by side."""

import dataclasses
import json
import shutil

import pytest

from cifar_fast.analysis.predictions import Predictions
from cifar_fast.commands import compare as command
from cifar_fast.errors import InputError
from cifar_fast.runs.compare import (
    compare,
    evidence_note,
    evidence_table,
    read_methods,
    result_rows,
    settings_rows,
    verdict_rows,
    write_comparison,
)
from cifar_fast.runs.results import Runs
from cifar_fast.text import counted


@pytest.fixture
def two_runs(digits_run, other_digits_run):
    return [Runs.read(digits_run), Runs.read(other_digits_run)]


def test_two_trained_models_are_compared_image_by_image(two_runs):
    row = verdict_rows([two_runs])[0]
    assert "McNemar" in row["test"] and "360 images" in row["test"]
    difference = two_runs[1].accuracies[0] - two_runs[0].accuracies[0]
    assert row["difference"] == f"{difference * 100:+.2f} points"


def test_only_settings_that_differ_are_listed(two_runs):
    rows = settings_rows(two_runs)
    assert ["schedule", "decay", "constant"] in rows
    assert not {"bs", "seed", "run"} & {row[0] for row in rows}


def test_the_page_has_curves_and_the_confusion_difference(two_runs, tmp_path):
    page = write_comparison(two_runs, tmp_path / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert two_runs[0].name in page and "not CIFAR-10" in page


@pytest.fixture
def methods(digits_run, other_digits_run, tmp_path):
    "Two of two seeds each."
    for name, run in (("a", digits_run), ("b", other_digits_run)):
        for seed in range(2):
            shutil.copytree(run, tmp_path / name / f"seed-{seed}")
    return [Runs.read(tmp_path / o) for o in "ab"]


def test_several_seeds_are_compared_as_methods(methods, tmp_path):
    for method, accuracy in zip(methods, (0.5, 0.7)):
        for seed, run in enumerate(method.runs):
            run.metrics["accuracy"] = accuracy + seed / 1000
    found = compare(*methods)
    assert "Welch" in found.test and found.verdict == "better" and found.difference == pytest.approx(0.2)
    assert methods[0].accuracy_text.startswith("50.05 % ±")
    first = methods[1].first
    said = Predictions(first.predictions.preds[:9], first.predictions.targs[:9], first.predictions.vocab)
    fewer = dataclasses.replace(first, test_images="else", predictions=said)
    with pytest.raises(InputError, match="different images"):
        compare(methods[0], Runs("fewer", [fewer, fewer], fewer.folder))
    page = write_comparison(methods[:1], tmp_path / "seeds.html").read_text()
    assert "50.10 %" in page and "lr_end" in page and "Settings that differ" not in page
    assert page.index("<h2>Pictures") < page.index("<h2>Settings") and "What accuracy costs" not in page


def test_runs_with_other_classes_on_the_same_images_are_compared_without_a_confusion_difference(methods, tmp_path):
    predictions = methods[1].first.predictions
    predictions.vocab, predictions.preds = ["even", "odd"], predictions.preds[:, :2]
    predictions.targs = predictions.targs % 2
    page = write_comparison(methods, tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "Welch" in page


def asked(run, folder, accuracies, **metrics):
    "A copy of a run, with what `evaluate --shift --confidence` leaves."
    shutil.copytree(run, folder)
    shift = {"clean": 0.9, "accuracies": accuracies, "calibration_errors": {}, "images": 360, "mean": 0.7}
    confidence = {"after": {"calibration_error": 0.0123}}
    (folder / "evidence.json").write_text(json.dumps({"shift": shift, "confidence": confidence}))
    found = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(found | metrics))
    return folder


def test_robustness_and_calibration_are_compared(digits_run, other_digits_run, tmp_path, capsys):
    tests = {"new": {"new": {"accuracy": 0.625}}, "cifar10h-probs.npy": {"entropy_of_people": 0.1}}
    first = asked(digits_run, tmp_path / "one", {"noise": [0.6] * 5, "blur": [0.8] * 5}, calibration_error=0.236)
    other = asked(other_digits_run, tmp_path / "two", {"noise": [0.8] * 5, "blur": [0.8] * 5}, also_tested=tests)
    header, rows = evidence_table(read_methods([first, other, digits_run]))
    one, two, bare = (dict(zip(header, o)) for o in rows)
    assert one["calibration error"] == "23.6 %" and one["after temperature"] == "1.2 %"
    assert two["accuracy under change"] == "80.0 %" and two["new"] == "62.5 %" and one["new"] == "-"
    assert one["mean corruption error, one = 1"] == "1.000" and two["mean corruption error, one = 1"] == "0.750"
    assert bare["accuracy under change"] == bare["after temperature"] == "-"
    with pytest.raises(SystemExit) as end:
        command.main([str(first), str(other), "--out", str(tmp_path / "page.html")])
    said, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    assert not end.value.code and "0.750" in said and "below 1 is better" in said
    assert "0.750" in page and "dashed: one" in page and "Beyond test accuracy" in page


def test_second_test_sets_of_the_same_name_are_told_apart(digits_run, tmp_path):
    tests = {f"{o}/new_data.npy": {"new": {"accuracy": o / 10}} for o in (2, 6)} | {"pets": {"pets": {"accuracy": 0.5}}}
    methods = read_methods([asked(digits_run, tmp_path / "one", {"noise": [0.6] * 5}, also_tested=tests)])
    header, [row] = evidence_table(methods)
    found = dict(zip(header, row))
    assert (found["2/new_data.npy: new"], found["6/new_data.npy: new"]) == ("20.0 %", "60.0 %")
    assert found["pets"] == "50.0 %" and "new" not in found


def test_change_of_other_test_images_is_not_set_against_each_other(digits_run, other_digits_run, tmp_path):
    first = asked(digits_run, tmp_path / "one", {"noise": [0.6] * 5})
    other = asked(other_digits_run, tmp_path / "two", {"noise": [0.8] * 5})
    methods = read_methods([first, other])
    methods[1].runs[0] = dataclasses.replace(methods[1].first, test_images="else")
    header, rows = evidence_table(methods)
    assert dict(zip(header, rows[1]))["mean corruption error, one = 1"] == "-"


def test_copies_of_seed_folders_are_passed_over(digits_run, tmp_path):
    for name in ("seed-0", "seed-1", "seed-0 (2)", "seed-1 copy"):
        shutil.copytree(digits_run, tmp_path / name)
    assert len(Runs.read(tmp_path).runs) == 2
    for name in ("empty/seed-0", "empty/seed-0 (2)"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match="no finished run"):
        Runs.read(tmp_path / "empty")


def test_a_run_without_an_epoch_has_no_training_accuracy(two_runs):
    first = two_runs[0].first
    none = Runs("none", [dataclasses.replace(first, metrics={**first.metrics, "train_accuracy": None})], first.folder)
    assert result_rows([none])[0]["train accuracy"] == "-"


def test_few_parameters_are_counted_and_many_are_millions(two_runs):
    assert counted(2_810) == "2,810" and counted(4_294_218) == "4.29 M" and counted(None) == "-"
    assert "Mean corruption error" not in evidence_note(evidence_table(two_runs)[0])


def test_a_page_that_cannot_be_written_is_one_line(two_runs, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere/page.html"):
        with pytest.raises(InputError, match="--out"):
            write_comparison(two_runs, path)


def test_other_test_images_cannot_be_paired(two_runs):
    other = Runs("other", [dataclasses.replace(two_runs[1].first, test_images="else")], two_runs[1].folder)
    with pytest.raises(InputError, match="different images"):
        compare(two_runs[0], other)


def test_runs_of_the_same_name_are_called_by_their_paths(digits_run, tmp_path):
    for parent in "ab":
        shutil.copytree(digits_run, tmp_path / parent / "seed-0")
    folders = [tmp_path / "a/seed-0", tmp_path / "b/seed-0", digits_run]
    assert [o.name for o in read_methods(folders)] == [str(folders[0]), str(folders[1]), digits_run.name]


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no finished run \(config.json is missing\)"):
        Runs.read(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        Runs.read(tmp_path / "nowhere")
