"""The article's claims, checked on runs made up for the purpose, and the folder that repeats it."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import models
from article import claims
from article import reproduction as reproduced
from article.claims import AGREED, NOT_AGREED, NOT_TESTABLE, Claims, explanation, settled
from article.published import depth, published
from article.reproduction import Reproduction, next_rows
from cifar_fast.analysis.charts import History
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.data.image_set import CIFAR10_VOCAB
from cifar_fast.errors import InputError
from cifar_fast.runs.results import FinishedRun, Runs

N = 1000  # images of a class


def method(name, accuracy, train, weights="none", params=4_294_218, mistakes=(), epochs=(), memory=1000):
    "A run that recognises `accuracy` of each class and makes these (true, taken for, images) mistakes."
    targs = torch.arange(10).repeat_interleave(N)
    said = targs.clone()
    for c in range(10):
        said[c * N + round(accuracy * N) : (c + 1) * N] = (c + 5) % 10
    ends = {name: (i + 1) * N for i, name in enumerate(CIFAR10_VOCAB)}
    for true, other, n in mistakes:
        said[ends[true] - n : ends[true]] = CIFAR10_VOCAB.index(other)
        ends[true] -= n
    preds = Predictions(torch.eye(10)[said], targs, CIFAR10_VOCAB)
    metrics = {
        "accuracy": accuracy, "train_accuracy": train, "data": "cifar10", "data_is_cifar10": True, "weights": weights,
        "params": params, "peak_memory_mb": memory,
    }  # fmt: skip
    history = History(name, [{"accuracy": o} for o in epochs or [accuracy] * 30])
    return Runs(name, [FinishedRun(Path(name), {}, metrics, history, preds, "images")], Path(name))


def runs(**changed):
    lookalikes = [("cat", "dog", 150), ("airplane", "bird", 90), ("airplane", "ship", 80), ("automobile", "truck", 120)]
    found = {
        "resnet18-adam": method("r", 0.48, 0.50, "imagenet", mistakes=[("cat", "frog", 240)]),
        "resnet18-sgd": method("s", 0.40, 0.41, "imagenet"),
        "custom-constant": method("c", 0.77, 0.99, mistakes=lookalikes),
        "custom-decay": method("d", 0.79, 0.99, mistakes=lookalikes),
        "bs-64": method("m", 0.5, 0.5, memory=1000),
        "bs-16": method("n", 0.5, 0.5, memory=950),
    }
    return {**found, **changed}


def verdicts(claims):
    return {o.claim: o.verdict for o in claims.all()}


def test_the_articles_own_numbers_agree_with_it():
    found = verdicts(Claims(runs(), 30))
    assert set(found.values()) == {AGREED, NOT_TESTABLE}
    not_testable = [claim for claim, verdict in found.items() if verdict == NOT_TESTABLE]
    assert [o[:20] for o in not_testable] == ["Peak memory at batch", "ResNet-18 is too sha"]


def test_a_claim_about_imagenet_is_not_testable_with_other_weights():
    claims = Claims(runs(**{"resnet18-adam": method("r", 0.48, 0.5, "tiny")}), 30).all()
    assert claims[0].verdict == NOT_TESTABLE and "weights are tiny, not ImageNet's" in claims[0].measured
    assert claims[1].verdict == AGREED


def test_other_numbers_do_not_agree():
    found = Claims(runs(**{"custom-constant": method("c", 0.70, 0.99), "bs-16": method("n", 0.5, 0.5, memory=500)}), 30)
    by_start = {claim[:12]: verdict for claim, verdict in verdicts(found).items()}
    assert by_start["Custom CNN, "] != NOT_TESTABLE
    assert verdicts(found)["Custom CNN, fixed rate: 77 % (99 %)"] == NOT_AGREED
    assert verdicts(found)["A smaller batch saves little memory"] == NOT_AGREED


def test_fewer_epochs_judge_nothing_about_accuracy():
    found = verdicts(Claims(runs(), 2))
    assert found["Custom CNN, fixed rate: 77 % (99 %)"] == found["10 to 15 epochs are enough"] == NOT_TESTABLE


def test_settled_is_the_first_epoch_that_stays_near_the_last():
    assert settled(method("m", 0.5, 0.5, epochs=[0.1, 0.5, 0.3, 0.49, 0.5]), 0.02) == 4
    assert settled(method("m", 0.5, 0.5, epochs=[0.5, 0.5]), 0.02) == 1


def study(sizes, fine_tuned):
    names = {f"size-{o}": a for o, a in sizes.items()}
    names |= {"random": 0.3, "bn-train": 0.5, "head-fastai": 0.5, "fine-tuned": fine_tuned}
    return {name: method(name, a, a, "tiny") for name, a in names.items()}


def test_the_explanation_follows_the_numbers():
    text = " ".join(explanation(study({32: 0.60, 64: 0.75, 128: 0.55, 224: 0.40}, 0.70)))
    assert "does best at 64 pixels: 75.0 %, against 60.0 % at 32" in text and "the size helps most" in text
    text = " ".join(explanation(study({32: 0.50, 64: 0.60, 128: 0.70, 224: 0.87}, 0.95)))
    assert "The larger the images, the better" in text and "fine-tuning helps most" in text
    text = " ".join(explanation(study({32: 0.60, 64: 0.5, 128: 0.5, 224: 0.5}, 0.60)))
    assert "fails" not in text


def test_several_next_steps_have_verdicts_that_are_corrected_for_being_several():
    steps = [method("m", a, a) for a in (0.79, 0.78, 0.80, 0.80, 0.80)]
    for o in steps:
        o.first.metrics["accuracy_interval"] = 0, 1
    baseline, alone, among = (next_rows(steps[:n])[min(n, 2) - 1] for n in (1, 2, 5))
    assert baseline["p"] == "-" and float(among["p"]) > 2 * float(alone["p"]) > 0


def reproduction(folder, resnet18_file, **changed):
    options = dict(
        data="digits", weights=str(resnet18_file), epochs=2, study_epochs=1, images=200, test_images=60, seeds=2,
        seed=0, precision="fp32", device="cpu", body="", body_weights="none",
    )  # fmt: skip
    return Reproduction(str(folder), ["article", "memory", "study", "next"], **{**options, **changed})


def test_usual_sizes_that_the_data_cannot_meet_are_all_that_there_is(tmp_path, resnet18_file, capsys):
    made = reproduction(tmp_path / "a", resnet18_file, images=None, test_images=None)
    assert (made.options.images, made.options.test_images) == (0, 0)
    assert capsys.readouterr().out.splitlines() == [
        "digits has 1,437 training images: all of them are taken, not 10,000.",
        "digits has 360 test images: all of them are taken, not 2,000.",
    ]
    assert "all training images, all test images" in made.about("one seed")
    made = reproduction(tmp_path / "b", resnet18_file)
    again = reproduction(tmp_path / "b", resnet18_file, images=None, test_images=None)
    assert (again.options.images, again.options.test_images) == (200, 60)


class Here(nullcontext):
    "In place of a pool of processes."

    def __init__(self, *args):
        super().__init__()

    def __enter__(self):
        return self

    def submit(self, function, *args):
        return SimpleNamespace(result=lambda: function(*args))


@pytest.mark.slow
def test_the_article_is_repeated_and_continued(no_pictures, tmp_path, resnet18_file, capsys, monkeypatch):
    monkeypatch.setattr(claims, "SIZES", (32, 64))
    pools = iter([reproduced.ProcessPoolExecutor])  # one training has a process of its own, as all have otherwise
    monkeypatch.setattr(reproduced, "ProcessPoolExecutor", lambda *args: next(pools, Here)(*args))
    folder = tmp_path / "article"
    assert reproduction(folder, resnet18_file).execute() == 0
    page = (folder / "index.html").read_text()
    assert "not CIFAR-10" in page and "Why did the transfer fail?" in page and "a fourth convolution" in page
    assert "corrected for 5 comparisons" in page
    assert page.count("data:image/png;base64,") >= 6 and "<script" not in page
    done = (folder / "article/custom-decay/metrics.json").stat().st_mtime_ns
    (folder / "study/size-64/metrics.json").unlink()
    shutil.rmtree(folder / "next/agc/seed-1")
    capsys.readouterr()
    assert reproduction(folder, resnet18_file).execute() == 0
    begun = [o for o in capsys.readouterr().out.splitlines() if o.startswith("[")]
    assert [o.split(": ")[1] for o in begun] == [
        "frozen, 64 pixels", "adaptive gradient clipping in place of batch norm",
    ]  # fmt: skip
    assert (folder / "article/custom-decay/metrics.json").stat().st_mtime_ns == done


def test_other_options_do_not_mix_into_the_folder(tmp_path, resnet18_file):
    reproduction(tmp_path / "article", resnet18_file)
    with pytest.raises(InputError, match="begun with epochs 2, and now it is 3"):
        reproduction(tmp_path / "article", resnet18_file, epochs=3)


def test_it_goes_on_where_the_images_have_moved_and_not_where_they_have_changed(tmp_path, resnet18_file, image_folder):
    folder, root = tmp_path / "article", image_folder({"cat": 5, "dog": 5})
    reproduction(folder, resnet18_file, data=str(root), images=0, test_images=0)
    place = str(root.rename(tmp_path / "elsewhere"))
    moved = reproduction(folder, resnet18_file, data=place, images=0, test_images=0)
    assert moved.options.data == place
    (tmp_path / "elsewhere/cat/0.png").unlink()
    for data in (place, "auto"):
        with pytest.raises(InputError, match="begun on other images"):
            reproduction(folder, resnet18_file, data=data, images=0, test_images=0)


def test_another_body_may_join_the_study_later_and_stays(tmp_path, resnet18_file):
    folder = tmp_path / "article"
    assert not [o for o in reproduction(folder, resnet18_file).trainings if o.name.startswith("body")]
    reproduction(folder, resnet18_file, body="squeezenet1_1")
    again = reproduction(folder, resnet18_file)
    added = [o for o in again.trainings if o.name.startswith("body")]
    assert [o.options.get("size") for o in added] == [32, 64, 128, 224, 64]
    assert {o.options["arch"] for o in added} == {"squeezenet1_1"}
    with pytest.raises(InputError, match="begun with body squeezenet1_1, and now it is alexnet"):
        reproduction(folder, resnet18_file, body="alexnet")


def test_the_explanation_speaks_of_the_other_body():
    with_body = study({32: 0.60, 64: 0.75, 128: 0.55, 224: 0.40}, 0.70)
    for size, accuracy in {32: 0.46, 64: 0.69, 128: 0.80, 224: 0.84}.items():
        with_body[f"body-{size}"] = method("b", accuracy, accuracy, "imagenet")
    with_body["body-fine-tuned-64"] = method("t", 0.80, 0.9, "imagenet")
    for o in with_body.values():
        o.first.metrics["model"] = "lite0"
    text = " ".join(explanation(with_body))
    assert "lite0 with imagenet weights, frozen: 32: 46.0 %" in text and "38.0 points more at 224" in text
    assert "Fine-tuned at 64 pixels it has 80.0 %, +11.0 points against frozen" in text


def test_published_networks_are_torchvisions_own(tmp_path):
    found = {o.name: o for o in published()}
    assert (found["alexnet"].params, round(found["resnet152"].top1, 3)) == (61_100_840, 0.823)
    assert [depth(o) for o in ("alexnet", "vgg19", "googlenet", "resnet152")] == [8, 19, 22, 152]


def test_the_famous_networks_are_drawn_with_a_run_among_them(tmp_path, digits_run, capsys):
    out = tmp_path / "models.png"
    models.main(runs=str(digits_run), out=str(out))
    said = capsys.readouterr().out
    assert "| convnext_tiny | 82.5% | 96.1% | 4.46 | 28.6 | IMAGENET1K_V1 |" in said
    assert Image.open(out).width > 1000


def test_a_folder_of_something_else_is_refused(tmp_path, resnet18_file):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="something else"):
        reproduction(tmp_path, resnet18_file)


def test_an_interrupted_training_is_not_done(tmp_path, resnet18_file, digits_run, monkeypatch):
    repeat, begun = reproduction(tmp_path / "article", resnet18_file), []
    monkeypatch.setattr(repeat, "train", lambda training: begun.append(training) or 1)
    metrics = shutil.copytree(digits_run, repeat.folder_of(repeat.trainings[0])) / "metrics.json"
    repeat.execute()
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "interrupted": True}))
    repeat.execute()
    assert begun == [repeat.trainings[1], repeat.trainings[0]]


BEGINS_ANOTHER = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import sleep

from article.reproduction import end_with_parent

pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
pool.submit(print, "begun", flush=True).result()
pool.submit(sleep, 3600).result()
"""


@pytest.mark.slow
def test_a_training_in_a_process_of_its_own_ends_with_the_one_that_began_it():
    path = os.pathsep.join(sys.path)  # experiments/ as well
    command = [sys.executable, "-c", BEGINS_ANOTHER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as parent:
        assert parent.stdout.readline() == "begun\n"
        parent.kill()
        assert parent.communicate(timeout=60)[0] == ""  # which ends when both have
