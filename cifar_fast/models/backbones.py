"""Networks of torchvision, of timm and of the caller as fastai bodies: how each is built, cut, fed, and its weights.

Nothing here needs fastai, but for its layer groups.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.densenet import DenseNet
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from cifar_fast.data.download import DownloadError, download
from cifar_fast.errors import InputError, MissingExtra, first_line
from cifar_fast.models.weights import Weights
from cifar_fast.progress import say

TIMM = "timm/"  # before a name of timm
# Names in torchvision's published files: norm.1, where the network of today has norm1.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12])()")
_ENDS = ("avgpool", "classifier", "fc", "head", "heads")  # children with which torchvision's networks end
_WITH_AUXILIARY = {"googlenet", "inception_v3"}  # which have further outputs, and normalise their images once more


class Backbone:
    "A network that the caller's function makes: all but its last layer is the body."

    is_named = False  # whether it can be made anew by its name
    takes_size = False  # whether it is made for images of one size

    def __init__(self, function: Callable[[], nn.Module], name: str):
        self.name, self.function = name, function

    def build(self, size: int | None = None) -> nn.Module:
        "The network with random weights, an Identity in place of its last layer; for `size` pixels where it matters."
        network = self.function()
        if not isinstance(network, nn.Module):
            raise InputError(f"{self.name}() gives a {type(network).__name__}: it should give a network")
        return _without_last_layer(network, self.name)

    def body(
        self,
        network: nn.Module,  # of `build`
        head: str,  # linear: with the family's own layers before its last one; fastai: cut as fastai cuts it
        size: int,  # pixels of a side of images that it takes
    ) -> nn.Sequential:
        "What stands before the head: gives maps (N, F, h, w) or features (N, F)."
        from fastai.vision.learner import create_body, has_pool_type

        if head == "fastai" and has_pool_type(network) and _is_chain(network, size):
            return create_body(network) or nn.Sequential(network)  # where it pools first of all, nothing would be left
        return nn.Sequential(network)

    def fitted(self, weights: Weights, network: nn.Module, size: int | None) -> dict:
        "The state dict of `weights` as a network made for `size` pixels takes it."
        return weights.state

    def stats(self, entry: str | None = None) -> tuple | None:
        "(mean, std) of a channel, by which the images of its weights were normalised; None: not known."
        return None

    def published(self, entry: str | None = None) -> Weights:
        "Its published weights. Raises `DownloadError` where they cannot be had, `InputError` for an unknown entry."
        raise DownloadError(f"nobody has published weights of {self.name}")

    def entries(self) -> list[str]:
        "Names of its published weights."
        return []

    def split(self) -> Callable:
        "fastai's layer groups of the model: the body and the head."
        from fastai.vision.learner import default_split

        return default_split


class Torchvision(Backbone):
    "A classification network of torchvision, cut as fastai cuts it."

    is_named = True

    def __init__(self, name: str):
        super().__init__(torchvision.models.get_model_builder(name), name)
        self.size_option = {"vit": "image_size", "maxvit": "input_size"}.get(name.split("_")[0])
        self.takes_size = self.size_option is not None

    def build(self, size: int | None = None) -> nn.Module:
        "As of `Backbone`."
        options = {"aux_logits": False, "init_weights": True} if self.name in _WITH_AUXILIARY else {}
        if self.takes_size and size is not None:
            options[self.size_option] = size if self.size_option == "image_size" else (size, size)
        try:
            network = self.function(weights=None, **options)
        except NotImplementedError:  # RegNet computes its widths by tensors, which the meta device cannot
            with torch.device("cpu"), _parameters_on_meta():
                network = self.function(weights=None, **options)
            network = network.to("meta")  # its buffers
        return _without_last_layer(network, self.name)

    def body(self, network: nn.Module, head: str, size: int) -> nn.Sequential:
        "As of `Backbone`."
        if isinstance(network, VisionTransformer):
            return nn.Sequential(network)  # its class token goes through no chain of children
        layers = [o for _, o in takewhile(lambda o: o[0] not in _ENDS, network.named_children())]
        layers = [o for layer in layers for o in (layer if isinstance(layer, nn.ModuleList) else [layer])]
        return nn.Sequential(*layers, *_own_layers(network) * (head == "linear"))

    def fitted(self, weights: Weights, network: nn.Module, size: int | None) -> dict:
        "As of `Backbone`; a ViT's position embeddings are interpolated."
        if isinstance(network, DenseNet):
            state = OrderedDict((_OLD_DENSENET.sub(r"\1\2", k), o) for k, o in weights.state.items())
            state._metadata = getattr(weights.state, "_metadata", {})
            return state
        name = "encoder.pos_embedding"
        if name not in weights.state or size is None or not isinstance(network, VisionTransformer):
            return weights.state
        return interpolate_embeddings(size, network.patch_size, weights.state.copy())

    def stats(self, entry: str | None = None) -> tuple:
        "As of `Backbone`, from torchvision's entry, by default the best."
        if self.name in _WITH_AUXILIARY:
            return [0.5] * 3, [0.5] * 3  # to which their own first step, which the body lacks, brings images
        transforms = self._entry(entry).transforms()
        return list(transforms.mean), list(transforms.std)

    def split(self) -> Callable:
        "As of `Backbone`; the body's first and last layers apart where fastai knows them."
        from fastai.vision.learner import model_meta

        return model_meta.get(self.function, {}).get("split") or super().split()

    def published(self, entry: str | None = None) -> Weights:
        "As of `Backbone`: from torch hub's cache, or downloaded into it."
        url = self._entry(entry).url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
        if not path.exists():
            say(f"Downloading {path.name} ...")
            download(url, path, f"sha256:{path.stem.rsplit('-', 1)[1]}")  # the file's name ends in its hash
        return Weights(entry or "imagenet", torch.load(path, map_location="cpu", weights_only=True), path)

    def entries(self) -> list[str]:
        "As of `Backbone`."
        return list(torchvision.models.get_model_weights(self.name).__members__)

    def _entry(self, entry: str | None):
        return torchvision.models.get_model_weights(self.name)[entry or "DEFAULT"]


class Timm(Backbone):
    "A network of timm without its last layer, pooled as its family pools."

    is_named = True

    def __init__(self, name: str):
        try:
            import timm
        except ImportError as error:
            raise MissingExtra("timm", f"arch={TIMM}{name}") from error
        if not timm.is_model(name.split(".")[0]) or ("." in name and name not in timm.list_pretrained()):
            near = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5])
            raise InputError(f"{name!r} is no network of timm{f': it has {near}' if near else ''}")
        super().__init__(partial(timm.create_model, name, num_classes=0), TIMM + name)
        self._about = timm.get_pretrained_cfg(name)
        self.takes_size = bool(self._about.fixed_input_size)

    def build(self, size: int | None = None, **options) -> nn.Module:
        "As of `Backbone`; `options` are of timm's `create_model`."
        if self.takes_size and size is not None:
            options["img_size"] = size
        return self.function(**options)

    def body(self, network: nn.Module, head: str, size: int) -> nn.Sequential:
        "As of `Backbone`: with its own pooling, whatever the head."
        return nn.Sequential(network)

    def fitted(self, weights: Weights, network: nn.Module, size: int | None) -> dict:
        "As of `Backbone`, by timm's own conversion of position embeddings."
        if not self.takes_size:
            return weights.state
        try:
            given = self.build(size, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(weights.state)})
        except (RuntimeError, KeyError) as error:
            said = f"{weights.source} does not fit {self.name} ({first_line(error)}): give a state dict of it"
            raise InputError(said) from error
        lacks = sorted(network.state_dict().keys() - weights.state.keys())
        return {k: o for k, o in given.state_dict().items() if k not in lacks}

    def stats(self, entry: str | None = None) -> tuple:
        "As of `Backbone`, from timm's configuration."
        return list(self._about.mean), list(self._about.std)

    def published(self, entry: str | None = None) -> Weights:
        "As of `Backbone`: as timm gets them, from the Hugging Face hub."
        try:
            state = self.build(pretrained=True).state_dict()
        except Exception as error:  # of whichever library fetches them
            raise DownloadError(f"the weights of {self.name} cannot be had ({first_line(error)})") from error
        return Weights("imagenet", state, self.name)


def backbone(
    arch: str | Callable,  # a network of torchvision by name or function, timm/NAME, or a function that makes one
) -> Backbone:
    "How the network `arch` is built and fed. Raises `InputError` for an unknown name, `MissingExtra` without timm."
    names = torchvision.models.list_models(torchvision.models)
    if callable(arch):
        module, name = getattr(arch, "__module__", ""), getattr(arch, "__name__", type(arch).__name__)
        if module.startswith("torchvision.models") and name in names:
            return Torchvision(name)
        return Timm(name) if module.startswith("timm.models") else Backbone(arch, name)
    if arch.startswith(TIMM):
        return Timm(arch.removeprefix(TIMM))
    if arch not in names:
        families = "resnet18, vgg16_bn, efficientnet_b0, convnext_tiny, vit_b_16"
        raise InputError(f"{arch!r} is no network of torchvision ({families} ...): name one, or timm/NAME")
    return Torchvision(arch)


@torch.no_grad()
def _is_chain(network: nn.Module, size: int) -> bool:
    "Whether a network does no more than its children one after another: a cut would leave out what its code does else."
    xb = torch.linspace(-1, 1, 3 * size**2).view(1, 3, size, size)
    network.eval()
    try:
        found, chained = network(xb.clone()), nn.Sequential(*network.children())(xb.clone())
        return torch.allclose(found.flatten(1), chained.flatten(1))
    except Exception:  # each network has its own way to say that its children do not fit together
        return False
    finally:
        network.train()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    "Networks that are made within it take no memory for their parameters, on whatever device they are made."

    def moved(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        return None if parameter is None else nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(moved)
    try:
        yield
    finally:
        hook.remove()


def _own_layers(network: nn.Module) -> list[nn.Module]:
    "What a family puts between its last maps and its last layer, where fastai's cut leaves it out."
    if isinstance(network, DenseNet):
        return [nn.ReLU()]  # which it calls as a function
    norms = [o for o in getattr(network, "classifier", nn.Sequential()).children() if isinstance(o, nn.LayerNorm)]
    if not norms:
        return []
    pooled = [nn.AdaptiveAvgPool2d(1), norms[0], nn.Flatten()]
    return pooled if isinstance(norms[0], LayerNorm2d) else [pooled[0], pooled[2], pooled[1]]


def _without_last_layer(network: nn.Module, name: str) -> nn.Module:
    layers = [k for k, o in network.named_modules() if isinstance(o, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise InputError(f"{name} has no dense layer to replace: give a network that ends in one")
    parent, _, last = layers[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return network
