"""Sweeps: what may be searched, and that finished trials survive."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

pytest.importorskip("ray")
from cifar_fast.analysis.charts import plot_sweep
from cifar_fast.baselines import custom, transfer
from cifar_fast.data.sources import load_images
from cifar_fast.errors import InputError
from cifar_fast.experiment import Experiment, load_experiment
from cifar_fast.progress import be_quiet
from cifar_fast.runs.results import FinishedRun
from cifar_fast.runs.sweep import KeepTrials, Param, Sweep, of_sweep, sweep_options, train_trial

pytestmark = pytest.mark.usefixtures("no_pictures")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("text, wanted", [
    ("lr=loguniform(1e-4,1e-2)", ("lr", "loguniform", (1e-4, 1e-2))),
    ("conv-dropout=uniform(0, 0.5)", ("conv_dropout", "uniform", (0.0, 0.5))),
    ("width=randint(4,8)", ("width", "randint", (4, 8))),
    ("opt=choice(adam,sgd)", ("opt", "choice", ("adam", "sgd"))),
    ("no_bn=choice(true,false)", ("bn", "choice", (False, True))),
    ("epochs=3", ("epochs", "fixed", (3,))),
])  # fmt: skip
def test_parameters_are_read(text, wanted):
    param = Param.parse(text, custom)
    assert (param.name, param.kind, param.values) == wanted


@pytest.mark.parametrize("text, wanted", [
    ("lr", "is no parameter"), ("warp=3", "no option 'warp'"), ("lr=normal(0,1)", "no normal"),
    ("lr=loguniform(1,2,3)", "two bounds"), ("lr=uniform(2,1)", "smaller first"),
    ("opt=choice(adam,warp)", "adam, sgd"), ("opt=choice(sgd,both)", "by itself"), ("lr=auto", "by itself"),
    ("epochs=1,2", r"epochs=choice\(1,2\)"),
    ("bs=uniform(16,64)", "randint or choice"), ("epochs=loguniform(1,10)", "randint or choice"),
    ("lr=randint(1,2)", "uniform or loguniform"), ("conv_dropout=loguniform(0,0.5)", "above 0"),
    ("no_bn=uniform(false,true)", "two numbers"),
    ("lr=uniform(a,b)", "above 0"), ("flip=uniform(none,random)", "two numbers"), ("no_bn=perhaps", "true or false"),
])  # fmt: skip
def test_what_cannot_be_searched_is_one_clear_line(text, wanted):
    with pytest.raises(InputError, match=wanted) as caught:
        Param.parse(text, custom)
    assert "\n" not in str(caught.value)


def test_the_picture_shows_every_parameter():
    params = [Param.parse("lr=loguniform(1e-4,1e-2)", custom), Param.parse("opt=choice(adam,sgd)", custom)]
    trials = [{"config": {"lr": 1e-3, "opt": "sgd"}, "accuracy": 0.5, "epochs": 1},
              {"config": {"lr": 1e-2, "opt": "adam"}, "accuracy": 0.7, "epochs": 2}]  # fmt: skip
    figure = plot_sweep(trials, [False, True], params, "custom")
    assert [ax.get_xlabel() for ax in figure.axes] == ["lr", "opt"] and figure.axes[0].get_xscale() == "log"
    assert [line.get_fillstyle() for line in figure.axes[0].lines] == ["none", "full"]


def sweep(*args, **kwargs):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "experiments/sweep.py", *map(str, args)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **kwargs
    )


@pytest.mark.slow
def test_a_sweep_killed_halfway_loses_no_finished_trial(tmp_path):
    params = ["lr=loguniform(1e-4,1e-2)", "opt=choice(adam,sgd)", "epochs=2", "width=4", "images=300", "test_images=60"]
    args = [o for param in params for o in ("--param", param)] + ["--data", "digits", "--trials", "10"]
    first = sweep(*args, "--run", tmp_path / "run")
    while len(done := set((tmp_path / "run/trials").glob("*.json"))) < 4:
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.2)
    process = psutil.Process(first.pid)
    for o in [process, *process.children(recursive=True)]:
        o.kill()
    kept = {path: path.read_text() for path in (tmp_path / "run/trials").glob("*.json")}
    assert done <= set(kept) and len(kept) < 10
    second = sweep(*args, "--resume", tmp_path / "run")
    out, _ = second.communicate(timeout=400)
    assert second.returncode == 0 and "Finished already: " in out, out
    trials = list((tmp_path / "run/trials").glob("*.json"))
    assert len(trials) == 10 and all(path.read_text() == text for path, text in kept.items())
    with (tmp_path / "run/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and {"lr", "opt", "held_out_accuracy"} <= set(rows[0])
    winner = FinishedRun.read(tmp_path / "run/winner")
    results = [json.loads(o.read_text()) for o in trials]
    best = [o["config"] for o in results if o["accuracy"] == max(o["accuracy"] for o in results)]
    assert {"lr": winner.config["lr"], "opt": winner.config["opt"]} in best
    assert (tmp_path / "run/sweep.png").exists()


def options(*param, **changed):
    return sweep_options(**{"param": list(param), "data": "digits", "trials": 2, **changed})


def finished_sweep(folder, *trials, fixed=("images=200", "test_images=60"), **changed):
    "A sweep whose trials have all come to an end, and nothing else: its options."
    (folder / "trials").mkdir(parents=True)
    small = ["epochs=1", "width=4", "device=cpu", *fixed]
    asked = options("lr=loguniform(1e-4,1e-1)", *small, run=str(folder), **changed)
    (folder / "config.json").write_text(json.dumps(vars(asked)))
    for i, (lr, accuracy) in enumerate(trials):
        add_trial(folder, i, lr, accuracy)
    asked.resume, asked.trials = str(folder), len(trials)
    return asked


def add_trial(folder, i, lr, accuracy):
    content = {"config": {"lr": lr}, "accuracy": accuracy, "epochs": 1}
    (folder / f"trials/{i}.json").write_text(json.dumps(content))


def test_a_sweep_that_goes_on_trains_its_new_winner(tmp_path):
    asked = finished_sweep(tmp_path / "run", (1e-3, 0.5))
    assert Sweep(custom, asked).execute() == 0
    metrics = tmp_path / "run/winner/metrics.json"
    before = metrics.stat().st_mtime_ns
    assert FinishedRun.read(metrics.parent).config["lr"] == 1e-3
    assert Sweep(custom, asked).execute() == 0
    assert metrics.stat().st_mtime_ns == before  # the same winner is not trained again
    add_trial(tmp_path / "run", 0, 1e-2, 0.5)
    add_trial(tmp_path / "run", 1, 1e-3, 0.5)
    assert Sweep(custom, asked).execute() == 0
    assert metrics.stat().st_mtime_ns == before  # nor for one that is as good
    add_trial(tmp_path / "run", 0, 1e-2, 0.9)
    assert Sweep(custom, asked).execute() == 0
    assert FinishedRun.read(metrics.parent).config["lr"] == 1e-2
    assert not (tmp_path / "run/winner-before").exists()


def test_the_old_winner_stays_until_the_new_one_is_trained(tmp_path, monkeypatch):
    asked = finished_sweep(tmp_path / "run", (1e-3, 0.5))
    assert Sweep(custom, asked).execute() == 0
    add_trial(tmp_path / "run", 1, 1e-2, 0.9)
    monkeypatch.setattr("cifar_fast.runs.sweep.train", lambda *args, **kwargs: (1, None, None))
    assert Sweep(custom, asked).execute() == 1
    assert FinishedRun.read(tmp_path / "run/winner-before").config["lr"] == 1e-3


@pytest.mark.parametrize("params", [["bs=choice(64,1)", "bn=choice(false,true)"], ["bs=randint(1,8)"]])
def test_batches_of_one_image_are_refused_before_the_first_trial_where_batch_norm_is(tmp_path, params, monkeypatch):
    monkeypatch.setattr(Sweep, "search", lambda *args: pytest.fail("a trial has begun"))
    few = ["images=20", "test_images=10", "epochs=1", "width=4", "device=cpu"]
    with pytest.raises(InputError, match=r"batches of one image: give --bs 2"):
        Sweep(custom, options(*params, *few, run=str(tmp_path / "run"))).execute()
    assert not (tmp_path / "run").exists()


def test_batches_of_one_image_are_searched_without_batch_norm(tmp_path, monkeypatch):
    monkeypatch.setattr(Sweep, "search", lambda *args: None)
    few = ["images=20", "test_images=10", "epochs=1", "width=4", "device=cpu", "bn=false"]
    with pytest.raises(InputError, match="no trial came to an end"):
        Sweep(custom, options("bs=choice(64,1)", *few, run=str(tmp_path / "run"))).execute()


def test_a_sweep_goes_on_with_the_same_images_only(tmp_path):
    asked = finished_sweep(tmp_path / "run", (1e-3, 0.5))
    asked.data = "cifar10"
    with pytest.raises(InputError, match="data digits"):
        Sweep(custom, asked).execute()
    assert (tmp_path / "run/trials/0.json").exists()


def test_auto_may_not_come_to_mean_other_images(tmp_path, monkeypatch):
    asked = finished_sweep(tmp_path / "run", (1e-3, 0.5))
    assert Sweep(custom, asked).execute() == 0
    fewer = load_images("digits").fewer(100, 50)
    monkeypatch.setattr("cifar_fast.runs.sweep.load_images", lambda *args: fewer)
    with pytest.raises(InputError, match="begun on other images"):
        Sweep(custom, asked).execute()


def test_a_sweep_goes_on_where_the_images_have_moved_and_not_where_they_have_changed(tmp_path, image_folder):
    root, place = image_folder({"cat": 20, "dog": 20}), tmp_path / "elsewhere"
    asked = finished_sweep(tmp_path / "run", (1e-3, 0.5), fixed=[], data=str(root))
    config = tmp_path / "run/config.json"
    assert Sweep(custom, asked).execute() == 0
    root.rename(place)
    add_trial(tmp_path / "run", 1, 1e-2, 0.9)  # a new winner, which is trained on them
    alone = sweep_options(resume=str(tmp_path / "run"), data=str(place))
    assert Sweep(custom, alone).execute() == 0
    assert FinishedRun.read(tmp_path / "run/winner").config["asked"]["data"] == str(place)
    assert json.loads(config.read_text())["data"] == str(place)
    (place / "cat/0.png").unlink()
    shutil.copytree(place, root)
    alone.data = str(root)
    with pytest.raises(InputError, match="begun on other images"):
        Sweep(custom, alone).execute()
    assert json.loads(config.read_text())["data"] == str(place)  # which a refusal does not change


@pytest.mark.parametrize("as_param", [False, True])
def test_a_sweep_goes_on_where_the_table_of_labels_has_moved(tmp_path, image_folder, as_param):
    root, place, table = image_folder({"all": 40}), tmp_path / "elsewhere", tmp_path / "t.csv"
    table.write_text("path,label\n" + "".join(f"all/{i}.png,{'ab'[i % 2]}\n" for i in range(40)))
    said = dict(fixed=[f"labels={table}"]) if as_param else dict(fixed=[], labels=str(table))
    asked = finished_sweep(tmp_path / "run", (1e-3, 0.5), data=str(root), **said)
    assert Sweep(custom, asked).execute() == 0
    root.rename(place)
    moved = table.rename(tmp_path / "moved.csv")
    add_trial(tmp_path / "run", 1, 1e-2, 0.9)  # a new winner, which is trained on them
    alone = sweep_options(resume=str(tmp_path / "run"), data=str(place), labels=str(moved))
    assert Sweep(custom, alone).execute() == 0
    assert FinishedRun.read(tmp_path / "run/winner").config["asked"]["labels"] == str(moved)
    moved.write_text(moved.read_text().replace("all/0.png,a", "all/0.png,b"))
    with pytest.raises(InputError, match="begun on other images"):
        Sweep(custom, alone).execute()


def test_damaged_trials_are_left_out(tmp_path, capsys):
    asked = finished_sweep(tmp_path / "run", (1e-3, 0.5))
    for i, text in enumerate(('{"config": {"lr"', '{"config": {}}', "[]"), 1):
        (tmp_path / f"run/trials/{i}.json").write_text(text)
    sweep = Sweep(custom, asked)
    sweep.folder = tmp_path / "run/trials"
    assert [o["accuracy"] for o in sweep.finished()] == [0.5] == [o["accuracy"] for o in sweep.finished()]
    assert capsys.readouterr().out.count("damaged and left out") == 3
    assert len(list(sweep.folder.glob("*.damaged"))) == 3


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_without_a_winner(tmp_path):
    params = ["lr=loguniform(1e-4,1e-2)", "epochs=2", "width=4", "images=300", "test_images=60"]
    args = [o for param in params for o in ("--param", param)] + ["--data", "digits", "--trials", "200"]
    process = sweep(*args, "--run", tmp_path / "run")
    while not list((tmp_path / "run/trials").glob("*.json")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and out.splitlines()[-1] == "interrupted", out
    assert list((tmp_path / "run/trials").glob("*.json")) and not (tmp_path / "run/winner").exists()


def test_a_trial_that_was_ended_early_wins_only_where_none_came_to_its_end(tmp_path):
    asked = options("epochs=randint(1,8)", "lr=loguniform(1e-4,1e-1)", run=str(tmp_path))
    early, whole = (
        {"config": {"epochs": 8, "lr": lr}, "accuracy": a, "epochs": n} for lr, a, n in ((1e-2, 0.9, 2), (1e-3, 0.8, 8))
    )
    sweep = Sweep(custom, asked)
    assert max([early, whole], key=sweep.rank) == whole


def test_the_longest_trial_is_what_the_search_may_propose():
    assert Sweep(custom, options("lr=uniform(0.1,0.2)", "epochs=7")).most_epochs() == 7
    assert Sweep(custom, options("epochs=randint(2,40)")).most_epochs() == 40
    longest = options("epochs=choice(3,9)", "unfreeze_epochs=randint(1,4)")
    assert Sweep(transfer, longest).most_epochs() == 13


def test_trials_fine_tune_where_they_are_asked_to(resnet18_file, monkeypatch):
    told = []
    monkeypatch.setattr("cifar_fast.runs.sweep.tune.report", told.append)
    threads = torch.get_num_threads()
    fixed = dict(data="digits", weights=str(resnet18_file), images=100, test_images=50, epochs=1, device="cpu")
    try:
        train_trial({"unfreeze_epochs": 2, "unfreeze_lr": 1e-3, "size": 48, "cutout": 40}, transfer, fixed)
    finally:
        torch.set_num_threads(threads)
        be_quiet(False)
    assert [o["epoch"] for o in told] == [1, 2, 3]


def test_a_sweep_goes_on_with_the_options_it_was_begun_with(tmp_path):
    asked, path = finished_sweep(tmp_path / "run", (1e-3, 0.5)), tmp_path / "run/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 3, "per_gpu": 2}))
    alone = sweep_options(resume=str(tmp_path / "run"))
    for param in (asked.param, None):
        found = Sweep(custom, sweep_options(resume=str(tmp_path / "run"), param=param))
        assert vars(found.options) | {"data": "digits", "trials": 2, "seed": 3, "per_gpu": 2} == vars(found.options)
    again = Sweep(custom, sweep_options(resume=str(tmp_path / "run"), per_gpu=1, seed=0)).options
    assert (again.per_gpu, again.seed) == (1, 0)
    with pytest.raises(InputError, match="leave --run out"):
        Sweep(custom, options(resume=str(tmp_path / "run"), run="elsewhere"))
    assert [o.name for o in found.searched] == ["lr"] and Sweep(
        custom, options("lr=uniform(1,2)", trials=None)
    ).options.trials == 16
    alone.trials = 5
    assert Sweep(custom, alone).options.trials == 5
    with pytest.raises(InputError, match="no sweep to go on with"):
        Sweep(custom, options(resume=str(tmp_path / "nowhere")))


def test_a_sweep_of_version_0_1_goes_on(tmp_path, capsys):
    folder = shutil.copytree(ROOT / "tests/kept/sweep-0.1.0", tmp_path / "run")
    kept = {o.name: o.read_text() for o in (folder / "trials").iterdir()}
    assert Sweep(load_experiment(of_sweep(str(folder))), sweep_options(resume=str(folder))).execute() == 0
    assert "Finished already: 2 of 2 trials" in capsys.readouterr().out
    assert {o.name: o.read_text() for o in (folder / "trials").iterdir()} == kept
    winner = FinishedRun.read(folder / "winner").config
    assert winner["bn"] and winner["lr"] == pytest.approx(1.2296e-3, abs=1e-7)


def capped(dls, top: float = float("inf"), width: int | None = 4):
    return custom(dls, width=width or 3)


def test_trials_keep_values_that_json_has_not(tmp_path):
    made, fixed = Experiment(capped), ["epochs=1", "images=200", "test_images=60", "device=cpu"]
    params = ["top=choice(inf,9)", "width=choice(none,2)", *fixed]
    config = {"top": float("inf"), "width": None}
    sweep = Sweep(made, options(*params, trials=1, run=str(tmp_path / "run")))
    assert [o.values for o in sweep.searched] == [(float("inf"), 9.0), (None, 2)]
    (tmp_path / "run/trials").mkdir(parents=True)
    trial = SimpleNamespace(config=config, last_result={"accuracy": 0.5, "epoch": 1})
    KeepTrials(tmp_path / "run/trials").on_trial_complete(1, [], trial)
    (tmp_path / "run/config.json").write_text(json.dumps({"param": params, "data": "digits", "trials": 1}))
    again = sweep_options(resume=str(tmp_path / "run"))
    assert Sweep(made, again).execute() == 0
    page = tmp_path / "run/winner/report.html"
    before = page.stat().st_mtime_ns
    assert Sweep(made, again).execute() == 0 and page.stat().st_mtime_ns == before
    assert (tmp_path / "run/sweep.csv").read_text().splitlines()[1].startswith("inf,none,1,")
    with pytest.raises(InputError, match="two numbers"):
        Param.parse("top=uniform(1,inf)", made)


def test_nothing_to_search_and_another_search_are_refused(tmp_path):
    with pytest.raises(InputError, match="nothing to search"):
        Sweep(custom, options("epochs=2"))
    for twice in ("lr=1e-3", "lr=uniform(0.1,0.3)"):
        with pytest.raises(InputError, match="several --param"):
            Sweep(custom, options("lr=uniform(0.1,0.2)", twice))
    with pytest.raises(InputError, match="not for trials"):
        Sweep(custom, options("lr=uniform(0.1,0.2)", "run=here"))
    (tmp_path / "config.json").write_text(json.dumps({"script": "custom", "param": ["lr=uniform(0.1,0.2)"]}))
    with pytest.raises(InputError, match=r"param .*give the same"):
        Sweep(custom, options("lr=uniform(0.1,0.3)", resume=str(tmp_path))).execute()
    assert (tmp_path / "config.json").exists()


@pytest.fixture
def two_nodes():
    "A Ray cluster of two nodes of one core each, both on this machine, and the second of them."
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster, cluster.add_node(num_cpus=1)
    cluster.shutdown()


def trains(raylet):
    "Whether a trial is under way on a node."
    return any("train" in " ".join(o.cmdline()[:1]) for o in psutil.Process(raylet).children())


@pytest.mark.slow
@pytest.mark.long
def test_a_sweep_on_a_cluster_outlives_the_loss_of_a_node(two_nodes, tmp_path):
    cluster, node = two_nodes
    raylet, lost = node.all_processes["raylet"][0].process.pid, threading.Event()

    def lose_node():
        "In the middle of a trial on it."
        while not trains(raylet):
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)
        lost.set()

    threading.Thread(target=lose_node, daemon=True).start()
    params = ["lr=loguniform(1e-4,1e-2)", "epochs=4", "width=4", "images=600", "test_images=60", "device=cpu"]
    asked = options(*params, address=cluster.address, trials=4, run=str(tmp_path / "run"))
    assert Sweep(custom, asked).execute() == 0
    assert lost.is_set() and len(list((tmp_path / "run/trials").glob("*.json"))) == 4
    assert FinishedRun.read(tmp_path / "run/winner").config["lr"] > 0
