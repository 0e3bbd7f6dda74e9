"""Further test sets of a training: checked before it, told after it."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from cifar_fast.baselines import custom
from cifar_fast.commands import evaluate
from cifar_fast.errors import InputError
from cifar_fast.experiment import Experiment
from cifar_fast.runs.by_hand import write_run
from cifar_fast.runs.results import FinishedRun
from cifar_fast.training.learner import custom_learner
from conftest import make_run
from processes import Bomb

SMALL = ["--data", "digits", "--epochs", "1", "--width", "4", "--precision", "fp32", "--device", "cpu", "--quiet"]


@pytest.fixture
def published(digits, tmp_path):
    "Training digits in the form of CIFAR-10.1, and people's answers in that of CIFAR-10H."
    np.save(tmp_path / "new_data.npy", digits.train_x[:200].permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "new_labels.npy", digits.train_y[:200].numpy())
    np.save(tmp_path / "cifar10h-probs.npy", np.eye(10)[digits.test_y.numpy()])
    return [tmp_path / "new_data.npy", tmp_path / "cifar10h-probs.npy"]


def test_a_training_is_tested_on_them_as_evaluate_does_it(published, tmp_path, no_pictures):
    run = make_run(tmp_path / "run", epochs=1, also_test=published)
    kept = json.loads((run / "metrics.json").read_text())["also_tested"]
    page = (run / "report.html").read_text()
    asked = evaluate(run, *published)
    assert set(kept) == {"new_data.npy", "cifar10h-probs.npy"}
    own, other = kept["new_data.npy"]["new"], asked["test set new_data.npy"]["new"]
    assert own["accuracy"] == other["accuracy"] and own["per_class_accuracy"] == other["per_class_accuracy"]
    assert own["calibration_error"] == pytest.approx(other["calibration_error"], abs=1e-5)
    people = kept["cifar10h-probs.npy"]["accuracy_where_people_agree"]
    assert people == FinishedRun.read(run).accuracy
    assert page.count("<details") == 2 and "Test set: new_data.npy" in page and "class 7" in page


def test_the_command_line_takes_several_and_a_run_without_says_nothing(published, tmp_path, no_pictures, digits_run):
    with pytest.raises(SystemExit) as end:
        custom.main([*SMALL, "--run", str(tmp_path / "run"), *(a for o in published for a in ("--also-test", str(o)))])
    assert not end.value.code and len(FinishedRun.read(tmp_path / "run").metrics["also_tested"]) == 2
    assert "also_tested" not in FinishedRun.read(digits_run).metrics
    assert "<details" not in (digits_run / "report.html").read_text()


def unusable(published, folder, image_folder):
    "Paths that cannot be tested on, and what is said of each."
    images, labels = published[0], folder / "new_labels.npy"
    for name in ("short", "cut", "pickled"):
        shutil.copy(images, folder / f"{name}_data.npy")
        shutil.copy(labels, folder / f"{name}_labels.npy")
    np.save(folder / "short_labels.npy", np.zeros(3, np.int64))
    (folder / "cut_data.npy").write_bytes(images.read_bytes()[:-100])
    (folder / "pickled_data.npy").write_bytes(pickle.dumps(Bomb()))
    (folder / "empty").mkdir()
    return {
        folder / "short_data.npy": "3 labels for 200 images", folder / "cut_data.npy": "cannot be read",
        folder / "pickled_data.npy": "cannot be read", folder / "empty": "no images",
        image_folder({"cat": 2}): "class 'cat'", folder / "nowhere": "does not exist",
    }  # fmt: skip


def test_what_cannot_be_used_ends_it_before_anything_is_trained(published, tmp_path, capsys, monkeypatch, image_folder):
    monkeypatch.setattr(Experiment, "learner", lambda *args: pytest.fail("a Learner was made"))
    for path, message in unusable(published, tmp_path, image_folder).items():
        for extra in ([], ["--seeds", "2"]):
            with pytest.raises(SystemExit) as end:
                custom.main([*SMALL, *extra, "--also-test", str(path), "--run", str(tmp_path / "run")])
            said = capsys.readouterr().err
            assert end.value.code == 2 and said.count("\n") == 1 and message in said
            assert not (tmp_path / "run").exists() and not Path("exploded").exists()


def test_two_sets_of_the_same_name_are_both_told(published, tmp_path, no_pictures):
    for name in "ab":
        (tmp_path / name).mkdir()
        for file in ("new_data.npy", "new_labels.npy"):
            shutil.copy(tmp_path / file, tmp_path / name / file)
    run = make_run(tmp_path / "run", epochs=1, also_test=[tmp_path / o / "new_data.npy" for o in "abb"])
    found = FinishedRun.read(run).metrics["also_tested"]
    assert set(found) == {str(tmp_path / o / "new_data.npy") for o in "ab"}


def test_folds_have_no_further_test_sets(published, tmp_path):
    with pytest.raises(InputError, match="--also-test"):
        custom.run(data="digits", folds=2, also_test=published, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_sets(published, tmp_path, no_pictures):
    run = make_run(tmp_path / "run", epochs=1, also_test=published)
    for name in ("report.html", "metrics.json"):
        (run / name).unlink()
    custom.run(resume=str(run))
    assert len(FinishedRun.read(run).metrics["also_tested"]) == 2 and (run / "report.html").exists()


def test_a_learner_trained_by_hand_is_tested_on_them(published, digits_dls, tmp_path, no_pictures):
    learn = custom_learner(digits_dls, width=4, precision="fp32")
    numbers = write_run(learn, tmp_path / "run", also_test=published).metrics["also_tested"]["new_data.npy"]["new"]
    assert numbers["images"] == 200 and 0 <= numbers["accuracy"] <= 1
    with pytest.raises(InputError, match="does not exist"):
        write_run(learn, tmp_path / "other", also_test=["nowhere"])
    assert not (tmp_path / "other").exists()
