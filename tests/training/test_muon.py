"""Steps made orthogonal."""

import torch

from cifar_fast.training.muon import orthogonalize


def test_steps_become_nearly_orthogonal_whatever_their_shape_and_scale():
    shapes = [(64, 216), (300, 20), (64, 216), (16, 16)]
    matrices = [torch.randn(shape) * 10.0**i for i, shape in enumerate(shapes)]
    res = orthogonalize(matrices, steps=8, dtype=None)
    for before, after in zip(matrices, res):
        assert after.shape == before.shape and after.dtype == before.dtype
        singular = torch.linalg.svdvals(after)
        assert singular.min() > 0.6 and singular.max() < 1.3
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        exact = (u @ v).flatten()
        assert torch.nn.functional.cosine_similarity(after.flatten(), exact, dim=0) > 0.95


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonalize([torch.zeros(4, 9)])[0].any()
