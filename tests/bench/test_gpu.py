"""The script that measures a GPU runs from end to end where there is none."""

import json

import pytest
import torch

from bench.gpu import main
from bench.races import IDEAS, race


@pytest.mark.slow
@pytest.mark.long
def test_parts_write_their_rows_on_digits(tmp_path):
    out = tmp_path / "gpu.json"
    main("digits", "steps,at_once,features", bs=512, size=32, repeats=1, out=str(out))
    rows = {o["row"] for o in json.loads(out.read_text())["rows"]}
    assert "custom CNN training, batches of 512" in rows
    assert any(o.startswith("features of") for o in rows) and "seeds at once, batches of 512" in rows


@pytest.mark.slow
@pytest.mark.long
def test_a_race_without_others_times_ours(digits):
    found = list(race(digits.fewer(60, 30), 94, None, 1, torch.device("cpu")))
    names = ["ours", *(f"ours, {idea}" for idea in IDEAS[94])]
    wanted = [(f"{name}{what}", unit, 1) for name in names for what, unit in (("", "s"), (", accuracy", "%"))]
    assert [(name, unit, len(turns)) for name, _, unit, turns in found] == wanted
