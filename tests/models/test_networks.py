"""CustomCNN has the layers it should have."""

import pytest
import torch

from cifar_fast.errors import InputError
from cifar_fast.models.networks import CustomCNN


def test_the_articles_network_layer_by_layer():
    model = CustomCNN()
    assert sum(p.numel() for p in model.parameters()) == 4_294_218
    assert [type(m).__name__ for m in model] == (
        "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Conv2d ReLU Flatten "
        "Linear BatchNorm1d ReLU Dropout Linear Dropout".split()
    )
    assert [m.out_channels for m in model if isinstance(m, torch.nn.Conv2d)] == [32, 64, 128]
    assert (model.dense1.in_features, model.dense1.out_features, model.dense2.out_features) == (8192, 512, 10)
    assert (model.drop1.p, model.logit_drop.p) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"n_convs": 4}, {"conv4", "pool3"}),
        ({"n_dense": 1}, set()),
        ({"n_dense": 3}, {"dense3"}),
        ({"bn": False}, set()),
        ({"logit_dropout": 0, "dropout": 0}, set()),
        ({"conv_dropout": 0.1}, {"conv_drop1", "conv_drop3"}),
        ({"size": 64, "n_out": 100}, set()),
        ({"n_in": 1, "width": 8, "dense_width": 20}, set()),
    ],
)
def test_variants(options, layers):
    model = CustomCNN(**options)
    names = {name for name, _ in model.named_children()}
    assert layers <= names
    assert ("bn1" in names) == (options.get("bn", True) and options.get("n_dense", 2) > 1)
    assert ("logit_drop" in names) == (options.get("logit_dropout", 0.5) > 0)
    side = options.get("size", 32)
    assert model(torch.randn(2, options.get("n_in", 3), side, side)).shape == (2, options.get("n_out", 10))


def test_images_too_small_for_the_convolutions_are_refused():
    with pytest.raises(InputError, match="halve 8 pixels"):
        CustomCNN(size=8, n_convs=5)
