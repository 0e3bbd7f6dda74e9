"""Many processes: shares of the images, and what two of them learn together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from bench.soak import outcome
from cifar_fast.data.loaders import image_dls
from cifar_fast.runs.results import FinishedRun
from processes import launched

pytest.importorskip("accelerate")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("n, world", [(10, 2), (11, 2), (11, 3)])
def test_shares_of_training_are_even_and_disjoint_and_change_what_they_leave_out(digits, n, world):
    dls = image_dls(digits.fewer(100, 50), bs=4, device="cpu")
    whole = dls.train.new(dataset=dls.train_ds.subset(torch.arange(n)), shuffle=True)
    seen = []
    for epoch in range(6):
        shares = []
        for rank in range(world):
            whole.rng.seed(epoch)
            whole.shard(rank, world)
            batches = [b[0].idxs for b in whole]
            assert len(batches) == len(whole)
            shares.append(torch.cat(batches).tolist())
        assert {len(o) for o in shares} == {n // world}
        together = [i for share in shares for i in share]
        assert len(set(together)) == len(together) == n // world * world
        seen.append(frozenset(range(n)) - set(together))
    assert n % world == 0 or len(set(seen)) > 1


@pytest.mark.parametrize("n, world", [(10, 2), (11, 2), (11, 3)])
def test_shares_of_validation_cover_every_image_once(digits, n, world):
    valid = image_dls(digits.fewer(100, 50), bs=4, device="cpu").valid
    valid = valid.new(dataset=valid.dataset.subset(torch.arange(n)), bs=4)
    seen = []
    for rank in range(world):
        valid.shard(rank, world)
        seen += torch.cat([b[0].idxs for b in valid]).tolist()
    assert sorted(seen) == list(range(n))


def test_norms_that_train_are_synchronised_with_their_own_parameters():
    from cifar_fast.training.distributed import sync_norms

    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Sequential(torch.nn.BatchNorm2d(3)), torch.nn.ReLU())
    frozen, trained = model[0].requires_grad_(False), model[1][0]
    found = sync_norms(model)
    assert found == [(model[1], "0", trained)] and model[0] is frozen
    assert isinstance(model[1][0], torch.nn.SyncBatchNorm) and model[1][0].weight is trained.weight


def output(process):
    "What a process that ends well prints."
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


CHECK = """
import json, sys, torch
from fastai.metrics import F1Score, accuracy
from fastai.torch_core import rank_distrib, set_seed
from cifar_fast.data.sources import load_images
from cifar_fast.training.distributed import of_first_rank, shared_training
from cifar_fast.training.learner import custom_learner
from cifar_fast.data.loaders import image_dls
import cifar_fast.training.schedules
set_seed(0)
dls = image_dls(load_images("digits").fewer(301, 59), bs=16, device="cpu", val_bs=10)
learn = custom_learner(dls, precision="fp32", width=8, metrics=[accuracy, F1Score(average="macro")])
if not rank_distrib():
    learn.dls.train.one_batch()  # the first process alone has looked at its data
with shared_training(learn), learn.no_bar(), learn.no_logging():
    learn.fit_decay(2, 1e-3)
    order = learn.dls.train.rng.getstate()
    state = {name: o.tolist() for name, o in learn.model.state_dict().items()}
    shares = [None, None]
    torch.distributed.all_gather_object(shares, (state, order))
    agree = shares[0] == shares[1]
    shared = [float(o) for o in learn.recorder.values[-1][1:4]]
with learn.no_bar():
    alone = [float(o) for o in learn.validate()]
if not rank_distrib():
    print(json.dumps({"agree": agree, "shared": shared, "alone": alone, "whole": learn.dls.train.world}))
