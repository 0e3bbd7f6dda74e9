"""Transforms on whole batches, on the batch's own device, each image drawn for itself.

fastai's batch transforms interpolate every augmentation through a sampling grid, and its `RandomErasing` erases the
same rectangle in every image; these index pixels instead. All are fastai Transforms: they stand in a DataLoader's
`after_batch` beside fastai's own and run on training batches only, but for `BatchResize`.
"""

import math

import torch
import torch.nn.functional as F
from fastai.torch_core import TensorImage
from fasttransform import Transform
from torch import Tensor

from cifar_fast.errors import check, is_whole


def _per_image(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]


class TrainTransform(Transform):
    "A transform of training batches: fastai leaves out, elsewhere, what has split_idx 0."

    split_idx = 0


class FromTorchvision(TrainTransform):
    """A transform of torchvision's v2, drawn for each training image for itself.

    torchvision draws once for all that it is given, so that a batch would get one draw; image by image takes longer.
    """

    def __init__(
        self,
        tfm,  # of torchvision.transforms.v2: a Tensor (3, H, W) to another of the same size
        order: int = 15,  # floats in [0, 1], not yet normalised; 100 is after Normalize
    ):
        super().__init__()
        self.tfm, self.order = tfm, order

    def encodes(self, x: TensorImage):
        return torch.stack([self.tfm(o) for o in x.as_subclass(Tensor)])  # which `Transform` makes what `x` is


class RandomFlip(TrainTransform):
    "Mirror each image left to right with probability `p`. Works on any dtype."

    order = 5

    def __init__(
        self,
        p: float = 0.5,  # probability that an image is mirrored
    ):
        super().__init__()
        self.p_flip = p

    def draw(self, x: Tensor) -> Tensor:
        "Which of the images of batch `x` to mirror: bool (N,)."
        return torch.rand(len(x), device=x.device) < self.p_flip

    def encodes(self, x: TensorImage):
        return torch.where(_per_image(self.draw(x)), x.flip(-1), x)


class AlternatingFlip(RandomFlip):
    """Mirror each image in every other epoch, half of the images in even epochs and half in odd ones.

    Two epochs show both views of every image, where random flips repeat a view half of the time
    (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.6).
    """

    def draw(self, x: Tensor) -> Tensor:
        "Which images to mirror, from the `idxs` and `epoch` that `TensorDL` writes on its batches: bool (N,)."
        scattered = (x.idxs * 2654435761) >> 16  # Knuth's multiplicative hash: neighbours get unrelated bits
        return (scattered + x.epoch) % 2 == 0


class RandomTranslate(TrainTransform):
    "Shift each image by up to `pad` pixels down and right or up and left, reflecting at the border. Any dtype."

    order = 6

    def __init__(
        self,
        pad: int = 4,  # pixels
    ):
        super().__init__()
        self.pad = pad

    def encodes(self, x: TensorImage):
        n, channels, height, width = x.shape
        rows = self._reflected(n, height, x.device)[:, None, :, None]
        cols = self._reflected(n, width, x.device)[:, None, None, :]
        return x[
            torch.arange(n, device=x.device)[:, None, None, None],
            torch.arange(channels, device=x.device)[None, :, None, None],
            rows,
            cols,
        ]

    def _reflected(self, n: int, side: int, device: torch.device) -> Tensor:
        "For each of `n` images the `side` source positions along one axis: int64 (n, side)."
        shift = torch.randint(-self.pad, self.pad + 1, (n, 1), device=device)
        pos = (torch.arange(side, device=device) + shift).abs()
        return torch.where(pos >= side, 2 * (side - 1) - pos, pos)


class ColorJitter(TrainTransform):
    """Vary each image's brightness, contrast and saturation by factors from 1 - `most` to 1 + `most`.

    torchvision's ColorJitter, with one draw for each image in place of one for the batch; hue stays.
    """

    order = 15  # floats in [0, 1], not yet normalised

    def __init__(
        self,
        most: float = 0.4,  # from 0 to 1
    ):
        super().__init__()
        self.most = most

    def encodes(self, x: TensorImage):
        brightness, contrast, saturation = (1 + self.most * (2 * torch.rand(3, len(x), device=x.device) - 1)).unbind()
        x = (x * _per_image(brightness)).clamp(0, 1)
        grey = _grey(x).mean((2, 3), keepdim=True)
        x = torch.lerp(grey, x, _per_image(contrast)).clamp(0, 1)
        return torch.lerp(_grey(x), x, _per_image(saturation)).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    "Luminance (N, 1, H, W) by ITU-R 601, as torchvision has it."
    red, green, blue = x.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


