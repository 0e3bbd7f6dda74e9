"""The page about a run."""

import json
import re
import shutil

import pytest

from cifar_fast.runs.report import duration, percent, write_report
from cifar_fast.runs.results import FinishedRun
from conftest import make_run


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def copied_run(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


def test_a_run_leaves_a_page_that_needs_nothing_else(digits_run):
    page, run = (digits_run / "report.html").read_text(), FinishedRun.read(digits_run)
    assert percent(run.metrics["accuracy"], 2) in page
    assert "These are not CIFAR-10 results: the data is digits." in page
    assert page.count("data:image/png;base64,") >= 8
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "<script" not in page and "http" not in page


def test_settings_classes_and_versions_stand_in_it(digits_run):
    page = (digits_run / "report.html").read_text()
    scores = FinishedRun.read(digits_run).predictions.per_class()["7"]
    assert "lr_end" in page and "8e-05" in page and "torchvision" in page
    assert percent(scores.precision) in page and percent(scores.f1) in page


def test_names_are_escaped(copied_run):
    edit(copied_run / "metrics.json", title="<script>alert(1)</script>", data="<b>pets</b>")
    page = write_report(copied_run).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>pets" not in page


def test_random_weights_and_interruptions_are_said_first(copied_run):
    edit(copied_run / "metrics.json", model="resnet18", weights="none", interrupted=True, epochs=1)
    page = write_report(copied_run).read_text()
    assert "random weights, not pretrained" in page and "Interrupted after 1 epochs" in page


def test_views_that_the_saved_model_has_not_are_said_first(copied_run):
    edit(copied_run / "metrics.json", views=6, one_view_accuracy=0.8765)
    page = write_report(copied_run).read_text()
    assert "Tested with 6 views of each image. model/, which evaluate asks, has one: 87.65 % right." in page


def test_a_leak_stands_on_the_page_of_a_run(image_folder, tmp_path, no_pictures):
    root = image_folder({"train/a": 8, "train/b": 8, "test/a": 2, "test/b": 2})
    (root / "test/b/0.png").write_bytes((root / "train/b/2.png").read_bytes())
    run = make_run(tmp_path / "run", data=str(root), epochs=1, bs=4, width=4)
    assert FinishedRun.read(run).metrics["leaked_images"] == 1
    assert "1 test images were trained on" in (run / "report.html").read_text()
    (tmp_path / "leak.csv").write_text("index\n10\n")  # b/2.png, behind the eight of class a
    clean = make_run(tmp_path / "clean", data=str(root), epochs=1, bs=4, width=4, drop_labels=tmp_path / "leak.csv")
    assert "were trained on" not in (clean / "report.html").read_text()


def test_what_was_chosen_on_held_out_images_is_said(copied_run):
    edit(copied_run / "metrics.json", choice={"chosen": {"opt": "sgd", "epochs": 7, "held_out_accuracy": 0.505}})
    assert "sgd, 7 epochs (50.5 %)" in write_report(copied_run).read_text()


def test_numbers_as_people_read_them():
    assert percent(0.12345) == "12.3 %" and percent(float("nan")) == percent(None) == "-"
    assert duration(3.21) == "3.2 s" and duration(125) == "2 min 5 s"


@pytest.mark.slow
def test_the_page_in_a_browser(digits_run, browser_page):
    for width in (360, 1200):
        page = browser_page(width)
        page.goto((digits_run / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(o => o.complete && o.naturalWidth > 0)")
        assert page.messages == []