"""


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    (tmp_path / "check.py").write_text(CHECK)
    result = json.loads(output(launched(tmp_path / "check.py")).splitlines()[-1])
    assert result["agree"] and result["whole"] == 1
    assert len(result["shared"]) == 3 and result["shared"] == pytest.approx(result["alone"], abs=1e-6)


STEP = """
import sys, torch
from contextlib import nullcontext
from fastai.torch_core import num_distrib, rank_distrib, set_seed
from cifar_fast.data.sources import load_images
from cifar_fast.training.distributed import shared_training
from cifar_fast.training.learner import custom_learner
from cifar_fast.data.loaders import image_dls
set_seed(0)
n = max(num_distrib(), 1)
dls = image_dls(load_images("digits").fewer(320, 60), bs=64 // n, device="cpu")
learn = custom_learner(dls, precision="fp32", width=8, opt="sgd", bn=False, dropout=0, logit_dropout=0)
with shared_training(learn) if n > 1 else nullcontext(), learn.no_bar(), learn.no_logging():
    learn.fit(2, 0.1)
if not rank_distrib():
    torch.save(learn.model.state_dict(), sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_batches_of_twice_the_size(tmp_path):
    (tmp_path / "step.py").write_text(STEP)
    output(launched(tmp_path / "step.py", tmp_path / "two.pt"))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, tmp_path / "step.py", tmp_path / "one.pt"], env=env, check=True)
    found, wanted = (torch.load(tmp_path / o, weights_only=True) for o in ("two.pt", "one.pt"))
    assert all(torch.allclose(o, wanted[name], atol=1e-5) for name, o in found.items())


@pytest.mark.slow
@pytest.mark.parametrize("script", ["custom", "transfer"])
def test_a_script_trains_in_two_processes_and_writes_one_folder(tmp_path, script):
    args = ["--data", "digits", "--epochs", "2", "--device", "cpu", "--images", "300", "--test-images", "60",
            "--precision", "fp32", "--run", tmp_path / "run"]  # fmt: skip
    more = ["--weights", "none"] * (script == "transfer")
    out = output(launched(ROOT / f"experiments/{script}.py", *args, *more))
    assert out.count("test accuracy") == out.count("train_loss") == 1
    assert "2 processes: 64 images a batch each, 128 a step" in out
    run = FinishedRun.read(tmp_path / "run")
    assert run.metrics["processes"] == 2 and len(run.history.epochs) == 2 and (tmp_path / "run/report.html").exists()


@pytest.mark.slow
def test_the_first_of_two_processes_finds_the_learning_rate_for_both_and_for_each_stage(tmp_path):
    args = ["--data", "digits", "--epochs", "2", "--device", "cpu", "--images", "300", "--test-images", "60",
            "--lr", "auto", "--early-stop", "2", "--run", tmp_path / "run"]  # fmt: skip
    process = launched(ROOT / "experiments/custom.py", *args)
    try:
        out = output(process)
    finally:
        process.terminate()
    assert out.count("Learning rate found") == 2 and out.count("test accuracy") == 1


def long_training(tmp_path):
    "A launcher and its two processes, in a training that has written its first checkpoint."
    args = ["--data", "digits", "--epochs", "1000", "--device", "cpu", "--run", tmp_path / "run"]
    process = launched(ROOT / "experiments/custom.py", *args)
    while not (tmp_path / "run/checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.2)
    children = psutil.Process(process.pid).children(recursive=True)
    return process, [o for o in children if "custom.py" in " ".join(o.cmdline())]


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_as_if_nothing_had_happened(tmp_path):
    # no dropout: its numbers are not kept for the second process
    args = ["--data", "digits", "--epochs", "8", "--width", "8", "--dropout", "0", "--logit-dropout", "0",
            "--images", "600", "--device", "cpu", "--run"]  # fmt: skip
    output(launched(ROOT / "experiments/custom.py", *args, tmp_path / "whole"))
    process = launched(ROOT / "experiments/custom.py", *args, tmp_path / "run")
    while not (tmp_path / "run/checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    for o in [*psutil.Process(process.pid).children(recursive=True), process]:
        o.kill()
    process.wait()
    assert not (tmp_path / "run/metrics.json").exists()
    assert "Going on after" in output(launched(ROOT / "experiments/custom.py", "--resume", tmp_path / "run"))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other_within_a_minute_with_a_clear_line(tmp_path):
    process, workers = long_training(tmp_path)
    workers[-1].kill()
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - began < 60
    assert "error: another process of this training has ended" in err
    assert (tmp_path / "run/checkpoint.pt").exists()


@pytest.mark.slow
def test_ctrl_c_in_one_process_ends_both_and_keeps_what_was_learnt(tmp_path):
    process, workers = long_training(tmp_path)
    workers[-1].send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "interrupted after" in out
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["interrupted"] and 1 <= metrics["epochs"] < 1000
