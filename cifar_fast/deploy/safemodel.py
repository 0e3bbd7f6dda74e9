"""A model as a folder of model.json and model.safetensors: no pickle, no code in it. Needs no fastai."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cifar_fast.deploy.modelcard import CARD, ModelCard
from cifar_fast.errors import InputError, check
from cifar_fast.files import write_atomically, write_text
from cifar_fast.models.networks import build_model

WEIGHTS, GRAPH = "model.safetensors", "model.onnx"


@dataclass(frozen=True)
class SafeModel:
    "A rebuilt network in eval mode, and what it is."

    model: nn.Module
    card: ModelCard

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        "Logits (N, classes) of uint8 images (N, stored_size, stored_size, 3)."
        return self.model(normalise(x, self.card))


def normalise(x: Tensor, card: ModelCard) -> Tensor:
    "What the network takes, float (N, 3, size, size), of uint8 images (N, stored_size, stored_size, 3)."
    mean, std = (torch.tensor(o, device=x.device).view(1, -1, 1, 1) for o in (card.mean, card.std))
    x = x.permute(0, 3, 1, 2).float() / 255
    if card.size != card.stored_size:
        x = nn.functional.interpolate(x, size=card.size, mode="bilinear", align_corners=False, antialias=True)
    return (x - mean) / std


def is_built_by_name(
    model: nn.Module,
    architecture: dict,  # a card's
) -> bool:
    "Whether `build_model` makes a network of the same modules and tensors as `model`."
    try:
        with torch.device("meta"):
            built = build_model(architecture)
    except (InputError, RuntimeError, TypeError, KeyError, ValueError):
        return False
    return _modules(built) == _modules(model) and _tensors(built) == _tensors(model)


def _modules(model: nn.Module) -> list[tuple[str, str, str]]:
    "What computes, in order; fastai's Flatten and torch's do the same."
    return [
        (name, "", "") if type(o).__name__ == "Flatten" else (name, type(o).__qualname__, o.extra_repr())
        for name, o in model.named_modules()
    ]


def _tensors(model: nn.Module) -> dict[str, tuple]:
    return {k: (o.shape, o.dtype) for k, o in model.state_dict().items() if isinstance(o, Tensor)}


def save_safe(
    model: nn.Module,  # of this package, or with a card that is foreign
    card: ModelCard,  # its `sha256` is filled in here
    folder: str | Path,  # made where it is missing; its model files are replaced
) -> Path:  # the folder
    "Write the weights, bit for bit, and the card that names their hash."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: o.detach().as_subclass(Tensor) for k, o in model.state_dict().items() if _is_dense(o)}
    content = save({name: o.cpu().clone(memory_format=torch.contiguous_format) for name, o in state.items()})
    text = replace(card, sha256=hashlib.sha256(content).hexdigest()).to_json()
    ModelCard.parse(text)  # what could not be loaded is not written
    write_atomically(folder / WEIGHTS, lambda tmp: tmp.write_bytes(content))
    write_text(folder / CARD, text)
    return folder


def load_safe(
    folder: str | Path,  # that `export_safe` has written
    device: str | torch.device = "cpu",
    build: Callable[[], nn.Module] | None = None,  # makes the network anew, where this package does not know it
) -> SafeModel:
    """The model in `folder`, rebuilt from its card and weights alone: nothing in the files is run.

    Nothing is imported but this package, torchvision and, for a card that names a network of timm, timm.

    Raises `InputError`, naming the field, key or shape that does not fit, and for a network that only `build` can make.
    """
    folder = Path(folder)
    card = ModelCard.read(folder / CARD)
    if card.is_foreign and build is None:
        raise InputError(
            f"{folder} holds a {card.architecture['name']}, which is no network of this package: give "
            "load_safe(folder, build=) a function that makes it, or ask its model.onnx by Predictor"
        )
    try:
        content = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != card.sha256:
            raise InputError(f"{folder / WEIGHTS} is not the file that {CARD} names (SHA-256): save the model again")
        state = load(content)
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / WEIGHTS} cannot be read ({error}): save the model again") from error
    if build is not None:
        check("build", build, callable(build), "a function that makes the network")
        model = build()
        check("build()", type(model).__name__, isinstance(model, nn.Module), "a function that makes the network")
    else:
        try:
            with torch.device("meta"):  # nothing is allocated before the shapes are known to fit
                model = build_model(card.architecture)
        except (RuntimeError, TypeError) as error:  # sizes beyond what a tensor can have
            raise InputError(f"{folder / CARD}: the architecture does not fit: save the model again") from error
    _check_state(state, {k: o for k, o in model.state_dict().items() if _is_dense(o)}, folder / WEIGHTS)
    if any(o.is_meta and name not in state for name, o in model.named_buffers()):
        model = build_model(card.architecture)  # with tables that no file holds, as of positions
    model.load_state_dict(state, strict=build is None, assign=build is None)  # what `build` has tied together stays so
    return SafeModel(model.eval().requires_grad_(False).to(device), card)


def _is_dense(value) -> bool:
    "Whether safetensors can hold it: a module's own state may be anything."
    return isinstance(value, Tensor) and value.layout == torch.strided


def _check_state(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    for name in sorted(state.keys() | wanted.keys()):
        if name not in state or name not in wanted:
            raise InputError(f"{path} {'has' if name in state else 'lacks'} {name!r}, unlike the architecture")
        if (state[name].shape, state[name].dtype) != (wanted[name].shape, wanted[name].dtype):
            found, asked = ([*o.shape] + [str(o.dtype)] for o in (state[name], wanted[name]))
            raise InputError(f"{path}: {name!r} is {found} where the architecture has {asked}")
