"""torchvision's ResNets as fastai bodies with a new head, and the weights they start from."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from fastai.vision.learner import create_vision_model, default_split, model_meta
from safetensors.torch import load_file
from torch import Tensor

from cifar_fast.data.download import DownloadError, download
from cifar_fast.errors import InputError
from cifar_fast.models.networks import TransferModel, resnet_names
from cifar_fast.progress import say

# Under which checkpoints keep the network, beside other tensors; any other name is looked into too.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network")
_FIRST_LAYER = "conv1.weight"


def resnet_builder(arch: str):
    "torchvision's function that builds `arch`, fastai's key for its metadata. Raises `InputError`."
    if arch not in resnet_names():
        raise InputError(f"{arch!r} is no ResNet of torchvision: give one of {', '.join(resnet_names())}")
    return torchvision.models.get_model_builder(arch)


def resnet_model(
    arch: str = "resnet18",  # a torchvision ResNet
    n_out: int = 10,  # classes
    head: str = "linear",  # linear: one dense layer on the pooled features, the article's; fastai: its default head
    body_state: dict[str, Tensor] | None = None,  # from `load_body_state`; None: random weights
) -> TransferModel:
    "fastai's (body, head) Sequential for `arch`, the body's weights from `body_state`. Raises `InputError`."
    heads = {
        "linear": dict(concat_pool=False, lin_ftrs=[], ps=0.0, first_bn=False, init=None),
        "fastai": {},
    }
    if head not in heads:
        raise InputError(f"head is {head!r}: give linear or fastai")
    with warnings.catch_warnings():  # fastai asks torchvision in the old way for what is not in its `model_meta`
        warnings.simplefilter("ignore", UserWarning)
        model = TransferModel(*create_vision_model(resnet_builder(arch), n_out, pretrained=False, **heads[head]))
    model.architecture = {"name": arch, "n_out": n_out, "head": head}
    if body_state is not None:
        model[0].load_state_dict(body_state)
    return model


def resnet_stats(arch: str) -> tuple:
    "(mean, std) that the published weights of `arch` were trained with, from fastai's metadata."
    return model_meta.get(resnet_builder(arch), {}).get("stats") or model_meta[torchvision.models.resnet18]["stats"]


def body_split(arch: str) -> Callable:
    "fastai's layer groups for a ResNet: two of the body and the head."
    return model_meta.get(resnet_builder(arch), {}).get("split", default_split)


def load_weights(
    arch: str,  # a torchvision ResNet
    weights: str | Path = "auto",  # auto, imagenet, none, or the path of a .pth or .safetensors state dict
) -> tuple[dict[str, Tensor] | None, str]:  # the body's state dict, and the name of the weights
    """The body weights that `weights` names; `auto` falls back to random ones, with a banner, without a network.

    Names: `imagenet`, `none`, or the file's stem. Raises `InputError` for a missing or unfit file, `DownloadError`
    when `imagenet` cannot be had.
    """
    builder = resnet_builder(arch)
    if str(weights) == "none":
        return None, "none"
    if str(weights) not in ("auto", "imagenet"):
        return load_body_state(Path(weights), arch), Path(weights).stem
    try:
        return load_body_state(_imagenet_file(builder.__name__), arch), "imagenet"
    except DownloadError as error:
        if str(weights) == "imagenet":
            raise
        line = "=" * 78
        print(
            f"{line}\nImageNet weights are not here: {error}.\nThe body gets RANDOM weights. To use others, name "
            f"a file: --weights PATH, or weights= in Python.\n{line}",
            flush=True,
        )
        return None, "none"


def _imagenet_file(arch: str) -> Path:
    "torchvision's default weights of `arch`, in torch hub's cache; downloaded when they are not there."
    url = torchvision.models.get_model_weights(arch).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        say(f"Downloading {path.name} ...")
        download(url, path, f"sha256:{path.stem.rsplit('-', 1)[1]}")  # the file's name ends in its hash
    return path


def load_body_state(
    path: Path,  # a .pth, .pt or .safetensors file with torchvision's names of parameters
    arch: str,  # the ResNet it is for
) -> dict[str, Tensor]:  # float32 state dict under the names of fastai's body
    """The body's part of a state dict; half precision and a last layer of any width are accepted.

    A .pth is read with `weights_only=True`, so no code in it runs. Raises `InputError`, naming the key that is
    missing or of the wrong shape.
    """
    state = _read_state(path)
    with torch.device("meta"):
        reference = resnet_builder(arch)(weights=None)
    position = {name: i for i, (name, _) in enumerate(reference.named_children())}
    body = OrderedDict()
    for key, wanted in reference.state_dict().items():
        layer, _, rest = key.partition(".")
        if layer == "fc":
            continue
        if key not in state and rest.endswith("num_batches_tracked"):  # files older than torch 0.4.1 lack it
            body[f"{position[layer]}.{rest}"] = torch.zeros((), dtype=torch.int64)
            continue
        if key not in state:
            raise InputError(f"{path} has no {key!r}: it is not a state dict of torchvision's {arch}")
        if state[key].shape != wanted.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(wanted.shape)}"
            raise InputError(f"{path}: {key!r} has shape {shapes}: it is not a state dict of torchvision's {arch}")
        body[f"{position[layer]}.{rest}"] = state[key].to(wanted.dtype)
    return body


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} does not exist: give --weights the path of a .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file raises nearly anything
        first = (str(error).strip() or "nothing in it").splitlines()[0]
        raise InputError(f"{path} cannot be read as weights ({first}): give a file of tensors alone") from error
    tensors = _tensors_in(state)
    if not tensors:
        raise InputError(f"{path} holds no state dict: give a file of named tensors")
    return _without_prefix(tensors)


def _tensors_in(state) -> dict[str, Tensor]:
    "The named tensors of a state dict, or of the one inside a checkpoint, beside epochs, optimizers and the like."
    if not isinstance(state, dict):
        return {}
    tensors = {k: o for k, o in state.items() if isinstance(k, str) and isinstance(o, Tensor)}
    names = [o for o in _WRAPPERS if o in state] + [o for o in state if o not in _WRAPPERS]
    inside = (_tensors_in(state[o]) for o in names if isinstance(state[o], dict))
    return max((tensors, *inside), key=_promise)  # the first of equals


def _promise(state: dict[str, Tensor]) -> tuple[bool, bool]:
    return any(o.endswith(_FIRST_LAYER) for o in state), bool(state)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    "Names as torchvision has them, where a wrapper (DataParallel, torch.compile, Lightning) has put its own before."
    prefixes = [o.removesuffix(_FIRST_LAYER) for o in state if o.endswith(_FIRST_LAYER)]
    prefix = min((o for o in prefixes if not re.search(r"layer\d", o)), key=len, default="")
    return {k.removeprefix(prefix): o for k, o in state.items() if k.startswith(prefix)}
