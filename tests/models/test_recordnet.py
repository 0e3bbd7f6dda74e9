"""The record network: whitening, identities, and its ways out."""

import pytest
import torch

from cifar_fast.errors import InputError
from cifar_fast.models.networks import build_model
from cifar_fast.models.recordnet import IdentityConv, RecordNet


def test_the_first_layer_whitens_patches():
    net, images = RecordNet(), torch.randn(200, 3, 8, 8)
    images[:, 1] += 2 * images[:, 0]  # correlated channels
    net.whiten(images, eps=0)
    out = torch.nn.functional.conv2d(images, net.whitening.weight)
    values = out.permute(1, 0, 2, 3).reshape(24, -1)
    assert torch.allclose(values[:12] @ values[:12].T / values.shape[1], torch.eye(12), atol=1e-3)
    assert torch.allclose(values[:12], -values[12:], atol=1e-4)


def test_grey_images_whiten_without_blowing_up():
    net = RecordNet(widths=(8, 8, 8))
    grey = torch.randn(50, 1, 16, 16).expand(-1, 3, -1, -1)
    net.whiten(grey)
    net(grey).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_fresh_convolutions_pass_their_input_on():
    x = torch.randn(2, 6, 5, 5)
    assert torch.allclose(IdentityConv(6, 10)(x)[:, :6], x, atol=1e-5)


@pytest.mark.parametrize("depth, size", [(2, 32), (3, 32), (2, 16), (2, 24)])
def test_images_of_several_sizes_become_logits(depth, size):
    net = RecordNet(7, (8, 12, 16), depth)
    assert net(torch.randn(3, 3, size, size)).shape == (3, 7)


def test_the_architecture_makes_the_network_anew():
    net = RecordNet(5, (8, 12, 16), 3, 0.1)
    again = build_model(net.architecture)
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.eval()(x), again.eval()(x))


def test_resetting_forgets_everything():
    net, images = RecordNet(widths=(8, 8, 8)), torch.randn(20, 3, 16, 16) + 3
    fresh = RecordNet(widths=(8, 8, 8))
    net.whiten(images)
    net(images)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    for one in (net, fresh):
        torch.manual_seed(1)
        one.reset_parameters()
    for name, value in fresh.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    assert not net.whitening.weight.requires_grad and not net.groups[0].norm1.weight.requires_grad


def test_another_depth_is_refused():
    with pytest.raises(InputError, match="2 or 3"):
        RecordNet(depth=4)


@pytest.mark.slow
def test_compiled_gradients_are_those_without():
    net, x = RecordNet(widths=(8, 16, 16)), torch.randn(32, 3, 32, 32)
    net.whiten(x)

    def grads(call):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = call(x).float().logsumexp(1).sum()
        loss.backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    for one, two in zip(grads(net), grads(torch.compile(net, dynamic=False))):
        assert (one - two).norm() <= 0.3 * one.norm()
