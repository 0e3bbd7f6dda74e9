"""Experiments of files: by name, and a run that goes on with the same source alone."""

import json
import sys
from pathlib import Path

import pytest

from cifar_fast.errors import InputError
from cifar_fast.experiment import load_experiment, load_file
from conftest import with_cbs
from processes import Dying, Killed

pytestmark = pytest.mark.usefixtures("no_pictures")
SMALL = {"data": "digits", "images": 200, "test_images": 60, "epochs": 2, "device": "cpu", "quiet": True}


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    "A file with an experiment, and the folder of a run of it that was killed."
    file = tmp_path / "ideas.py"
    file.write_text(
        "from cifar_fast.all import CustomCNN, fast_learner\n"
        "from cifar_fast.experiment import experiment\n\n\n"
        "@experiment\ndef idea(dls, width: int = 4):\n    return fast_learner(dls, CustomCNN(dls.c, width=width))\n\n\n"
        "@experiment\ndef other(dls, width: int = 4):\n    return fast_learner(dls, CustomCNN(dls.c, width=width))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file, _stop(file, tmp_path / "run")
    sys.modules.pop("ideas", None)


def _stop(file: Path, folder: Path) -> Path:
    with pytest.raises(Killed):
        with_cbs(load_experiment(f"{file}:idea"), Dying()).run(**SMALL, run=str(folder))
    return folder


def test_a_run_goes_on_with_the_same_experiment_source_images_and_options_alone(stopped):
    file, folder = stopped
    made = load_experiment(f"{file}:idea")
    with pytest.raises(InputError, match="begun with name idea, and now it is other"):
        load_experiment(f"{file}:other").run(resume=str(folder))
    with pytest.raises(InputError, match="begun with width 4, and now it is 8"):
        made.run(resume=str(folder), width=8, no_compile=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "experiment": {**config["experiment"], "images": "others"}})
    )
    with pytest.raises(InputError, match="begun on other images"):
        made.run(resume=str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    file.write_text(file.read_text() + "# changed\n")
    changed = load_experiment(f"{file}:idea")
    with pytest.raises(InputError, match="source of idea has changed"):
        changed.run(resume=str(folder))
    assert changed.run(resume=str(folder), anyway=True).accuracy >= 0


def test_a_file_of_several_experiments_wants_a_name(stopped):
    file, _ = stopped
    assert set(load_file(file)) == {"idea", "other"}
    for name, said in ((file, "several experiments"), (f"{file}:none", "no experiment 'none'"), ("nowhere.py", "exist"),
                       ("nobody", "custom, transfer, record")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            load_experiment(name)


def test_a_run_with_numbers_that_json_has_not_and_with_none_goes_on(tmp_path):
    file = tmp_path / "odd.py"
    file.write_text(
        "from cifar_fast.all import CustomCNN, experiment, fast_learner\n\n\n"
        "@experiment\ndef idea(dls, top: float = float('inf'), fill: float = float('nan'), depth: int | None = 3):\n"
        "    assert top > 9 and fill != fill and not depth\n    return fast_learner(dls, CustomCNN(dls.c, width=4))\n"
    )
    made = load_experiment(file)
    with pytest.raises(Killed):
        with_cbs(made, Dying()).run(**SMALL, depth=None, run=str(tmp_path / "run"))
    with pytest.raises(InputError, match="begun with depth None, and now it is 3"):
        made.run(resume=str(tmp_path / "run"), depth=3)
    run = made.run(resume=str(tmp_path / "run"), top=float("inf"), fill=float("nan"), depth=None)
    assert len(run.first.history.epochs) == 2
    assert [run.first.config["asked"][o] for o in ("top", "fill", "depth")] == ["inf", "nan", None]
