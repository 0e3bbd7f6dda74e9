"""Speedruns: turns, results, and what they leave."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench.airbench import AirbenchScript, Outcome, PlainRecipe, shifted, write_airbench_data
from bench.speedrun import RecordRuns, Speedrun, line_of, summary
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.errors import InputError
from cifar_fast.records.recipes import RECIPES
from cifar_fast.runs.results import FinishedRun
from speedrun import main as speedrun


def options(**changed):
    from inspect import signature

    defaults = {name: p.default for name, p in signature(speedrun).parameters.items()}
    return SimpleNamespace(**{**defaults, "data": "digits", "device": "cpu", "precision": "fp32", **changed})


@pytest.fixture
def small_recipe(monkeypatch):
    "Networks that 90 % would not be reached with, ours and the peer's."
    monkeypatch.setitem(RECIPES, 90, replace(RECIPES[90], widths=(16, 32, 32)))
    monkeypatch.setattr(PlainRecipe, "widths", (8, 16, 16))


@pytest.mark.slow
def test_runs_and_peer_take_turns_and_the_last_is_a_run_folder(small_recipe, digits, tmp_path, capsys):
    asked = options(target=90, runs=2, peer="recipe", peer_epochs=1.0, images=300, test_images=100,
                    run=str(tmp_path / "fast"))  # fmt: skip
    Speedrun(asked).execute()
    lines = [o for o in capsys.readouterr().out.splitlines() if ", seed " in o and " in " in o]
    assert [o.split(",")[0] for o in lines] == ["cifar_fast", PlainRecipe.name] * 2
    result = json.loads((tmp_path / "fast/speedrun.json").read_text())
    ours = result["cifar_fast"]
    assert len(ours["runs"]) == 2 and ours["interval"] and result["wall_seconds"] > ours["mean_seconds"]
    run = FinishedRun.read(tmp_path / "fast")
    assert run.metrics["accuracy"] == pytest.approx(ours["runs"][-1]["accuracy"])  # the report's views are the record's
    assert "not CIFAR-10" in run.metrics["title"] and len(run.history.epochs) == run.metrics["epochs"]
    assert run.metrics["train_seconds"] < run.metrics["record_seconds"] == ours["runs"][-1]["seconds"]
    assert run.history.lrs[0] == pytest.approx(run.metrics["lr"])
    assert run.config["recipe"]["bs"] == run.metrics["bs"] and run.config["experiment"] == {"name": "speedrun"}
    assert run.metrics["train_accuracy"] > 0.5 and (tmp_path / "fast/report.html").exists()
    predictor, test = Predictor(tmp_path / "fast/model"), digits.fewer(300, 100)
    found = [o.label for o in predictor(test.test_x.permute(0, 2, 3, 1).numpy())]
    right = sum(a == test.vocab[b] for a, b in zip(found, test.test_y))
    assert predictor.card.metrics["accuracy"] == pytest.approx(right / 100)
    assert right / 100 == pytest.approx(run.metrics.get("model_alone", run.metrics)["accuracy"])
    assert predictor(tmp_path / "fast/model/examples/003.png").label in test.vocab


def test_a_changed_recipe_takes_turns_with_the_unchanged_one(small_recipe, tmp_path, capsys):
    changes = ["epochs=2", "hard=1,0.5", "flip=none", "sizes=20"]
    asked = options(target=90, change=changes, peer="unchanged", images=300, test_images=100, run=str(tmp_path / "own"))
    Speedrun(asked).execute()
    recipe = json.loads((tmp_path / "own/config.json").read_text())["recipe"]
    assert [recipe[o] for o in ("epochs", "hard", "flip", "sizes")] == [2, [1, 0.5], "none", [20]]
    ours, unchanged = (o for o in capsys.readouterr().out.splitlines() if ", seed 0: " in o)
    assert ours.startswith("cifar_fast, ") and unchanged.startswith("the recipe unchanged, ")
    assert len(FinishedRun.read(tmp_path / "own").history.epochs) == 2 != RECIPES[90].epochs


@pytest.mark.parametrize("changed, wanted", [
    ({"change": ["epoch=3"]}, "of epochs, bs, "), ({"change": ["epochs"]}, "give NAME=VALUE"),
    ({"change": ["epochs=3", "epochs=4"]}, "each once"),
    ({"change": ["epochs=many"]}, "epochs is 'many'"), ({"peer": "unchanged"}, "give that too"),
])  # fmt: skip
def test_a_change_that_no_recipe_has_is_one_clear_line(changed, wanted, tmp_path):
    with pytest.raises(InputError, match=wanted):
        Speedrun(options(target=90, images=100, test_images=50, run=str(tmp_path / "run"), **changed)).execute()
    assert not (tmp_path / "run").exists()


def test_ctrl_c_keeps_the_runs_that_ended(small_recipe, tmp_path, capsys, monkeypatch):
    asked = options(target=90, runs=3, images=300, test_images=50, run=str(tmp_path / "fast"))
    original = RecordRuns.run

    def run(self, seed, cbs=()):
        if seed == 2:
            raise KeyboardInterrupt
        return original(self, seed, cbs)

    monkeypatch.setattr(RecordRuns, "run", run)
    with pytest.raises(KeyboardInterrupt):
        Speedrun(asked).execute()
    assert len(json.loads((tmp_path / "fast/speedrun.json").read_text())["cifar_fast"]["runs"]) == 2
    assert "of 2 runs at 90 %" in capsys.readouterr().out


@pytest.mark.parametrize("runs", [1, 2])
def test_ctrl_c_in_the_last_run_leaves_nothing_of_it(small_recipe, runs, tmp_path, monkeypatch):
    original = RecordRuns.run

    def run(self, seed, cbs=()):
        original(self, seed, cbs)
        if seed == runs - 1:
            raise KeyboardInterrupt
        return Outcome(0.5, 1.0)

    monkeypatch.setattr(RecordRuns, "run", run)
    with pytest.raises(KeyboardInterrupt):
        Speedrun(options(target=90, runs=runs, images=300, test_images=50, run=str(tmp_path / "fast"))).execute()
    assert (tmp_path / "fast").exists() == (runs > 1)
    assert sorted(o.name for o in tmp_path.glob("fast/*")) == ["config.json", "speedrun.json"] * (runs > 1)


def test_a_used_folder_is_refused(tmp_path):
    (tmp_path / "old.txt").write_text("mine")
    with pytest.raises(InputError, match=r"give another --run$"):
        Speedrun(options(run=str(tmp_path)))


def test_airbench_against_a_cpu_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # its script would run
    with pytest.raises(InputError, match="--peer recipe"):
        Speedrun(options(peer=str(tmp_path), run=str(tmp_path / "run"), images=100, test_images=50)).execute()
    assert not (tmp_path / "run").exists()


def test_airbench_races_neither_fp32_nor_without_cuda_nor_over_other_numbers_of_classes(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_a_gpu = SimpleNamespace(options=options(peer=str(tmp_path)), images=digits, device=torch.device("cuda"))
    with pytest.raises(InputError, match="half precision"):
        Speedrun.peer(SimpleNamespace(**vars(on_a_gpu), precision="fp32"))
    with pytest.raises(InputError, match="need CUDA"):
        Speedrun.peer(SimpleNamespace(**vars(on_a_gpu), precision="bf16"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="10 classes, and these images have 9"):
        AirbenchScript(tmp_path, 94, replace(digits, vocab=digits.vocab[:9]))


def test_airbench_gets_our_images_in_its_own_form(digits, tmp_path):
    write_airbench_data(digits, tmp_path / "cifar10")
    found = torch.load(tmp_path / "cifar10/test.pt")
    assert found["images"].shape == (360, 32, 32, 3) and torch.equal(found["labels"], digits.test_y)
    assert torch.equal(found["images"][5].permute(2, 0, 1), digits.test_x[5])


def test_a_script_of_airbenchs_form_is_run_and_its_clock_read(digits, tmp_path, monkeypatch):
    (tmp_path / "airbench94_muon.py").write_text(
        "import sys, torch\n"
        "code = open(sys.argv[0]).read()\n"
        "def print_training_details(variables, is_final_entry): pass\n"
        "class CifarNet(torch.nn.Module):\n"
        "    def cuda(self): return self\n"
        "def main(run, model):\n"
        "    data = torch.load('cifar10/test.pt')\n"
        "    time_seconds = 1.5\n"
        "    print('noise')\n"
        "    print_training_details(locals(), is_final_entry=True)\n"
        "    return len(data['labels']) / 1000\n"
        "if __name__ == '__main__': raise SystemExit('ran as a program')\n"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    peer = AirbenchScript(tmp_path, 94, digits)
    assert peer.run(0) == Outcome(0.36, 1.5)


def test_a_folder_without_the_script_is_refused(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match=r"airbench96_faster\.py"):
        AirbenchScript(tmp_path, 96, digits)
    with pytest.raises(InputError, match="--peer recipe"):
        AirbenchScript(tmp_path, 90, digits)


def test_crops_are_cut_where_they_begin():
    images = torch.arange(2 * 3 * 6 * 6).view(2, 3, 6, 6)
    res = shifted(images, torch.tensor([0, 2]), torch.tensor([1, 0]), 4)
    assert torch.equal(res[0], images[0, :, 0:4, 1:5]) and torch.equal(res[1], images[1, :, 2:6, 0:4])


def test_a_summary_says_mean_interval_and_how_many_reached_the_target():
    result = summary([Outcome(0.95, 2.0), Outcome(0.93, 4.0)], 94)
    assert result["mean_seconds"] == 3.0 and result["at_target"] == 1
    low, high = result["interval"]
    assert low < 0.93 < 0.95 < high <= 1
    assert "mean accuracy 94.00%" in line_of(result, 94) and "1 of 2 runs at 94 %" in line_of(result, 94)
    assert summary([Outcome(0.95, 2.0)], 94)["interval"] is None
    for target in (90, 94, 96):
        exactly = torch.tensor(target / 100).item()  # 0.9 in float32 is a little less than 0.9
        assert summary([Outcome(exactly, 1.0), Outcome(exactly - 1e-4, 1.0)], target)["at_target"] == 1
