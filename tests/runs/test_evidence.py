"""A finished run asked for more than its test accuracy."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_fast.commands import evaluate
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import InputError
from cifar_fast.files import read_tensors, write_tensors
from cifar_fast.runs import questions
from cifar_fast.runs.compare import compare
from cifar_fast.runs.evidence import ANSWERS, PAGE
from cifar_fast.runs.folds import OUT_OF_FOLD
from cifar_fast.runs.results import EVIDENCE, FinishedRun, Runs
from conftest import make_run, without_pictures


@pytest.fixture
def run(digits_run, tmp_path):
    "A finished run that may be written into."
    return shutil.copytree(digits_run, tmp_path / "run")


@pytest.fixture
def changed_digits(digits, tmp_path):
    "The test digits in the form of CIFAR-10-C: five times the same, the last severity all black."
    folder = tmp_path / "digits-c"
    folder.mkdir()
    x = np.concatenate([digits.test_x.permute(0, 2, 3, 1).numpy()] * 5)
    x[len(x) // 5 * 4 :] = 0
    np.save(folder / "dark.npy", x)
    np.save(folder / "labels.npy", np.concatenate([digits.test_y.numpy()] * 5))
    return folder


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    "The folder of the same training as `digits_run`, in three folds, to be read only."
    with without_pictures():
        return make_run(tmp_path_factory.mktemp("runs") / "folds", folds=3)


@pytest.fixture
def two_seeds(digits_run, other_digits_run, tmp_path):
    "A folder as `--seeds 2` leaves it."
    for i, folder in enumerate((digits_run, other_digits_run)):
        shutil.copytree(folder, tmp_path / f"seeds/seed-{i}")
    return tmp_path / "seeds"


def refusal(args, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate.main([str(o) for o in args])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    return said


def test_unchanged_test_images_give_the_runs_own_accuracy_and_black_ones_a_drop(run, changed_digits):
    found, own = evaluate(run, changed_digits), FinishedRun.read(run).accuracy
    numbers = found["test set digits-c"]
    assert numbers["dark, severity 1"]["accuracy"] == own and numbers["dark, severity 1"]["p"] == 1
    assert numbers["dark, severity 5"]["difference"] < -0.5 and numbers["dark, severity 5"]["p"] < 1e-6
    assert "by McNemar" in str(found)
    assert json.loads((run / EVIDENCE).read_text())["test set digits-c"] == numbers


@pytest.mark.parametrize("name", ["seed-1", "fold-ablation"])
def test_a_run_may_be_called_as_a_seed_or_a_fold_is(name, digits_run, other_digits_run, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / name)
    assert evaluate(run, confidence=True).page == run / PAGE and not (tmp_path / PAGE).exists()
    assert "McNemar" in compare(Runs.read(run), Runs.read(other_digits_run)).test


def test_other_images_are_compared_unpaired(run, digits, tmp_path):
    np.save(tmp_path / "new_data.npy", digits.train_x[:300].permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "new_labels.npy", digits.train_y[:300].numpy())
    found = evaluate(run, tmp_path / "new_data.npy")
    assert "Fisher" in str(found) and found["test set new_data.npy"]["new"]["accuracy"] > 0.8


def test_soft_labels_of_the_test_images(run, digits, tmp_path):
    np.save(tmp_path / "cifar10h-probs.npy", np.eye(10)[digits.test_y.numpy()])
    found = evaluate(run, tmp_path / "cifar10h-probs.npy")["test set cifar10h-probs.npy"]
    metrics = FinishedRun.read(run).metrics
    assert found["cross_entropy"] == pytest.approx(metrics["loss"], rel=1e-3) and found["entropy_of_people"] == 0
    assert found["accuracy_where_people_agree"] == metrics["accuracy"]


def test_shift_has_a_block_and_a_baseline_and_what_was_asked_before_stays(
    run, other_digits_run, changed_digits, monkeypatch
):
    monkeypatch.setattr(questions, "measure_shift", partial(questions.measure_shift, kinds=["noise", "rotated"]))
    evaluate(run, changed_digits)
    found = evaluate(run, shift=True, baseline=other_digits_run)
    page, kept = (run / PAGE).read_text(), json.loads((run / EVIDENCE).read_text())
    assert found["shift"]["clean"] == FinishedRun.read(run).accuracy > found["shift"]["mean"]
    assert found["shift"]["error_against_baseline"] > 0 and set(kept) == {"shift", "test set digits-c"}
    assert (
        page.count("<details") == 2 and "not the corruptions of CIFAR-10-C" in page and "not CIFAR-10 results" in page
    )
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "<script" not in page


def test_what_somebody_elses_folder_says_is_text_and_asks_no_other_address(run, changed_digits, capsys):
    said = {"name": "x", "title": "<script>alert(1)</script>", "lines": [], "pictures": []}
    (run / ANSWERS).write_text(json.dumps([said]))
    evaluate(run, changed_digits)
    page = (run / PAGE).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    (run / ANSWERS).write_text(json.dumps([{**said, "pictures": [{"src": "https://example.com/x.png", "text": ""}]}]))
    evaluate(run, changed_digits)
    assert "example.com" not in (run / PAGE).read_text() and "answers.json is damaged" in capsys.readouterr().out


def test_what_cannot_be_used_is_one_line_and_nothing_is_written(run, digits, tmp_path, capsys, image_folder):
    assert "nothing is asked" in refusal([run], capsys)
    assert "holds no finished run" in refusal([tmp_path, "--shift"], capsys)
    assert "class 'cat'" in refusal([run, image_folder({"cat": 2})], capsys)
    assert "does not exist" in refusal([run, tmp_path / "nowhere"], capsys)
    (tmp_path / "x_data.npy").write_bytes(b"\x80\x04K\x01.")
    np.save(tmp_path / "x_labels.npy", digits.test_y.numpy())
    assert "cannot be read" in refusal([run, tmp_path / "x_data.npy"], capsys)
    assert not (run / PAGE).exists() and not (run / EVIDENCE).exists()


def test_images_that_the_run_was_not_tested_on_are_refused(run, image_folder):
    others = image_folder({f"train/{i}": 2 for i in range(10)} | {f"test/{i}": 1 for i in range(10)})
    with pytest.raises(InputError, match="other test images"):
        evaluate(run, shift=True, data=others)


def test_the_temperature_comes_from_held_out_training_images_alone(run, folds, tmp_path):
    poisoned = shutil.copytree(run, tmp_path / "poisoned")
    tensors, about = read_tensors(run / "predictions.safetensors")
    wrong = {"preds": tensors["preds"].flip(1).contiguous(), "targs": tensors["targs"]}
    write_tensors(poisoned / "predictions.safetensors", wrong, about)
    found = [evaluate(o, confidence=True, held_out=folds)["confidence"] for o in (run, poisoned)]
    assert found[0]["temperature"] == found[1]["temperature"] > 0
    assert found[0]["before"]["calibration_error"] != found[1]["before"]["calibration_error"]
    assert found[0]["after"]["loss"] != found[0]["before"]["loss"]


def test_a_stored_temperature_is_applied_when_asked(run, folds, digits):
    image = digits.test_x[0].permute(1, 2, 0).numpy()
    with pytest.raises(InputError, match="no temperature"):
        Predictor(run / "model", calibrated=True)
    before = Predictor(run / "model")(image)
    temperature = evaluate(run, confidence=True, held_out=folds)["confidence"]["temperature"]
    plain, cool = Predictor(run / "model")(image), Predictor(run / "model", calibrated=True)(image)
    assert plain == before and cool.label == plain.label
    powers = [o ** (1 / temperature) for o in plain.probabilities.values()]
    assert cool.probability == pytest.approx(max(powers) / sum(powers), rel=1e-4)


def test_without_held_out_images_there_is_no_temperature(run):
    found = evaluate(run, confidence=True)
    assert "temperature" not in found["confidence"] and "--held-out" in str(found)
    with pytest.raises(KeyError):
        found["shift"]
    assert found["confidence"]["before"]["loss"] == pytest.approx(FinishedRun.read(run).metrics["loss"], rel=1e-3)


def test_folds_of_another_training_are_refused(other_digits_run, run, folds, capsys):
    assert "schedule" in refusal([other_digits_run, "--confidence", "--held-out", folds], capsys)
    assert "no finished folds" in refusal([run, "--confidence", "--held-out", run], capsys)
    assert not (run / PAGE).exists()


def test_images_of_no_class_are_told_apart(run, tmp_path, digits, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "noise.npy", noise)
    found = evaluate(run, ood=tmp_path / "noise.npy")["foreign images"]
    assert 0 <= found["auroc"] <= 1 and found["auroc"] != 0.5
    np.save(tmp_path / "same-kind.npy", digits.train_x.permute(0, 2, 3, 1).numpy())
    same_kind = evaluate(run, ood=tmp_path / "same-kind.npy", device="auto")
    assert abs(same_kind["foreign images"]["auroc"] - 0.5) < 0.1
    assert "360 of the run's own test images are among digits" in refusal([run, "--ood", "digits"], capsys)


def test_what_is_given_for_a_question_that_is_not_asked_is_refused(run, folds, other_digits_run, capsys):
    assert "--baseline is for --shift" in refusal([run, "--confidence", "--baseline", other_digits_run], capsys)
    assert "--held-out is for" in refusal([run, "--shift", "--held-out", folds], capsys)


def test_all_seeds_together_and_their_predictor(two_seeds, digits):
    found = evaluate(two_seeds, ensemble=True)["ensemble"]
    members = [Predictor(two_seeds / o / "model") for o in ("seed-0", "seed-1")]
    together, images = Predictor(two_seeds), digits.test_x.permute(0, 2, 3, 1).numpy()
    answers = together(images[:50])
    for own, one, two in zip(answers, *(o(images[:50]) for o in members)):
        assert own.probability == pytest.approx(
            (one.probabilities[own.label] + two.probabilities[own.label]) / 2, abs=1e-5
        )
    right = together.logits(images).argmax(1) == digits.test_y.numpy()
    assert right.mean() == pytest.approx(found["accuracy"]) and together.card.metrics == {}
    assert set(found["by_size"]) == {"1", "2"} and math.isfinite(found["p"])
    assert (two_seeds / PAGE).exists()


def test_one_seed_is_no_ensemble(run, capsys):
    assert "two models or more" in refusal([run, "--ensemble"], capsys)


def test_a_leak_is_counted_and_taken_out(run, digits, monkeypatch):
    leaking = replace(digits, train_x=torch.cat([digits.train_x, digits.test_x[:36]]),
                      train_y=torch.cat([digits.train_y, digits.test_y[:36]]))  # fmt: skip
    monkeypatch.setattr("cifar_fast.runs.subject.images_from_options", lambda options: leaking)
    found = evaluate(run, duplicates=True)["duplicates"]
    right = FinishedRun.read(run).predictions.right
    fresh = torch.ones(len(right), dtype=torch.bool)
    fresh[[test for test, _, _ in found["pairs"]]] = False
    assert found["exact"] >= 36 and {o[0] for o in found["pairs"]} >= set(range(36))
    assert found["accuracy_without"] == pytest.approx(right[fresh].double().mean().item())


def test_mistakes_and_what_lies_near_them(run):
    found = evaluate(run, neighbours=True)
    numbers, tested = found["neighbours"], FinishedRun.read(run).predictions
    assert numbers["nearest_has_its_class"] > 0.8 and numbers["mistakes"] == int((~tested.right).sum())
    assert (run / PAGE).read_text().count("data:image/png;base64,") == 2


def test_a_run_without_mistakes_on_one_image_has_nothing_to_show_of_them(tmp_path, no_pictures):
    pixels, labels = np.zeros((40, 8, 8, 3), np.uint8), np.repeat([0, 1], 20)
    pixels[20:] = 255
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=labels, x_test=pixels[-1:], y_test=labels[-1:])
    run = make_run(tmp_path / "run", data=str(tmp_path / "a.npz"), bs=8, epochs=3, seed=0)
    assert FinishedRun.read(run).accuracy == 1
    found = evaluate(run, neighbours=True)
    assert found["neighbours"] == {"nearest_has_its_class": 1, "mistakes": 0}
    assert "data:image/png;base64," not in (run / PAGE).read_text()


def test_labels_that_look_wrong_are_listed_for_a_training_without_them(run, folds, tmp_path, no_pictures):
    pytest.importorskip("cleanlab")
    found = evaluate(run, labels=True, held_out=folds)["labels"]
    rows = list(csv.DictReader((run / "suspicious_labels.csv").open()))
    assert len(rows) == found["suspects"] > 0 and set(rows[0]) >= {"index", "label", "suggested", "quality"}
    tensors = read_tensors(folds / OUT_OF_FOLD)[0]
    assert [int(tensors["targs"][int(o["index"])]) for o in rows] == [int(o["label"]) for o in rows]
    without = make_run(tmp_path / "without", epochs=1, drop_labels=str(run / "suspicious_labels.csv"))
    assert f"({1437 - len(rows):,} + 360 images)" in FinishedRun.read(without).metrics["title"]


def test_labels_need_held_out_predictions_before_anything_is_asked(run, capsys, monkeypatch):
    monkeypatch.setattr(questions, "measure_shift", lambda *args: pytest.fail("it was asked"))
    assert "--held-out" in refusal([run, "--shift", "--labels"], capsys)


def test_where_it_looks_is_drawn(run):
    pytest.importorskip("captum")
    evaluate(run, explain=True)
    assert "Where does it look?" in (run / PAGE).read_text()


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_of_labels_may_have_moved_with_the_images(packed, tmp_path, no_pictures, image_folder):
    old, new = tmp_path / "old", tmp_path / "new"
    image_folder({"all": 40}, name="old/photos")
    table = old / "t.csv"
    table.write_text("path,label\n" + "".join(f"all/{i}.png,{'ab'[i % 2]}\n" for i in range(40)))
    data = shutil.make_archive(str(old / "photos"), "zip", old / "photos") if packed else str(old / "photos")
    run = make_run(tmp_path / "run", data=data, labels=str(table), epochs=1, bs=4, width=4)
    old.rename(new)
    moved = str(new / Path(data).name)
    assert evaluate(run, duplicates=True, data=moved)["duplicates"]["exact"] == 0
    (new / "t.csv").unlink()
    with pytest.raises(InputError, match=r"old.t\.csv"):
        evaluate(run, duplicates=True, data=moved)
