"""The examples that a stranger copies: each runs by shell and from Python, one of them through every part."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cifar_fast.experiment import load_experiment
from cifar_fast.files import read_tensors
from processes import launched

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "experiments/examples").glob("*.py"))
SMALL = ["--data", "digits", "--images", "300", "--test-images", "60", "--device", "cpu", "--precision", "fp32"]
pytestmark = pytest.mark.slow


def python(*args, **kwargs):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *map(str, args)], env=env, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **kwargs)  # fmt: skip


def finished(*args, **kwargs):
    process = python(*args, **kwargs)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def _left_out(*args):
    raise NotImplementedError


@pytest.fixture
def own(tmp_path):
    "A copy of the own ResNet-9 in a stranger's folder."
    return Path(shutil.copy(ROOT / "experiments/examples/own_resnet9.py", tmp_path))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda o: o.stem)
def test_it_runs_by_shell_and_from_python(file, tmp_path, no_pictures, monkeypatch):
    monkeypatch.setattr("fastai.learner.Learner.to_onnx", _left_out, raising=False)  # which takes most of the time
    assert len(file.read_text().splitlines()) <= 25
    out = finished(file, *SMALL, "--epochs", "1", "--run", tmp_path / "shell")
    assert file.stem in out.splitlines()[-1] and (tmp_path / "shell/report.html").exists()
    options = {"data": "digits", "images": 300, "test_images": 60, "device": "cpu", "precision": "fp32", "epochs": 1}
    found = load_experiment(file).run(**options, run=str(tmp_path / "python"), quiet=True)
    assert found.accuracy == pytest.approx(
        json.loads((tmp_path / "shell/metrics.json").read_text())["accuracy"], abs=0.05
    )


@pytest.mark.long
def test_seeds_and_a_verdict(own, tmp_path):
    for width in (4, 8):
        finished(own, *SMALL, "--epochs", "1", "--seeds", "2", "--width", width, "--run", tmp_path / f"w{width}")
    out = finished(ROOT / "experiments/compare.py", "w4", "w8", cwd=tmp_path)
    assert "Welch's test over seeds (2 and 2)" in out and "80 % probability" in out
    out = finished(ROOT / "experiments/compare.py", "--folder", ".", cwd=tmp_path)
    assert "width=8" in out and "own_resnet9" in out and (tmp_path / "runs.html").exists()


def test_it_is_killed_and_goes_on_bit_for_bit(own, tmp_path):
    args = [own, *SMALL, "--epochs", "4", "--width", "8"]
    finished(*args, "--run", tmp_path / "whole")
    first = python(*args, "--run", tmp_path / "killed")
    while not (tmp_path / "killed/checkpoint.pt").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished(own, "--resume", tmp_path / "killed")
    whole, again = (read_tensors(tmp_path / o / "predictions.safetensors")[0] for o in ("whole", "killed"))
    assert torch.equal(whole["preds"], again["preds"])
    weights = [(tmp_path / o / "model/model.safetensors").read_bytes() for o in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_its_options_are_searched(own, tmp_path):
    params = ["width=choice(4,8)", "epochs=1", "images=300", "test_images=60", "device=cpu"]
    args = [o for param in params for o in ("--param", param)]
    finished(
        ROOT / "experiments/sweep.py", own, *args, "--data", "digits", "--trials", "2", "--run", tmp_path / "sweep"
    )
    with (tmp_path / "sweep/sweep.csv").open() as file:
        assert [set(o) for o in csv.DictReader(file)] == [{"width", "epochs", "held_out_accuracy"}] * 2
    assert json.loads((tmp_path / "sweep/winner/metrics.json").read_text())["experiment"] == "own_resnet9"


def test_two_processes_train_it_and_tensorboard_follows(own, tmp_path):
    args = [*SMALL, "--epochs", "1", "--track", "tensorboard", "--run", tmp_path / "run"]
    process = launched(own, *args)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("test accuracy") == 1 and list((tmp_path / "run/tensorboard").rglob("events*"))


def test_its_model_is_asked_and_served_without_its_code(own, tmp_path, browser_page):
    finished(own, *SMALL, "--epochs", "2", "--width", "8", "--run", tmp_path / "run")
    own.unlink()
    model = tmp_path / "run/model"
    out = finished(ROOT / "experiments/predict.py", model, model / "examples", "--csv")
    assert len(out.splitlines()) == 11
    served = python(ROOT / "experiments/serve.py", model, "--port", "7898")
    try:
        assert served.stdout.readline() == "http://127.0.0.1:7898\n"
        page = browser_page(900)
        for _ in range(50):
            try:
                page.goto("http://127.0.0.1:7898")
                break
            except Exception:
                time.sleep(0.2)
        page.wait_for_selector("input[type=file]", state="attached")
        page.set_input_files("input[type=file]", model / "examples/003.png")
        page.wait_for_selector("#line :text('sure')")
        assert "Sequential trained on" in page.inner_text("body")
    finally:
        served.send_signal(signal.SIGINT)
        served.wait(timeout=30)


def test_a_file_of_several_experiments_is_a_script(tmp_path):
    text = "from cifar_fast.experiment import experiment\n\n\n"
    for name in ("first", "second"):
        text += f"@experiment\ndef {name}(dls, width: int = 4):\n    return make(dls, width)\n\n\n"
    text += "from cifar_fast.all import CustomCNN, fast_learner\n\n\n"
    text += "def make(dls, width):\n    return fast_learner(dls, CustomCNN(dls.c, width=width))\n"
    (tmp_path / "ideas.py").write_text(text)
    none = python(tmp_path / "ideas.py", *SMALL)
    _, err = none.communicate()
    assert none.returncode == 2 and err == "error: ideas.py holds several experiments: name one first (first, second)\n"
    out = finished(tmp_path / "ideas.py", "second", *SMALL, "--epochs", "1", "--run", tmp_path / "run")
    assert "second: CustomCNN" in out
    (tmp_path / "bad.py").write_text(
        "from cifar_fast.experiment import experiment\n\n\n@experiment\ndef bad(dls, *a): pass\n"
    )
    bad = python(tmp_path / "bad.py")
    _, err = bad.communicate()
    assert bad.returncode == 2 and err.count("\n") == 1 and "bad makes no experiment" in err


def test_the_console_command_does_the_same(own, tmp_path):
    tool = Path(sys.executable).with_name("cifar-fast")
    if not tool.exists():
        pytest.skip("cifar-fast is not installed")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*args):
        return subprocess.run(
            [tool, *map(str, args)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    assert {"custom", "transfer", "record", "sweep", "compare", "predict", "serve", "run"} <= set(
        run("--help").stdout.split()
    )
    assert run("run", own, *SMALL, "--epochs", "1", "--width", "4", "--run", "runs/own").returncode == 0
    assert run("custom", *SMALL, "--epochs", "1", "--width", "4", "--run", "runs/custom").returncode == 0
    assert "McNemar" in run("compare", "runs/own", "runs/custom").stdout
    wrong = run("dance")
    assert wrong.returncode == 2 and "no job 'dance'" in wrong.stderr
