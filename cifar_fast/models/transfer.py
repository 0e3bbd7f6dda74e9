"""A body with its weights and a new head: the model of `transfer_learner`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cifar_fast.data.download import DownloadError
from cifar_fast.errors import InputError, check
from cifar_fast.models.backbones import Backbone, backbone
from cifar_fast.models.networks import TransferModel
from cifar_fast.models.weights import RANDOM, Weights, load_into, read_state
from cifar_fast.progress import banner

_PIXELS = 224  # that most published networks were made for


def load_weights(
    arch: str | Callable,  # as of `backbone`
    weights: str | Path = "auto",  # auto, imagenet, a name of torchvision's such as IMAGENET1K_V2, none, or a path
) -> Weights:
    """What `weights` names; `auto` falls back to random ones, with a banner, without a network.

    A path is that of a .pth or .safetensors state dict. Raises `InputError` for a missing or unfit file,
    `DownloadError` when published weights cannot be had.
    """
    base, asked = backbone(arch), str(weights)
    if asked == "none":
        return RANDOM
    entry = asked if asked in base.entries() else None
    if entry or asked in ("auto", "imagenet"):
        try:
            found = base.published(entry)
        except DownloadError as error:
            if asked != "auto":
                raise
            banner(
                f"ImageNet weights are not here: {error}.\nThe body gets RANDOM weights. To use others, name a file: "
                "--weights PATH, or weights= in Python."
            )
            return RANDOM
    else:
        path = Path(weights)
        found = Weights(path.stem, read_state(path, _names(base)), path)
    return replace(found, stats=base.stats(entry))


def _names(base: Backbone) -> set[str]:
    with torch.device("meta"):
        return set(base.build().state_dict())


def transfer_model(
    arch: str | Callable = "resnet18",  # as of `backbone`
    n_out: int = 10,  # classes
    head: str = "linear",  # linear: one dense layer on the pooled features, the article's; fastai: its default head
    size: int | None = None,  # pixels of a side of the images, which it is checked for; None: those of its weights
    weights: Weights = RANDOM,  # of `load_weights`
) -> TransferModel:
    """fastai's (body, head) Sequential for `arch`.

    A head gets the network's own pooled features: a ViT's class token, ConvNeXt's after its norm; fastai's takes maps
    by its own pooling. Raises `InputError` for an unknown head, weights that do not fit, and a size that the network
    cannot take.
    """
    check("head", head, head in ("linear", "fastai"), "linear or fastai")
    base = backbone(arch)
    network, body, shape = _built(base, head, size)
    if weights.state is not None:
        load_into(body, network, replace(weights, state=base.fitted(weights, network, size)), base.name)
    model = TransferModel(body, _head(head, shape, n_out))
    if base.is_named:
        model.architecture = {"name": base.name, "n_out": n_out, "head": head}
        model.architecture |= {"size": size or _PIXELS} if base.takes_size else {}
    return model


def _built(base: Backbone, head: str, size: int | None) -> tuple[nn.Module, nn.Sequential, tuple]:
    "The network, its body, and the shape of what that makes of an image."
    try:
        network = base.build(size)
        body = base.body(network, head, size or _PIXELS)
        return network, body, _shape(body, size or _PIXELS)
    except InputError:
        raise
    except Exception as error:  # each network has its own way to say so
        if size is None:
            raise
        advice = "choose a larger --size or another network"
        raise InputError(f"{base.name} cannot take images of {size} pixels: {advice}") from error


@torch.no_grad()
def _shape(body: nn.Module, size: int) -> tuple:
    body.eval()
    shape = body(torch.zeros(1, 3, size, size)).shape
    body.train()
    if len(shape) not in (2, 4):
        raise InputError(f"the body gives {len(shape)} dimensions: it should give maps (N, F, h, w) or features (N, F)")
    return tuple(shape)


def _head(head: str, shape: tuple, n_out: int) -> nn.Sequential:
    is_maps = len(shape) == 4
    if head == "linear":
        pooling = [nn.AdaptiveAvgPool2d(1)] * is_maps
        return nn.Sequential(*pooling, nn.Flatten(), nn.Linear(shape[1], n_out))
    from fastai.vision.learner import apply_init, create_head

    top = create_head(shape[1], n_out, pool=is_maps)
    top = top if is_maps else nn.Sequential(nn.Flatten(), *top)
    apply_init(top, nn.init.kaiming_normal_)
    return top
