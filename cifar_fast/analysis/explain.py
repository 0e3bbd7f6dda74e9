"""Where a network looks, by captum (extra `explain`): Grad-CAM, and integrated gradients as the second view."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from cifar_fast.analysis.featuremaps import image_layers, in_eval_mode, layer_outputs
from cifar_fast.analysis.names import above, picture_grid, short
from cifar_fast.errors import InputError, MissingExtra

STEPS = 32  # of integrated gradients
AT_ONCE = 64  # images of its inner batches


def _captum():
    try:
        import captum.attr
    except ImportError as error:
        raise MissingExtra("explain", "a look at where a network looks") from error
    return captum.attr


def grad_cam(
    model: nn.Module,  # gives logits
    xb: Tensor,  # a batch (N, 3, H, W), as the model takes it
    targets: Tensor,  # int64 (N,) classes that are asked about
) -> Tensor:  # float32 (N, H, W) in [0, 1]: 1 where an image speaks most for its class
    """What in the last maps before the dense layers speaks for a class.

    Source: Selvaraju et al. 2017, "Grad-CAM". Raises `MissingExtra` without captum, `InputError` for a network without
    maps.
    """
    captum = _captum()
    maps = [name for name, o in layer_outputs(model, xb[:1]).items() if o.shape[-1] * o.shape[-2] > 1]
    if not maps:
        raise InputError("no layer of this network gives maps of more than a pixel: integrated_gradients looks at any")
    with in_eval_mode(model):
        cam = captum.LayerGradCam(model, image_layers(model)[maps[-1]])
        found = cam.attribute(xb.clone(), targets.to(xb.device), relu_attributions=True).detach()
    found = nn.functional.interpolate(found.float(), size=xb.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return _scaled(found)


def integrated_gradients(
    model: nn.Module,  # gives logits
    xb: Tensor,  # a batch (N, 3, H, W), as the model takes it
    targets: Tensor,  # int64 (N,) classes that are asked about
) -> Tensor:  # float32 (N, H, W) in [0, 1]
    """How much each pixel moved the class's logit on the way from the mean colour, whichever way.

    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks". Raises `MissingExtra` without captum.
    """
    asked = dict(target=targets.to(xb.device), n_steps=STEPS, internal_batch_size=max(AT_ONCE, len(xb)))
    with in_eval_mode(model):
        found = _captum().IntegratedGradients(model).attribute(xb.clone(), **asked)
    return _scaled(found.detach().float().abs().sum(1))


def _scaled(found: Tensor) -> Tensor:
    return (found / found.amax((1, 2), keepdim=True).clamp_min(1e-12)).cpu()


def plot_looks(
    model: nn.Module,  # gives logits
    xb: Tensor,  # a batch (N, 3, H, W), as the model takes it
    images: np.ndarray,  # uint8 (N, H, W, 3), the same images
    said: Tensor,  # int64 (N,) predicted classes
    true: Tensor | None,  # int64 (N,) labels; None where they are not known
    vocab: Sequence[str],  # class names
) -> Figure:
    "Each image, Grad-CAM for the class that was said and for the true one, and integrated gradients."
    views = {"Grad-CAM": (grad_cam(model, xb, said), said)}
    if true is not None:
        views["Grad-CAM, true class"] = grad_cam(model, xb, true), true
    views["integrated gradients"] = integrated_gradients(model, xb, said), said
    n, cols = len(images), 1 + len(views)
    fig, axes = picture_grid(n, cols, (1.9 * cols, 2.1 * n))
    for i, line in enumerate(axes):
        for ax in line:
            ax.imshow(images[i], interpolation="nearest", extent=(0, 1, 0, 1))
        name = "" if true is None else short(vocab[int(true[i])])
        line[0].set_title(above(name, 1.9), fontsize=8)
        for ax, (view, (found, of)) in zip(line[1:], views.items()):
            ax.imshow(found[i].numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1, extent=(0, 1, 0, 1))
            ax.set_title(above(f"{view}:\n{short(vocab[int(of[i])])}", 1.9), fontsize=8)
    return fig
