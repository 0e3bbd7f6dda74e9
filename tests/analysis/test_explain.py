"""Where a network looks."""

import sys

import pytest
import torch
from torch import nn

from cifar_fast.analysis.explain import grad_cam, integrated_gradients, plot_looks
from cifar_fast.errors import InputError, MissingExtra
from cifar_fast.models.networks import CustomCNN
from cifar_fast.models.recordnet import RecordNet
from cifar_fast.models.transfer import transfer_model


class Corner(nn.Module):
    "Says class 1 where the upper left is bright, class 0 where the lower right is."

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 1, 1)
        nn.init.constant_(self.maps.weight, 1 / 3)
        nn.init.zeros_(self.maps.bias)

    def forward(self, x):
        maps = self.maps(x)
        return torch.stack([maps[:, 0, 8:, 8:].mean((1, 2)), maps[:, 0, :8, :8].mean((1, 2))], 1)


@pytest.mark.parametrize("look", [grad_cam, integrated_gradients])
def test_it_looks_where_the_class_is_decided(look):
    pytest.importorskip("captum")
    model, xb = Corner(), torch.zeros(2, 3, 16, 16)
    xb[:, :, :8, :8] = xb[:, :, 8:, 8:] = 1
    found = look(model, xb, torch.tensor([1, 0]))
    assert found.shape == (2, 16, 16) and found.min() >= 0 and found.max() == pytest.approx(1)
    if look is integrated_gradients:  # Grad-CAM weighs whole maps, of which this network has one
        assert found[0, :8, :8].mean() > 0.9 > 0.1 > found[0, 8:, 8:].mean()
        assert found[1, 8:, 8:].mean() > 0.9 > 0.1 > found[1, :8, :8].mean()
    else:
        assert found[0, :8, :8].mean() > 0.8 and found[0, 8:, :8].mean() < 0.2


@pytest.mark.parametrize("make,side", [
    (lambda: CustomCNN(width=4, dense_width=8), 32),
    (lambda: RecordNet(10, [8, 8, 8]), 32),
    (lambda: transfer_model("resnet18", 10), 64),
], ids=["custom", "record", "resnet"])  # fmt: skip
def test_every_network_of_the_package_is_looked_into_and_left_as_it_was(make, side):
    pytest.importorskip("captum")
    model = make().train().requires_grad_(False)
    before = {k: o.clone() for k, o in model.state_dict().items()}
    images = (torch.rand(2, 32, 32, 3) * 255).to(torch.uint8).numpy()
    xb = torch.randn(2, 3, side, side)
    fig = plot_looks(model, xb, images, torch.tensor([1, 2]), torch.tensor([3, 4]), [str(i) for i in range(10)])
    assert len(fig.axes) == 8 and model.training
    assert all(torch.equal(o, before[k]) for k, o in model.state_dict().items())


def test_a_network_without_maps_is_refused():
    pytest.importorskip("captum")
    with pytest.raises(InputError, match="no layer"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.randn(1, 3, 4, 4), torch.tensor([0]))


def test_without_captum_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtra, match=r"cifar_fast\[explain\]"):
        integrated_gradients(Corner(), torch.zeros(1, 3, 16, 16), torch.tensor([0]))
