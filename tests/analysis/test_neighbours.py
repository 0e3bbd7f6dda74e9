"""What lies near what."""

import numpy as np
import pytest
import torch

from cifar_fast.analysis.asking import features_of, logits_of
from cifar_fast.analysis.neighbours import nearest, plot_map, plot_neighbours
from cifar_fast.errors import InputError
from cifar_fast.training.learner import custom_learner


def test_features_are_what_the_last_layer_is_given(digits_dls, digits):
    learn = custom_learner(digits_dls, width=4, precision="fp32", logit_dropout=0)
    images = digits.test_x[:50].permute(0, 2, 3, 1)
    found = features_of(learn, images)
    last = learn.model.dense2
    with torch.no_grad():
        assert torch.allclose(last(found), logits_of(learn, images), atol=1e-5)
    assert not last._forward_pre_hooks


def test_a_network_without_dense_layer_is_refused():
    class Graph:
        model = None

    with pytest.raises(InputError, match="cannot be looked into"):
        features_of(Graph(), np.zeros((1, 32, 32, 3), np.uint8))


def test_the_nearest_come_first():
    keys = torch.tensor([[1.0, 0], [0, 1], [3, 3.1]])
    cosines, idxs = nearest(torch.tensor([[2.0, 2.0], [0, 5]]), keys, 2)
    assert idxs.tolist()[0][0] == 2 and idxs.tolist()[1] == [1, 2] and (cosines[:, 0] >= cosines[:, 1]).all()
    assert nearest(keys, keys, 5)[1].shape == (3, 3)  # of a small data set all


def test_figures(digits):
    images = digits.test_x[:60].permute(0, 2, 3, 1).numpy()
    fig = plot_map(torch.randn(60, 8), digits.test_y[:60], digits.vocab, images)
    assert [o.get_title() for o in fig.axes] == ["principal components", "t-SNE"]
    rows = [(images[0], "one"), (images[1], "two")]
    assert len(plot_neighbours(rows, [rows, rows[:1]]).axes) == 6
