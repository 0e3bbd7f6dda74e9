"""The record network's optimizer: orthogonal steps for filters, SGD for the rest."""

import pickle

import pytest
import torch

from cifar_fast.records.optimizer import RecordMuon
from cifar_fast.training.muon import orthogonalize


def test_filters_keep_their_scale_and_move_by_the_rate():
    weight = torch.nn.Parameter(torch.randn(8, 3, 3, 3) * 5)
    scaled = weight.detach() * 8**0.5 / weight.detach().norm()  # 8 rows of norm 1, in the mean
    opt = RecordMuon([weight], lr=0.1)
    weight.grad = torch.randn_like(weight)
    opt.step()
    downhill = orthogonalize([-weight.grad.flatten(1)])[0].view_as(weight)
    torch.testing.assert_close(weight.detach() - scaled, 0.1 * downhill, atol=3e-3, rtol=0)
    opt.param_groups[0]["lr"] = 0.0
    opt.step()
    assert torch.allclose(weight.detach().norm(), torch.tensor(8**0.5))


def test_other_parameters_take_torchs_sgd_and_a_group_its_rate():
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    one = RecordMuon([dict(params=[ours], rate=0.5, momentum=0.9, weight_decay=0.1)], lr=0.2)
    two = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    for _ in range(4):
        ours.grad, theirs.grad = torch.arange(5.0), torch.arange(5.0)
        one.step()
        two.step()
    assert torch.allclose(ours, theirs)


def test_parameters_without_gradient_stay():
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    before = weight.detach().clone()
    RecordMuon([weight]).step()
    assert torch.equal(weight, before)


def test_an_optimizer_goes_through_pickle_and_goes_on():
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    opt = RecordMuon([weight], lr=0.1, steps=2)
    weight.grad = torch.randn_like(weight)
    opt.step()
    again = pickle.loads(pickle.dumps(opt))
    assert again.steps == 2 and again.param_groups[0]["lr"] == 0.1
    again.step()


@pytest.mark.parametrize(("is_fast", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_steps_are_computed_in_bf16_only_where_the_device_is_fast_in_it(monkeypatch, is_fast, dtype):
    monkeypatch.setattr("cifar_fast.records.optimizer.has_fast_bf16", lambda device: is_fast)
    weight = torch.nn.Parameter(torch.randn(8, 3, 3, 3))
    before = weight.detach() * 8**0.5 / weight.detach().norm()
    opt = RecordMuon([weight], lr=0.1, momentum=0.0)
    weight.grad = torch.randn_like(weight)
    opt.step()
    step = orthogonalize([weight.grad.flatten(1)], dtype=dtype)[0].view_as(weight)
    torch.testing.assert_close(weight.detach(), before - 0.1 * step, atol=1e-6, rtol=0)