class Erase(TrainTransform):
    """Blank a rectangle of each image with probability `p`: 2 to 33 % of its area, sides at most as 3 to 10.

    Runs after Normalize, so that blank means the mean colour. Source: Zhong et al. 2017, "Random Erasing Data
    Augmentation"; torchvision's RandomErasing, with one draw for each image in place of one for the batch.
    """

    order = 100

    def __init__(
        self,
        p: float = 0.25,  # probability that an image loses one
    ):
        super().__init__()
        self.p_erase = p

    def encodes(self, x: TensorImage):
        height, width = whole = x.shape[-2:]
        chosen, area, shape, *place = torch.rand(5, len(x), device=x.device)
        area, ratio = (0.02 + 0.31 * area) * height * width, torch.exp((2 * shape - 1) * math.log(10 / 3))
        sides = ((area * ratio).sqrt().clamp(1, height), (area / ratio).sqrt().clamp(1, width))
        rows, cols = (_between((u * (n - o)).round(), o.round(), n) for u, o, n in zip(place, sides, whole))
        inside = rows[:, None, :, None] & cols[:, None, None, :]
        return x.masked_fill(inside & _per_image(chosen < self.p_erase), 0)


def _between(start: Tensor, length: Tensor | int, side: int) -> Tensor:
    "Which of the `side` positions of each image lie in its stretch: bool (N, side)."
    pos = torch.arange(side, device=start.device)
    return (pos >= start[:, None]) & (pos < (start + length)[:, None])


class AutoAugment(TrainTransform):
    """torchvision's policies: TrivialAugment, RandAugment or AugMix.

    They draw once for all that they are given, so that a batch goes through in `parts`, each with its own draw: no two
    batches have the same images in one. Sources: Müller and Hutter 2021, "TrivialAugment"; Cubuk et al. 2019,
    "RandAugment"; Hendrycks et al. 2019, "AugMix".
    """

    order = 7  # bytes, as the policies want them

    def __init__(
        self,
        policy: str = "trivial",  # trivial, rand or augmix
        parts: int = 16,  # of a batch
    ):
        super().__init__()
        self.policy, self.parts = policy, parts
        from torchvision.transforms import v2  # half a second, which others need not wait for

        self.tfm = getattr(v2, POLICIES[policy])()

    def encodes(self, x: TensorImage):
        return torch.cat([self.tfm(o) for o in x.as_subclass(Tensor).chunk(self.parts)])


POLICIES = {"trivial": "TrivialAugmentWide", "rand": "RandAugment", "augmix": "AugMix"}


class Cutout(TrainTransform):
    """Blank a square of `size` pixels at a random place of each image, cut off at the border.

    Runs after Normalize, so that blank means the mean colour. Source: DeVries and Taylor 2017,
    "Improved Regularization of Convolutional Neural Networks with Cutout".
    """

    order = 100

    def __init__(
        self,
        size: int = 8,  # pixels of a side
    ):
        super().__init__()
        self.size = size

    def encodes(self, x: TensorImage):
        middles = [torch.randint(0, n, (len(x),), device=x.device) for n in x.shape[-2:]]
        rows, cols = (_between(o - self.size // 2, self.size, n) for o, n in zip(middles, x.shape[-2:]))
        return x.masked_fill(rows[:, None, :, None] & cols[:, None, None, :], 0)


class BatchResize(Transform):
    "Enlarge or shrink float images to squares of `size` pixels, training and validation alike."

    order = 20  # after IntToFloatTensor, before Normalize

    def __init__(
        self,
        size: int,  # pixels of a side
    ):
        super().__init__()
        self.size = size

    def encodes(self, x: TensorImage):
        if x.shape[-2:] == (self.size, self.size):
            return x
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=False, antialias=True)


def augmentations(
    flip: str = "none",  # none, random or alternating
    translate: int = 0,  # pixels of `RandomTranslate`, 0 for none
    cutout: int = 0,  # pixels of a side of `Cutout`, 0 for none
    pixels: int = 32,  # of a side of the images as they are stored
    fed: int | None = None,  # of a side of the images as the network gets them; None: as stored
    erase: float = 0.0,  # probability of `Erase`
    color: float = 0.0,  # most of `ColorJitter`
    auto_augment: str = "none",  # none, trivial, rand or augmix
) -> list[Transform]:
    "The transforms that these options ask for. Raises `InputError` for what would leave nothing of an image."
    for name, value, most in (("translate", translate, pixels - 1), ("cutout", cutout, (fed or pixels) - 1)):
        check(name, value, is_whole(value, 0) and value <= most, f"pixels from 0 to {most}")
    for name, value in (("erase", erase), ("color", color)):
        check(name, value, isinstance(value, (int, float)) and 0 <= value <= 1, "a number from 0 to 1")
    flips = {"none": None, "random": RandomFlip, "alternating": AlternatingFlip}
    for name, value, known in (("flip", flip, flips), ("auto_augment", auto_augment, {"none": None, **POLICIES})):
        check(name, value, value in known, f"one of {', '.join(known)}")
    flipping = [] if flips[flip] is None else [flips[flip]()]
    asked = {RandomTranslate: translate, AutoAugment: auto_augment, ColorJitter: color, Cutout: cutout, Erase: erase}
    return flipping + [tfm(amount) for tfm, amount in asked.items() if amount not in (0, "none")]
