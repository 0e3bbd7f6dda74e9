"""The script that measures a GPU runs from end to end where there is none."""

import json

import pytest

from bench.gpu import main


@pytest.mark.slow
def test_all_parts_write_their_rows_on_digits(tmp_path):
    out = tmp_path / "gpu.json"
    main("digits", "steps,article,features,records", bs=64, epochs=1, size=32, repeats=1, runs=2, out=str(out))
    rows = {o["row"] for o in json.loads(out.read_text())["rows"]}
    assert {"custom CNN training, batches of 64", "94 % on CIFAR-10", "96 % on CIFAR-10"} <= rows
    assert any(o.startswith("case 4, 1 epochs, later process") for o in rows)
    assert any(o.startswith("features of") for o in rows)
