"""Figures of what the layers make of one image. Each function returns a matplotlib Figure and shows none."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, sqrt

import torch
from fastai.callback.hook import Hooks
from fastai.learner import Learner
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from cifar_fast.analysis.names import in_figure, picture_grid
from cifar_fast.errors import InputError
from cifar_fast.models.networks import TransferModel

_RESNET_NAMES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def image_layers(model: nn.Module) -> dict[str, nn.Module]:
    "Layers by name, a ResNet's residual blocks as one each; of other networks the children, Sequentials unfolded."
    if not isinstance(model, TransferModel):
        return _children(model)
    if len(model[0]) != len(_RESNET_NAMES) or not isinstance(model[0][4], nn.Sequential):
        return _children(model[0][0] if len(model[0]) == 1 else model[0])
    layers = {}
    for name, module in zip(_RESNET_NAMES, model[0].children()):
        blocks = list(module.children()) if name.startswith("layer") else []
        layers |= {f"{name}.{i}": block for i, block in enumerate(blocks)} or {name: module}
    return layers


def _children(model: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    layers = {}
    for name, module in model.named_children():
        folds = isinstance(module, nn.ModuleList) or type(module).forward is nn.Sequential.forward
        layers |= _children(module, f"{prefix}{name}.") if folds else {prefix + name: module}
    return layers


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    "`model` in eval mode, and as it was afterwards."
    was_training = model.training
    try:
        yield model.eval()
    finally:
        model.train(was_training)


def layer_outputs(
    model: nn.Module,  # any
    xb: Tensor,  # a batch with one image, as the model takes it
) -> dict[str, Tensor]:  # float32 (channels, H, W) of each layer that gives images, by the layer's name, as they run
    """What each layer makes of one image, the model in eval mode; a layer that runs several times, the last time.

    Layers within a network that keep channels last, as Swin's, are left out: only its square maps are images.
    """
    layers, maps = image_layers(model), {}
    names = {id(module): name for name, module in layers.items()}

    def keep(module, inputs, output):
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
            # cloned: a ReLU that works in place would overwrite what the layer before it gave
            maps[names[id(module)]] = output[0].detach().float().cpu().clone()

    device = next((p.device for p in model.parameters()), xb.device)
    with torch.no_grad(), in_eval_mode(model), Hooks(layers.values(), keep):
        model(xb.to(device))
    return maps


def feature_maps(
    learn: Learner,  # whose model to look into
    image,  # what `dls.test_dl` takes: a path, bytes, a PIL image, an array or a tensor
) -> dict[str, Tensor]:  # as of `layer_outputs`
    "What each layer makes of one image."
    return layer_outputs(learn.model, learn.dls.test_dl([image]).one_batch()[0].as_subclass(Tensor))


def plot_channel(
    learn: Learner,  # whose model to look into
    image,  # what `dls.test_dl` takes
    channel: int,  # its number in every layer; layers that have fewer are left out
    title: str = "",  # of the figure
) -> Figure:
    "One channel of one image after each layer through the network. Raises `InputError` where no layer has it."
    maps = {name: o[channel] for name, o in feature_maps(learn, image).items() if 0 <= channel < len(o)}
    if not maps:
        raise InputError(f"no layer has a channel {channel}: give a smaller number")
    fig, axes = _grid(len(maps) + 1, 2.0)
    axes[0].imshow(_shown(learn, image))
    axes[0].set_title("image", fontsize=9)
    for ax, (name, pixels) in zip(axes[1:], maps.items()):
        _draw_map(ax, pixels)
        ax.set_title(f"{name}, {pixels.shape[0]}x{pixels.shape[1]}", fontsize=9)
    fig.suptitle(in_figure(title) or f"channel {channel} after each layer", fontsize="medium", wrap=True)
    return fig


def plot_layer(
    learn: Learner,  # whose model to look into
    image,  # what `dls.test_dl` takes
    layer: str,  # a name of `image_layers`
    title: str = "",  # of the figure
) -> Figure:
    "All channels of one image after one layer. Raises `InputError` for an unknown layer."
    return draw_layer(feature_maps(learn, image), layer, title)


def draw_layer(
    maps: dict[str, Tensor],  # of `layer_outputs`
    layer: str,  # a name in it
    title: str = "",  # of the figure
) -> Figure:
    "All channels after one layer. Raises `InputError` for an unknown layer."
    if layer not in maps:
        raise InputError(f"there is no layer {layer!r} of images: give one of {', '.join(maps)}")
    fig, axes = _grid(len(maps[layer]), 0.9)
    for ax, pixels in zip(axes, maps[layer]):
        _draw_map(ax, pixels)
    fig.suptitle(in_figure(title) or f"{layer}: {len(maps[layer])} channels", fontsize="medium", wrap=True)
    return fig


def _draw_map(ax: Axes, pixels: Tensor) -> None:
    "0 is always among the colours: a map of a single pixel, or an even one, would otherwise always be the darkest."
    low, high = min(0.0, pixels.min().item()), max(0.0, pixels.max().item())
    ax.imshow(pixels, cmap="viridis", interpolation="nearest", vmin=low, vmax=high)


def _shown(learn: Learner, image) -> Tensor:
    "The image as the network gets it, before the normalisation: (H, W, 3)."
    dl = learn.dls.test_dl([image])
    return dl.decode_batch(dl.one_batch(), max_n=1)[0][0].as_subclass(Tensor).cpu().permute(1, 2, 0)


def _grid(n: int, side: float) -> tuple[Figure, list[Axes]]:
    cols = min(n, max(6, ceil(sqrt(n))))
    rows = ceil(n / cols)
    fig, axes = picture_grid(rows, cols, (side * cols, (side + 0.2) * rows + 0.4))
    return fig, list(axes.flat)
