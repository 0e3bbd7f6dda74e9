"""Clocks wait for whatever device computes."""

import torch

from cifar_fast.device import time_when_done


def test_the_clock_waits_for_any_device_but_the_cpu(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    before = time_when_done(torch.device("cpu"))
    assert not waited
    for name in ("cuda", "mps", "xpu"):
        assert time_when_done(torch.device(name)) >= before
    assert [o.type for o in waited] == ["cuda", "mps", "xpu"]
