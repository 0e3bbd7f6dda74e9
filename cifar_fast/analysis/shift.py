"""How a model holds when pictures are worse than those it was tested on: torchvision's transforms, five severities.

These are not the corruptions of CIFAR-10-C, which is read from its files by `data/labelled_sets.py`: numbers of the two
cannot be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cifar_fast.analysis.asking import predictions_of
from cifar_fast.analysis.names import in_figure
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.errors import InputError, check
from cifar_fast.progress import progress

SEED = 0  # of the noise
CHUNK = 1000  # images that are changed at once
SEVERITIES = (1, 2, 3, 4, 5)


def _pixelate(functional, x: Tensor, share: float) -> Tensor:
    side = x.shape[-1]
    small = functional.resize(x, [max(1, round(side * share))] * 2, antialias=True)
    return functional.resize(small, [side, side], functional.InterpolationMode.NEAREST)


def _affine(functional, x: Tensor, move: float = 0.0, scale: float = 1.0) -> Tensor:
    pixels = [round(move * x.shape[-1])] * 2
    return functional.affine(x, 0.0, pixels, scale, [0.0, 0.0], functional.InterpolationMode.BILINEAR)


def _hide(functional, x: Tensor, share: float) -> Tensor:
    side = round(share * x.shape[-1])
    start = (x.shape[-1] - side) // 2
    return functional.erase(x, start, start, side, side, torch.full((1,), 128, dtype=x.dtype, device=x.device))


# A name that says what is done; what does it, by torchvision's `functional`, to uint8 images (N, 3, H, W); and how much
# of it at severities 1 to 5.
KINDS: dict[str, tuple[Callable, tuple]] = {
    "noise": (lambda f, x, sigma: f.gaussian_noise(x, sigma=sigma), (0.04, 0.06, 0.08, 0.12, 0.18)),
    "blur": (lambda f, x, sigma: f.gaussian_blur(x, [7, 7], [sigma, sigma]), (0.4, 0.6, 0.8, 1.1, 1.5)),
    "pixelated": (_pixelate, (0.8, 0.65, 0.5, 0.4, 0.3)),
    "JPEG": (lambda f, x, quality: f.jpeg(x, quality), (80, 60, 40, 20, 10)),
    "posterized": (lambda f, x, bits: f.posterize(x, bits), (5, 4, 3, 2, 1)),
    "brighter": (lambda f, x, factor: f.adjust_brightness(x, factor), (1.2, 1.4, 1.7, 2.1, 2.6)),
    "darker": (lambda f, x, factor: f.adjust_brightness(x, factor), (0.8, 0.6, 0.45, 0.3, 0.2)),
    "less contrast": (lambda f, x, factor: f.adjust_contrast(x, factor), (0.75, 0.55, 0.4, 0.25, 0.15)),
    "less colour": (lambda f, x, factor: f.adjust_saturation(x, factor), (0.8, 0.6, 0.4, 0.2, 0.0)),
    "other hue": (lambda f, x, turn: f.adjust_hue(x, turn), (0.05, 0.1, 0.18, 0.3, 0.5)),
    "sharpened": (lambda f, x, factor: f.adjust_sharpness(x, factor), (2.0, 3.0, 5.0, 8.0, 12.0)),
    "rotated": (lambda f, x, angle: f.rotate(x, angle, f.InterpolationMode.BILINEAR), (5.0, 10.0, 15.0, 25.0, 40.0)),
    "moved": (lambda f, x, share: _affine(f, x, move=share), (0.06, 0.1, 0.16, 0.22, 0.3)),
    "smaller": (lambda f, x, scale: _affine(f, x, scale=scale), (0.9, 0.8, 0.7, 0.6, 0.5)),
    "partly hidden": (_hide, (0.15, 0.22, 0.3, 0.4, 0.5)),
}


def shifted(
    images: Tensor,  # uint8 (N, 3, H, W)
    kind: str,  # a name in `KINDS`
    severity: int,  # 1 to 5
) -> Tensor:  # the same shape and dtype, on the same device
    "The images, changed; noise is the same each time. Raises `InputError` for another kind or severity."
    check("kind", kind, kind in KINDS, f"one of {', '.join(KINDS)}")
    check("severity", severity, severity in SEVERITIES, "1 to 5")
    from torchvision.transforms.v2 import functional  # a second, which other analyses need not wait for

    change, amounts = KINDS[kind]
    with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(SEED)
        return torch.cat([change(functional, o, amounts[severity - 1]) for o in images.split(CHUNK)])


@dataclass(frozen=True)
class Shift:
    "Accuracies in [0, 1] on the same images, changed in several ways."

    clean: float  # on the images as they are
    accuracies: dict[str, list[float]]  # of each kind, at severities 1 to 5
    calibration_errors: dict[str, list[float]]  # the same of the expected calibration error
    images: int  # of each number

    @property
    def mean(self) -> float:
        "Mean over kinds and severities."
        return float(np.mean(list(self.accuracies.values())))

    def error_against(self, baseline: "Shift") -> float:
        """Mean corruption error: each kind's errors over the baseline's, then the mean; 1 is as good as it.

        Source of the form: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common
        Corruptions and Perturbations". Raises `InputError` for other kinds.
        """
        if list(self.accuracies) != list(baseline.accuracies):
            raise InputError("the baseline was measured on other kinds of shift: measure it anew")
        pairs = zip(self.accuracies.values(), baseline.accuracies.values())
        return float(np.mean([(1 - np.array(own)).sum() / max((1 - np.array(o)).sum(), 1e-9) for own, o in pairs]))


def measure_shift(
    model,  # a Predictor or a Learner
    images: Tensor,  # uint8 (N, 3, H, W)
    labels: Tensor,  # int64 (N,)
    kinds: Sequence[str] = tuple(KINDS),
) -> Shift:
    "Ask `model` about the images as they are, and changed in each way at each severity."
    vocab = model.dls.vocab if hasattr(model, "dls") else model.card.vocab

    def ask(x: Tensor) -> Predictions:
        return predictions_of(model, x.permute(0, 2, 3, 1), labels, vocab)

    found = {kind: [ask(shifted(images, kind, o)) for o in SEVERITIES] for kind in progress(kinds)}
    return Shift(
        ask(images).accuracy,
        {kind: [o.accuracy for o in row] for kind, row in found.items()},
        {kind: [o.reliability().expected_error for o in row] for kind, row in found.items()},
        len(labels),
    )


def plot_shift(
    shift: Shift,
    baseline: Shift | None = None,  # of another model, dashed
    title: str = "",  # of the figure
) -> Figure:
    "Accuracy against severity, a small chart for each kind."
    kinds, cols = list(shift.accuracies), 5
    rows = -(-len(kinds) // cols)
    fig = Figure(figsize=(2.4 * cols, 2.1 * rows + 0.6), layout="constrained")
    axes = fig.subplots(rows, cols, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(kinds) :]:
        ax.axis("off")
    for ax, kind in zip(axes.flat, kinds):
        if baseline is not None:
            ax.plot((0, *SEVERITIES), [baseline.clean, *baseline.accuracies[kind]], "--", color="grey")
        ax.plot((0, *SEVERITIES), [shift.clean, *shift.accuracies[kind]], "o-", markersize=3)
        ax.set_title(kind, fontsize="medium")
        ax.set_ylim(0, 1)
        ax.grid(alpha=0.3)
    fig.supxlabel("severity (0: as they are)", fontsize="medium")
    fig.supylabel("accuracy", fontsize="medium")
    fig.suptitle(in_figure(title), fontsize="medium", wrap=True)
    return fig


def plot_kinds(
    image: Tensor,  # uint8 (3, H, W)
    kinds: Sequence[str] = tuple(KINDS),
) -> Figure:
    "One image, changed in each way at each severity: to see what the numbers speak of."
    from torchvision.utils import make_grid

    columns, (_, height, width) = (0, *SEVERITIES), image.shape
    cells = [shifted(image[None], kind, o)[0] if o else image for kind in kinds for o in columns]
    gap = max(1, width // 16)
    grid = make_grid(torch.stack(cells), nrow=len(columns), padding=gap, pad_value=255)
    fig = Figure(figsize=(1.1 * len(columns) + 1.2, 1.1 * len(kinds) + 0.4), layout="compressed")
    ax = fig.subplots()
    ax.imshow(grid.cpu().permute(1, 2, 0).numpy(), interpolation="nearest")  # of one axes: 90 take seconds
    ax.set_xticks([gap + width / 2 + i * (width + gap) for i in range(len(columns))], columns)
    ax.set_yticks([gap + height / 2 + i * (height + gap) for i in range(len(kinds))], kinds)
    ax.set_xlabel("severity")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig
