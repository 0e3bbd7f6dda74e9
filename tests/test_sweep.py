"""Sweeps: what may be searched, and that finished trials survive."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")
from cifar_fast.errors import InputError
from cifar_fast.run import FinishedRun
from cifar_fast.sweep import Param, plot_sweep

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("text, wanted", [
    ("lr=loguniform(1e-4,1e-2)", ("lr", "loguniform", (1e-4, 1e-2))),
    ("conv-dropout=uniform(0, 0.5)", ("conv_dropout", "uniform", (0.0, 0.5))),
    ("width=randint(4,8)", ("width", "randint", (4, 8))),
    ("opt=choice(adam,sgd)", ("opt", "choice", ("adam", "sgd"))),
    ("no_bn=choice(true,false)", ("no_bn", "choice", (True, False))),
    ("epochs=3", ("epochs", "fixed", (3,))),
])  # fmt: skip
def test_parameters_are_read(text, wanted):
    param = Param.parse(text, "custom")
    assert (param.name, param.kind, param.values) == wanted


@pytest.mark.parametrize("text, wanted", [
    ("lr", "is no parameter"), ("warp=3", "no option 'warp'"), ("lr=normal(0,1)", "no normal"),
    ("lr=loguniform(1,2,3)", "two bounds"), ("lr=uniform(2,1)", "smaller first"),
    ("opt=choice(adam,lion)", "adam, sgd"), ("opt=choice(sgd,both)", "by itself"), ("lr=auto", "by itself"),
    ("epochs=1,2", r"epochs=choice\(1,2\)"),
    ("lr=uniform(a,b)", "above 0"), ("flip=uniform(none,random)", "two numbers"), ("no_bn=perhaps", "true or false"),
])  # fmt: skip
def test_what_cannot_be_searched_is_one_clear_line(text, wanted):
    with pytest.raises(InputError, match=wanted) as caught:
        Param.parse(text, "custom")
    assert "\n" not in str(caught.value)


def test_the_picture_shows_every_parameter():
    params = [Param.parse("lr=loguniform(1e-4,1e-2)", "custom"), Param.parse("opt=choice(adam,sgd)", "custom")]
    trials = [{"config": {"lr": 1e-3, "opt": "sgd"}, "accuracy": 0.5, "epochs": 1},
              {"config": {"lr": 1e-2, "opt": "adam"}, "accuracy": 0.7, "epochs": 2}]  # fmt: skip
    figure = plot_sweep(trials, params, "custom")
    assert [ax.get_xlabel() for ax in figure.axes] == ["lr", "opt"] and figure.axes[0].get_xscale() == "log"


def sweep(*args, **kwargs):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "experiments/sweep.py", *map(str, args)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **kwargs
    )


@pytest.mark.slow
def test_a_sweep_killed_halfway_loses_no_finished_trial(tmp_path):
    params = ["lr=loguniform(1e-4,1e-2)", "opt=choice(adam,sgd)", "epochs=2", "width=4", "images=300", "test_images=60"]
    args = [o for param in params for o in ("--param", param)] + ["--data", "digits", "--trials", "16"]
    first = sweep(*args, "--run", tmp_path / "run")
    while len(done := set((tmp_path / "run/trials").glob("*.json"))) < 8:
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    subprocess.run([Path(sys.executable).parent / "ray", "stop", "--force"], capture_output=True)
    kept = {path: path.read_text() for path in (tmp_path / "run/trials").glob("*.json")}
    assert done <= set(kept) and len(kept) < 16
    second = sweep(*args, "--resume", tmp_path / "run")
    out, _ = second.communicate(timeout=400)
    assert second.returncode == 0 and "trials are finished already" in out, out
    trials = list((tmp_path / "run/trials").glob("*.json"))
    assert len(trials) == 16 and all(path.read_text() == text for path, text in kept.items())
    with (tmp_path / "run/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and {"lr", "opt", "held_out_accuracy"} <= set(rows[0])
    winner = FinishedRun.read(tmp_path / "run/winner")
    results = [json.loads(o.read_text()) for o in trials]
    best = [o["config"] for o in results if o["accuracy"] == max(o["accuracy"] for o in results)]
    assert {"lr": winner.config["lr"], "opt": winner.config["opt"]} in best
    assert (tmp_path / "run/sweep.png").exists()


def test_nothing_to_search_and_another_search_are_refused(tmp_path):
    from types import SimpleNamespace

    from cifar_fast.sweep import Sweep

    def options(*param, **changed):
        base = dict(script="custom", data="digits", trials=2, address=None, per_gpu=1, seed=0, run=None, resume=None)
        return SimpleNamespace(**{**base, "param": list(param), **changed})

    with pytest.raises(InputError, match="nothing to search"):
        Sweep(options("epochs=2"))
    with pytest.raises(InputError, match="not for trials"):
        Sweep(options("lr=uniform(0.1,0.2)", "run=here"))
    (tmp_path / "config.json").write_text(json.dumps({"script": "custom", "param": ["lr=uniform(0.1,0.2)"]}))
    with pytest.raises(InputError, match="same --param"):
        Sweep(options("lr=uniform(0.1,0.3)", resume=str(tmp_path))).execute()
    assert (tmp_path / "config.json").exists()
