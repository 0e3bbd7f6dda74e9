"""The record recipes' network: whitening convolution, groups of convolutions that begin as identities, max-pooling.

Its ideas and where they come from:

- The first layer is a fixed 2x2 convolution that whitens patches, made from their statistics, each filter beside its
  negative; only its bias is trained, and only for a while (Page 2019, "How to train your ResNet 8"; tysam-code 2023,
  "hlb-CIFAR10", took smaller patches and trained the bias).
- The other convolutions begin as partial identities, so that a fresh network passes its input on (Jordan 2024, "94% on
  CIFAR-10 in 3.29 seconds on a single GPU", section 3.4).
- Batch norms train their biases alone, and follow their statistics quickly (the same; Page 2019).
- The logits are scaled down by a constant, the last layer has no bias (Page 2019; Jordan 2024).
- A third convolution a group, around which its input goes, carries the network beyond 95 % (Jordan 2024, section 4).

Nothing here needs fastai.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_fast.errors import InputError

PATCH = 2  # pixels of a side of the patches that are whitened


class BiasNorm(nn.BatchNorm2d):
    "Batch norm whose scale stays at 1 and whose running statistics follow within a few batches."

    def __init__(
        self,
        nf: int,  # channels
        momentum: float = 0.4,  # weight of a new batch in the running statistics
    ):
        super().__init__(nf, eps=1e-3, momentum=momentum)
        self.weight.requires_grad_(False)


class IdentityConv(nn.Conv2d):
    "A 3x3 convolution without bias, whose first `ni` filters begin as the identity."

    def __init__(
        self,
        ni: int,  # channels in
        nf: int,  # channels out
    ):
        super().__init__(ni, nf, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        "Draw the weights anew."
        super().reset_parameters()
        with torch.no_grad():
            nn.init.dirac_(self.weight[: self.in_channels])


class ConvGroup(nn.Module):
    "Convolution, pooling to half the side, and one convolution more, or two with a way around the second."

    def __init__(
        self,
        ni: int,  # channels in
        nf: int,  # channels out
        depth: int = 2,  # convolutions: 2 or 3
        momentum: float = 0.4,  # of the batch norms
    ):
        super().__init__()
        self.conv1, self.pool, self.norm1 = IdentityConv(ni, nf), nn.MaxPool2d(2), BiasNorm(nf, momentum)
        self.conv2, self.norm2 = IdentityConv(nf, nf), BiasNorm(nf, momentum)
        self.conv3, self.norm3 = (IdentityConv(nf, nf), BiasNorm(nf, momentum)) if depth == 3 else (None, None)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        "(N, ni, H, W) to (N, nf, H // 2, W // 2)."
        first = self.act(self.norm1(self.pool(self.conv1(x))))
        x = self.act(self.norm2(self.conv2(first)))
        return x if self.conv3 is None else self.act(self.norm3(self.conv3(x)) + first)


class RecordNet(nn.Module):
    """The network of the record recipes: float (N, 3, size, size), 9 pixels or more, to logits (N, n_out).

    Images must be normalised; `whiten` fits the first layer to them, before training. Raises `InputError` for a depth
    other than 2 or 3.
    """

    def __init__(
        self,
        n_out: int = 10,  # classes
        widths: Sequence[int] = (64, 256, 256),  # channels of the groups
        depth: int = 2,  # convolutions a group: 2 or 3
        bn_momentum: float = 0.4,  # weight of a new batch in the batch norms' running statistics
    ):
        if depth not in (2, 3):
            raise InputError(f"depth is {depth!r}: a group has 2 or 3 convolutions")
        super().__init__()
        widths = list(widths)
        self.architecture = {
            "name": "RecordNet", "n_out": n_out, "widths": widths, "depth": depth, "bn_momentum": bn_momentum,
        }  # fmt: skip
        n_white = 2 * 3 * PATCH**2
        self.whitening = nn.Conv2d(3, n_white, PATCH)
        self.whitening.weight.requires_grad_(False)
        self.act = nn.GELU()
        self.groups = nn.Sequential(
            *[ConvGroup(ni, nf, depth, bn_momentum) for ni, nf in zip([n_white, *widths], widths)]
        )
        self.head = nn.Linear(widths[-1], n_out, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        "Begin anew, in place: random weights, identities, statistics forgotten."
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self.head.weight.div_(self.head.weight.std())

    @torch.no_grad()
    def whiten(
        self,
        images: Tensor,  # float (N, 3, H, W), normalised; some thousands are enough
        eps: float = 5e-4,  # added to the variances, so that directions without variance stay small
    ) -> None:
        "Make the first layer's filters from the patches of `images`: their principal directions, scaled to variance 1."
        shape = self.whitening.weight.shape[1:]
        patches = images.float().unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (N, 3, rows, cols, PATCH, PATCH)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, shape.numel())
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + eps).sqrt()).T.reshape(-1, *shape)
        self.whitening.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        "Logits (N, n_out)."
        x = self.groups(self.act(self.whitening(x)))
        # not amax: torch.compile compares its rounded maximum with unrounded inputs, and finds none that is equal
        x = F.max_pool2d(x, x.shape[2:]).flatten(1)
        return self.head(x) / x.shape[-1]
