"""What the layers make of an image."""

import pytest
import torch

from cifar_fast.analysis.featuremaps import draw_layer, feature_maps, plot_channel, plot_layer
from cifar_fast.errors import InputError
from cifar_fast.training.learner import custom_learner, transfer_learner


@pytest.fixture
def cnn(digits_dls):
    return custom_learner(digits_dls, precision="fp32")


def test_each_layer_gives_what_it_computes(cnn, digits):
    maps = feature_maps(cnn, digits.test_x[0])
    assert list(maps) == ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3"]
    xb = cnn.dls.test_dl([digits.test_x[0]]).one_batch()[0].as_subclass(torch.Tensor)
    with torch.no_grad():
        conv1 = cnn.model.conv1(xb)[0]
    assert torch.allclose(maps["conv1"], conv1, atol=1e-6)  # not what the ReLU in place has left of it
    assert torch.allclose(maps["relu1"], conv1.relu(), atol=1e-6)
    assert maps["conv3"].shape == (128, 8, 8)


def test_the_model_is_left_as_it_was(cnn, digits):
    cnn.model.train()
    feature_maps(cnn, digits.test_x[0])
    assert cnn.model.training and not any(m._forward_hooks for m in cnn.model.modules())


def test_a_channel_through_custom_cnn_and_resnet(cnn, digits_dls, digits):
    assert len(plot_channel(cnn, digits.test_x[0], 6).axes) >= 9
    fig = plot_channel(transfer_learner(digits_dls, weights="none", precision="fp32"), digits.test_x[0], 11)
    titles = [ax.get_title() for ax in fig.axes]
    assert titles[0] == "image" and "conv1, 16x16" in titles and "layer4.1, 1x1" in titles


def test_the_image_is_shown_before_the_normalisation(cnn, digits):
    shown = plot_channel(cnn, digits.test_x[0], 0).axes[0].images[0].get_array()
    assert abs(shown.astype(float) - digits.test_x[0].permute(1, 2, 0).numpy()).max() <= 1


def test_a_map_of_one_pixel_is_as_bright_as_it_is_far_from_zero():
    maps = {"layer": torch.tensor([[[0.0]], [[2.0]], [[-2.0]]])}
    shown = [ax.images[0] for ax in draw_layer(maps, "layer").axes if ax.images]
    colours = [o.norm(o.get_array()).item() for o in shown]
    assert colours[1] == 1 and colours[2] == 0 and shown[0].get_clim()[0] <= 0 <= shown[0].get_clim()[1]


def test_all_channels_of_a_layer(cnn, digits):
    fig = plot_layer(cnn, digits.test_x[0], "conv2")
    assert sum(bool(ax.images) for ax in fig.axes) == 64


def test_a_channel_or_layer_that_is_not_there_is_one_line(cnn, digits):
    with pytest.raises(InputError, match="no layer has a channel 128"):
        plot_channel(cnn, digits.test_x[0], 128)
    with pytest.raises(InputError, match=r"conv9.*conv1"):
        plot_layer(cnn, digits.test_x[0], "conv9")
