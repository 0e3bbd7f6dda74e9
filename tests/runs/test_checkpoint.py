"""A run that was stopped, anywhere, ends as if it had not been."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback

from bench.soak import outcome
from cifar_fast import baselines
from cifar_fast.baselines import custom
from cifar_fast.errors import InputError, RunError
from cifar_fast.records.recipes import RECIPES
from cifar_fast.runs.checkpoint import NAME, Checkpoint, read_checkpoint, write_checkpoint
from cifar_fast.runs.folder import Run, SilentRun
from cifar_fast.runs.launch import is_finished
from cifar_fast.runs.launch import train as launch
from cifar_fast.training.learner import custom_learner
from conftest import with_cbs
from processes import Bomb, Kill, Killed

pytestmark = pytest.mark.usefixtures("no_pictures")
ROOT = Path(__file__).parents[2]
SMALL = {"data": "digits", "epochs": 3, "precision": "fp32", "device": "cpu", "images": 300, "test_images": 60}


def train(script, folder, kill_after=None, resume=False, **changed):
    "Train, perhaps until a kill; gives whether it came to the end."
    changed = {"resume": str(folder)} if resume else {**SMALL, **changed, "run": str(folder)}
    made = getattr(baselines, script)
    options = made.options(**changed)
    if resume:
        launch(made, options)
        return True
    try:
        launch(with_cbs(made, Kill(kill_after or 10**9)), options)
    except Killed:
        return False
    return True


def assert_same(one, two):
    *texts, weights = outcome(one)
    *others, other_weights = outcome(two)
    assert texts == others
    assert weights == other_weights


CASES = [
    ("custom", dict(width=4, flip="random", translate=2), [12]),
    ("custom", dict(width=4, schedule="one_cycle", flip="alternating"), [8]),
    ("custom", dict(width=4, precision="bf16"), [8]),
    ("custom", dict(width=4, opt="both", early_stop=1, lr=1e-6, lr_end=1e-7), [3, 17]),
    ("custom", dict(width=4, lr="auto"), [8]),
    ("record", dict(target=90, bs=20, images=60), [5, 65]),  # in the third epoch fewer images are trained on
    (
        "transfer",
        dict(arch="squeezenet1_1", weights="none", flip="random", unfreeze_epochs=1, epochs=2, bs=20, images=100),
        [12],
    ),
]


@pytest.mark.parametrize(("script", "changed", "kills"), CASES)
def test_a_killed_run_ends_as_if_it_had_not_been(script, changed, kills, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, 90, replace(RECIPES[90], widths=(16, 32, 32)))
    assert train(script, tmp_path / "whole", **changed)
    for kill in kills:
        folder = tmp_path / f"killed-{kill}"
        assert not train(script, folder, kill, **changed)
        assert train(script, folder, resume=True)
        assert_same(tmp_path / "whole", folder)


def test_a_kill_while_the_report_is_written(tmp_path, monkeypatch):
    train("custom", tmp_path / "whole", width=4)

    def killed(*args):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("cifar_fast.runs.folder.write_report", killed)
        assert not train("custom", tmp_path / "killed", width=4)
    train("custom", tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert (tmp_path / "killed/report.html").exists()


def test_seeds_go_on_with_the_one_that_was_stopped(tmp_path):
    train("custom", tmp_path / "whole", width=4, seeds=2, epochs=2)
    train("custom", tmp_path / "killed", 13, width=4, seeds=2, epochs=2)
    assert not (tmp_path / "killed/seeds.json").exists()
    train("custom", tmp_path / "killed", resume=True)
    for seed in range(2):
        assert_same(tmp_path / f"whole/seed-{seed}", tmp_path / f"killed/seed-{seed}")
    seeds = [json.loads((tmp_path / o / "seeds.json").read_text()) for o in ("whole", "killed")]
    assert seeds[0] == seeds[1]


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_goes_on_where_its_images_have_moved_and_not_where_they_have_changed(seeds, tmp_path, image_folder):
    root, folder = image_folder({"cat": 20, "dog": 20}), tmp_path / "run"
    own = dict(data=str(root), images=0, test_images=0, width=4, size=8, bs=8, seeds=seeds)
    assert not train("custom", folder, 6 if seeds == 1 else 20, **own)
    place = root.rename(tmp_path / "elsewhere")
    go_on = dict(resume=str(folder))
    with pytest.raises(InputError, match=f"{root} does not exist"):
        launch(custom, custom.options(**go_on))
    added = place / "cat/new.png"
    added.write_bytes((place / "dog/0.png").read_bytes())
    moved = dict(go_on, data=str(place))
    with pytest.raises(InputError, match="begun on other images than are there now"):
        launch(custom, custom.options(**moved), given={"data"})
    added.unlink()
    assert launch(custom, custom.options(**moved), given={"data"})[0] == 0
    assert is_finished(folder) and json.loads((folder / "config.json").read_text())["asked"]["data"] == str(place)


def test_other_processes_go_on_with_random_numbers_of_their_own(digits_dls, tmp_path, monkeypatch):
    learn, drawn = custom_learner(digits_dls, width=4, dense_width=16), []
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=Checkpoint(Run(tmp_path / "run"), "train"))
    for rank in ("0", "0", "1", "1"):
        monkeypatch.setenv("RANK", rank)
        state = read_checkpoint(tmp_path / "run" / NAME)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=Checkpoint(SilentRun(None), "train", state))  # no epoch is left
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_a_resumed_fit_that_fails_leaves_the_next_one_whole(digits_dls, tmp_path):
    class Fails(Callback):
        def before_epoch(self):
            raise ZeroDivisionError("on purpose")

    learn = custom_learner(digits_dls, width=4, dense_width=16)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=Checkpoint(Run(tmp_path / "run"), "train"))
        state = read_checkpoint(tmp_path / "run" / NAME)
        with pytest.raises(ZeroDivisionError):
            learn.fit(2, cbs=[Checkpoint(SilentRun(None), "train", state), Fails()])
        learn.fit(1)
    assert len(learn.recorder.values) == 1


def test_a_finished_run_is_left_alone(digits_run, capsys):
    before = (digits_run / "metrics.json").stat().st_mtime_ns
    assert launch(custom, custom.options(resume=str(digits_run)))[0] == 0
    assert "finished already" in capsys.readouterr().out
    assert (digits_run / "metrics.json").stat().st_mtime_ns == before


def test_what_cannot_be_resumed_is_one_line(tmp_path, digits_run):
    for folder, made, said in (
        (tmp_path, custom, "no run"),
        (tmp_path / "nowhere", custom, "nowhere is no folder, so there is no run"),
        (digits_run, baselines.transfer, "no run"),
    ):
        with pytest.raises(InputError, match=said):
            launch(made, made.options(resume=str(folder)))
    with pytest.raises(InputError, match="leave --run out"):
        custom.run(resume=str(digits_run), run=str(tmp_path / "other"))
    with pytest.raises(InputError, match="--anyway is for --resume"):
        custom.run(anyway=True)


def test_a_damaged_checkpoint_is_one_line_and_nothing_is_lost(tmp_path):
    train("custom", tmp_path / "run", 8, width=4)
    path = tmp_path / "run" / NAME
    content = path.read_bytes()
    for damaged in (content[:-1], content[:100], b"", content[:-1] + bytes([content[-1] ^ 1]), pickle.dumps({})):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            train("custom", tmp_path / "run", resume=True)
    path.write_bytes(content)
    assert train("custom", tmp_path / "run", resume=True)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    write_checkpoint(tmp_path / NAME, {"model": Bomb()})
    with pytest.raises(InputError, match="more than tensors"):
        read_checkpoint(tmp_path / NAME)
    assert not Path("exploded").exists()


def resumed(folder):
    return Run(folder, resume=True).folder.name


def test_two_processes_cannot_write_the_same_folder(tmp_path):
    run = Run(tmp_path / "run")
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as other:
        with pytest.raises(InputError, match="written by another process"):
            other.submit(resumed, tmp_path / "run").result()
        run.release()
        assert other.submit(resumed, tmp_path / "run").result() == "run"


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(tmp_path):
    class Spoil(Callback):
        def before_train(self):
            if self.epoch == 1:
                self.model.conv1.weight.data.fill_(float("nan"))

    options = custom.options(**SMALL, width=4, run=str(tmp_path / "run"))
    with pytest.raises(RunError, match="nan in epoch 1: lower the learning rate"):
        launch(with_cbs(custom, Spoil()), options)
    state = read_checkpoint(tmp_path / "run" / NAME)
    assert state["epoch"] == 0 and all(o.isfinite().all() for o in state["model"].values())


def test_a_full_disk_ends_the_run_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    import cifar_fast.runs.checkpoint as module

    written, write = [], module.write_atomically

    def full(path, content):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        train("custom", tmp_path / "run", width=4)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "run" / NAME)["epoch"] == 0
    train("custom", tmp_path / "run", resume=True)
    train("custom", tmp_path / "whole", width=4)
    assert_same(tmp_path / "whole", tmp_path / "run")


def script(tmp_path, *args):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "experiments/custom.py"), *map(str, args)]
    return subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_process_killed_at_any_moment_goes_on(tmp_path):
    small = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "width": 4, "epochs": 6, "flip": "random"}.items()]
    assert script(tmp_path, *small, "--run", "whole").wait() == 0
    checkpoint = tmp_path / "killed" / NAME
    process, n_kills = script(tmp_path, *small, "--run", "killed"), 0
    for wait in (0.0, 0.3, 0.6, 1.5):
        while not (checkpoint.exists() or process.poll() is not None):
            time.sleep(0.01)
        time.sleep(wait)
        n_kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = script(tmp_path, "--resume", "killed")
    assert process.wait() == 0 and n_kills >= 1, process.stderr.read()
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob(".*"))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_in_fresh_processes(tmp_path):
    small = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "width": 4, "flip": "random"}.items()]
    for name in ("one", "two"):
        assert script(tmp_path, *small, "--run", name).wait() == 0
    assert_same(tmp_path / "one", tmp_path / "two")
