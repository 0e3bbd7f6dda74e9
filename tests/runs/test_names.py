"""Classes, files and runs may have any name: figures, pages, tables and model cards say it as it is."""

import csv
import html
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from cifar_fast.analysis.charts import History, plot_complexity, plot_curves
from cifar_fast.analysis.interpret import plot_confusion, plot_per_class
from cifar_fast.analysis.names import in_figure, in_legend, save_figure, short
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.cli import exit_codes
from cifar_fast.commands import evaluate, predict
from cifar_fast.deploy.modelcard import ModelCard
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.runs.questions_on_images import ask_labels
from cifar_fast.runs.results import FinishedRun
from cifar_fast.runs.subject import Subject
from cifar_fast.text import printable
from conftest import make_run

CLASSES = ["$$", "$x^{$", "_low", "<b>&amp;", "#1 100%", "a|b", "\N{FISH}" * 60, "Straße", "new\nline"]
LATIN_1 = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A finished run on classes of such names, one of them no UTF-8, in a folder of such a name."
    root = tmp_path_factory.mktemp("names") / f"my $data$ {LATIN_1}"
    for label, name in enumerate([*CLASSES, LATIN_1]):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng([label, i]).integers(0, 25, (8, 8, 3)) + 25 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{LATIN_1}$ {i}.png")
    folder = tmp_path_factory.mktemp("runs") / "_run $1$"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAR_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        return make_run(folder, data=str(root), epochs=1, size=8, convs=1, dense=1, width=4), root


def test_a_run_on_such_classes_is_finished_and_read_back(run):
    folder, _ = run
    found = FinishedRun.read(folder)
    wanted = {*CLASSES[:-1], "new\\nline", "caf\\xe9"}
    assert set(found.predictions.vocab) == wanted == set(Predictor(folder / "model").card.vocab)
    page = (folder / "report.html").read_text("utf-8")
    assert all(html.escape(o) in page for o in wanted) and "<b>&amp;" not in page
    assert set(json.loads((folder / "metrics.json").read_text())["per_class_accuracy"]) == wanted


def test_such_a_run_is_asked_for_more(run):
    pytest.importorskip("captum")
    folder, root = run
    evaluate(str(folder), neighbours=True, duplicates=True, explain=True, data=str(root))
    page = (folder / "evidence.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") >= 3  # drawn without a formula that matplotlib cannot read


def test_images_whose_labels_look_wrong_are_named_by_their_files(run):
    pytest.importorskip("cleanlab")
    folder, root = run
    subject = Subject(folder, str(root))
    y = subject.images.train_y
    said = y.clone()
    said[0] = y[-1]
    preds = torch.nn.functional.one_hot(said, len(subject.vocab)) * 0.9 + 0.01
    answer = ask_labels(subject, Predictions(preds / preds.sum(1, keepdim=True), y, subject.vocab))
    (found,) = csv.DictReader(answer.files["suspicious_labels.csv"].splitlines())
    assert found["index"] == "0" and found["file"] == subject.images.files[0][0]


def test_predictions_are_printed_on_consoles_that_lack_the_letters(run, capsys, monkeypatch):
    folder, root = run
    with open("out.txt", "w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with exit_codes():
            assert predict(str(folder / "model"), str(root), csv=True) == 0
            assert predict(str(folder / "model"), str(root / "train" / LATIN_1)) == 0
    text = Path("out.txt").read_text("ascii")
    assert len(text.splitlines()) >= 1 + 4 * 10 + 4 and "caf\\xe9$ 0.png" in text and "\\U0001f41f" in text
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_ends_nothing(capfd):
    with pytest.MonkeyPatch.context() as patch:
        read, write = os.pipe()
        os.close(read)
        stream = os.fdopen(write, "w")
        patch.setattr(sys, "stdout", stream)
        with exit_codes():
            for _ in range(3):
                print("x" * 2**17, flush=True)
        stream.close()
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=60), min_size=2, max_size=3))
def test_figures_take_any_name(tmp_path_factory, names):
    preds = Predictions(torch.eye(len(names)), torch.arange(len(names)), names)
    for figure in (plot_confusion(preds, names[0]), plot_per_class(preds, names[1])):
        save_figure(figure, tmp_path_factory.mktemp("figures") / "a.png")


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None), max_size=60))
def test_what_is_shown_can_be_shown(name):
    assert printable(name).encode("utf-8") and "\n" not in printable(name) if name else True
    assert len(short(name).replace("\\$", "$")) <= 6 * 40
    assert in_figure(name).count("$") == in_figure(name).count("\\$") == name.count("$")
    assert not in_legend(name).startswith("_")


def test_legends_name_every_run():
    metrics = {"params": 1, "macs": 1, "accuracy": 0.5}
    for figure in (
        plot_curves(History("_a", []), History("$b$", [])),
        plot_complexity({"_a": metrics, "$b$": metrics}),
    ):
        assert isinstance(figure, Figure)
        assert {" _a", "\\$b\\$"} <= {o.get_text() for o in figure.legends[0].texts}


def test_a_card_of_4000_long_names_is_read(run, tmp_path):
    card = Predictor(run[0] / "model").card
    vocab = [f"{i:04}" + "\N{FISH}" * 75 for i in range(4000)]
    changed = {**vars(card), "vocab": vocab, "architecture": {**card.architecture, "n_out": 4000}}
    changed["metrics"] = {"per_class_accuracy": dict.fromkeys(vocab, 0.5), "taken_for": dict(zip(vocab, vocab[::-1]))}
    (tmp_path / "model.json").write_text(ModelCard(**changed).to_json())
    assert (tmp_path / "model.json").stat().st_size > 2**23
    assert ModelCard.read(tmp_path / "model.json").vocab == vocab
