"""All runs at a glance."""

import json
import shutil
from dataclasses import replace

import pytest

from cifar_fast.errors import InputError
from cifar_fast.runs.overview import RunList, list_runs, write_overview


@pytest.fixture(scope="module")
def runs(digits_run, other_digits_run, tmp_path_factory):
    "A folder with two runs, one of two seeds, a damaged one, a half-finished one and a folder that is none."
    folder = tmp_path_factory.mktemp("all") / "runs"
    shutil.copytree(digits_run, folder / "decaying")
    shutil.copytree(other_digits_run, folder / "deeper/constant")
    for seed in range(2):
        shutil.copytree(digits_run, folder / f"seeds/seed-{seed}")
    shutil.copy(digits_run / "config.json", folder / "seeds/config.json")
    shutil.copytree(digits_run, folder / "broken")
    (folder / "broken/metrics.json").write_text("{")
    shutil.copytree(digits_run, folder / "half")
    (folder / "half/metrics.json").unlink()
    (folder / "notes").mkdir()
    return folder


def test_every_run_is_a_row_whatever_its_state(runs):
    states = {o.folder.name: o.state for o in list_runs(runs)}
    assert set(states) == {"decaying", "constant", "seeds", "broken", "half"}
    assert states["decaying"] == states["constant"] == states["seeds"] == "finished"
    assert states["half"] == "unfinished" and states["broken"].startswith("damaged: ")


def test_runs_are_found_from_wherever_they_are_looked_for(runs, monkeypatch):
    monkeypatch.chdir(runs / "notes")
    assert len(list_runs("..")) == len(list_runs(runs)) == 5


def test_an_interrupted_seed_says_its_own_epochs(runs, tmp_path):
    shutil.copytree(runs / "seeds", tmp_path / "seeds")
    path = tmp_path / "seeds/seed-1/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"interrupted": True, "epochs": 1}))
    assert [o.state for o in list_runs(tmp_path)] == ["interrupted after 1 epochs"]


def test_rows_say_what_differs_from_the_defaults_and_what_came_out(runs, digits_run):
    rows = {o.folder.name: o for o in list_runs(runs)}
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert rows["decaying"].accuracy == metrics["accuracy"] and rows["decaying"].name == "custom"
    assert rows["decaying"].settings == {"width": 8, "epochs": 2, "precision": "fp32"}
    assert rows["constant"].settings["schedule"] == "constant"
    assert len(rows["seeds"].accuracies) == 2 and rows["seeds"].seconds == 2 * metrics["train_seconds"]


def test_rows_are_filtered_and_sorted(runs):
    found = list_runs(runs, where={"schedule": "constant"})
    assert [o.folder.name for o in found] == ["constant"]
    assert str(list_runs(runs, data="cifar10")) == "No run fits." and len(list_runs(runs, data="digits", best=2)) == 2
    accuracies = [o.accuracy or 0 for o in list_runs(runs, sort="accuracy")]
    assert accuracies == sorted(accuracies, reverse=True)
    for wrong in (dict(folder="nowhere"), dict(sort="beauty"), dict(where={"wdith": 8})):
        with pytest.raises(InputError):
            list_runs(**{"folder": runs, **wrong})


def test_the_list_is_a_table_in_terminal_notebook_and_page(runs, tmp_path):
    rows = list_runs(runs)
    assert len(str(rows).splitlines()) == 6 and repr(rows) == str(rows) and rows._repr_html_().count("<tr>") == 6
    page = write_overview(rows, tmp_path / "runs.html").read_text()
    assert page.count("<polyline") == 4 and "schedule=constant" in page


def test_a_click_sorts_times_as_times(runs, browser_page, tmp_path):
    rows = RunList(replace(list_runs(runs)[0], seconds=o) for o in (15, 123, 99, 601))
    page = browser_page(1280)
    page.goto(write_overview(rows, tmp_path / "runs.html").as_uri())
    page.click("th:text-is('training')")
    shown = page.eval_on_selector_all("#runs td:nth-child(8)", "o => o.map(o => o.textContent)")
    assert shown == ["10 min 1 s", "2 min 3 s", "99.0 s", "15.0 s"]
