"""Files of weights: a state dict found in them, whatever is wrapped around it; nothing in a file is ever run."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cifar_fast.errors import InputError, first_line
from cifar_fast.progress import say


@dataclass(frozen=True)
class Weights:
    "What a body starts from. `state` has the whole network's names of parameters; None stands for random weights."

    name: str  # imagenet, an entry of torchvision, a file's stem, or none
    state: dict[str, Tensor] | None = None
    source: str | Path = ""  # where they came from, for messages
    stats: tuple | None = None  # (mean, std) of a channel, by which their images were normalised


RANDOM = Weights("none")


def read_state(
    path: Path,  # a .pth, .pt or .safetensors file
    wanted: set[str],  # names of the parameters that are looked for
) -> dict[str, Tensor]:
    """The state dict in a file, also of one inside a checkpoint, or under prefixes of wrappers (`module.`, `model.`).

    Of several the one that has most of what is wanted. A .pth is read with `weights_only=True`. Raises `InputError`.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give --weights the path of a .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        found = [_without_prefix(o, wanted) for o in _state_dicts(content)]
    except Exception as error:  # a damaged or hostile file raises nearly anything
        said = f"{path} cannot be read as weights ({first_line(error)}): give a file of tensors alone"
        raise InputError(said) from error
    if not found:
        raise InputError(f"{path} holds no state dict: give a file of named tensors")
    return max(found, key=lambda o: len(wanted & o.keys()))  # the first of equals


def _state_dicts(content) -> list[dict[str, Tensor]]:
    "Every dict of named tensors in a checkpoint, outer ones first."
    if not isinstance(content, dict):
        return []
    tensors = OrderedDict((k, o) for k, o in content.items() if isinstance(k, str) and isinstance(o, Tensor))
    tensors._metadata = getattr(content, "_metadata", {})  # by which modules know the version of their state
    return [tensors] * bool(tensors) + [o for inner in content.values() for o in _state_dicts(inner)]


def _without_prefix(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    "Names as the network has them, where DataParallel, torch.compile or Lightning have put their own before."
    parts = {k.split(".", i)[-1]: None for k in state for i in range(k.count(".") + 1)}
    first = next((o for o in parts if o in wanted), "")
    prefixes = {""} | {k.removesuffix(first) for k in state if k.endswith(f".{first}")}
    prefix = max(sorted(prefixes), key=lambda o: sum(o + k in state for k in wanted))
    res = OrderedDict((k.removeprefix(prefix), o) for k, o in state.items() if k.startswith(prefix))
    res._metadata = {k.removeprefix(prefix.rstrip(".")).lstrip("."): o for k, o in state._metadata.items()}
    return res


def load_into(
    body: nn.Module,  # part of `network`
    network: nn.Module,  # whole, but for its last layer
    weights: Weights,
    arch: str,  # the network's name, for messages
) -> None:
    """Give a network its weights; a last layer of any width and half precision are accepted.

    Raises `InputError`, naming what the body lacks and what is of another shape.
    """
    own, state = network.state_dict(keep_vars=True), weights.state
    parts = {id(o) for o in (*body.parameters(), *body.buffers())}
    for key, o in own.items():
        if id(o) not in parts or (key not in state and key.endswith("num_batches_tracked")):
            continue  # files older than torch 0.4.1 lack the latter
        if key not in state:
            raise InputError(f"{weights.source} has no {key!r}: it is not a state dict of {arch}")
        if state[key].shape != o.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(o.shape)}"
            raise InputError(f"{weights.source}: {key!r} has shape {shapes}: it is not a state dict of {arch}")
    used = OrderedDict((k, o) for k, o in state.items() if k in own and o.shape == own[k].shape)
    used._metadata = getattr(state, "_metadata", None) or network.state_dict()._metadata
    network.load_state_dict(used, strict=False)
    replaced = {name for name, o in network.named_modules() if isinstance(o, nn.Identity)}
    if foreign := sorted({k.rpartition(".")[0] for k in state.keys() - own.keys()} - replaced):
        say(f"Left out of {weights.source}: {', '.join(foreign[:5])}{' ...' * (len(foreign) > 5)}")
