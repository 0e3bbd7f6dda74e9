"""Orthogonal steps for matrices, as Muon takes them.

torch.optim.Muon orthogonalises one matrix after the other; here those of one shape go together.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

# The quintic of Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks": its slope at 0 is
# steep, so that small singular values grow within few steps; they end between 0.7 and 1.2, not at 1.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(
    matrices: Sequence[Tensor],  # float (rows, cols) each, of any shapes
    steps: int = 3,  # Newton-Schulz iterations
    dtype: torch.dtype | None = torch.bfloat16,  # to compute in; None: that of the matrices
) -> list[Tensor]:  # of the same shapes and dtypes
    """The nearest semi-orthogonal matrices, approximately: U V^T for a matrix U S V^T.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    res: list[Tensor] = [None] * len(matrices)
    order = sorted(range(len(matrices)), key=lambda i: tuple(matrices[i].shape))
    for shape, same in groupby(order, key=lambda i: tuple(matrices[i].shape)):
        same = list(same)
        x = torch.stack([matrices[i] for i in same])
        x = x.to(dtype or x.dtype)
        tall = shape[0] > shape[1]
        x = x.mT if tall else x
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        a, b, c = QUINTIC
        for _ in range(steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        for i, one in zip(same, x.mT if tall else x):
            res[i] = one.to(matrices[i].dtype)
    return res
