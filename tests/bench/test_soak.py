"""The long trials, shortened: whatever fails, no good state is lost."""

import re

import pytest

from bench.soak import SMALL, Soak


@pytest.mark.slow
@pytest.mark.long
def test_the_soak_finds_nothing_lost(no_pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(SMALL, "epochs", 2)
    soak = Soak(tmp_path, trials=1, loads=50, fits=3)
    assert "bit-identical: 1 of 1" in soak.kills()
    found = re.search(r"50 damaged files loaded: (\d+) right answers, (\d+) clear errors", soak.damage())
    assert int(found[1]) + int(found[2]) == 50
    assert soak.write_faults().endswith("good state lost: 0")
