"""The article's figures 5 and 6: the famous networks, by torchvision's published entries; no network is needed."""

from dataclasses import dataclass
from functools import cache

import torch
import torchvision
from matplotlib.figure import Figure
from torch import fx, nn

from cifar_fast.analysis.names import in_figure

# Winners of ImageNet's yearly contest among torchvision's networks. Source: image-net.org/challenges/LSVRC.
WINNERS = {2012: "alexnet", 2014: "googlenet", 2015: "resnet152"}
# Named in the figure: one or two of a family.
_NAMED = (
    *("alexnet", "squeezenet1_1", "vgg16_bn", "googlenet", "inception_v3", "resnet18", "resnet50", "resnet152"),
    *("densenet121", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0"),
    *("efficientnet_v2_l", "regnet_y_16gf", "convnext_tiny", "convnext_large", "swin_t", "vit_b_16", "maxvit_t"),
)


@dataclass(frozen=True)
class Published:
    "A network of torchvision with its best published weights."

    name: str
    entry: str  # of its weights
    top1: float  # share of ImageNet's 50,000 validation images that are right
    top5: float  # share whose class is among the five most probable
    gmacs: float  # billions of multiply-accumulates an image; torchvision calls them GFLOPS
    params: int

    @classmethod
    def of(cls, name: str) -> "Published":
        "From torchvision's own entry."
        entry = torchvision.models.get_model_weights(name).DEFAULT
        found = entry.meta["_metrics"]["ImageNet-1K"]
        shares = (found[f"acc@{o}"] / 100 for o in (1, 5))
        return cls(name, entry.name, *shares, entry.meta["_ops"], entry.meta["num_params"])


@cache
def published() -> list[Published]:
    "Every classification network of torchvision, the least operations first."
    return sorted(map(Published.of, torchvision.models.list_models(torchvision.models)), key=lambda o: o.gmacs)


def depth(
    name: str,  # a network of torchvision
) -> int:  # convolutions and dense layers on the longest way through it
    "How deep a network is, as its authors count: AlexNet has 8, GoogLeNet 22."
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        graph = fx.symbolic_trace(torchvision.models.get_model(name, weights=None, **options))
    layers, longest = dict(graph.named_modules()), {}
    for node in graph.graph.nodes:
        counts = node.op == "call_module" and isinstance(layers[node.target], (nn.Conv2d, nn.Linear))
        longest[node] = max((longest[o] for o in node.all_input_nodes), default=0) + counts
    return max(longest.values())


def plot_published(
    trained: dict[str, dict],  # metrics.json of runs, by the name to show: drawn among them
) -> Figure:
    """Accuracy against operations, areas by parameters; and the depth of each year's winner with its error.

    Runs stand in the first at the accuracy on their own images, which are not ImageNet's.
    """
    fig = Figure(figsize=(14, 6), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(2.4, 1))
    _plot_costs(left, trained)
    _plot_winners(right)
    return fig


def _plot_costs(ax, trained: dict[str, dict]) -> None:
    for o in published():
        ax.scatter(o.gmacs, o.top1, s=_area(o.params), color="C0", alpha=0.35, linewidths=0)
        if o.name in _NAMED:
            crowded = o.name == "googlenet"  # by resnet18
            side = {"xytext": (-3, 3), "ha": "right"} if crowded else {"xytext": (3, 3)}
            ax.annotate(o.name, (o.gmacs, o.top1), fontsize=8, textcoords="offset points", **side)
    for i, (name, o) in enumerate(trained.items(), 1):
        if o.get("macs"):
            place = (o["macs"] / 1e9, o["accuracy"])
            ax.scatter(*place, s=_area(o["params"]), color=f"C{i}", marker="s", alpha=0.8)
            text = f"{name}, on {o['data']}"
            ax.annotate(in_figure(text), place, fontsize=8, xytext=(5, -9), textcoords="offset points", color=f"C{i}")
    ax.set_xscale("log")
    ax.margins(0.08)
    ax.set_xlabel("billion multiply-accumulates an image")
    ax.set_ylabel("accuracy" if trained else "ImageNet top-1 accuracy")
    squares = "; squares: trained here, on their own images" if trained else ""
    ax.set_title(f"torchvision's networks on ImageNet, areas by parameters{squares}", fontsize="medium")
    ax.grid(alpha=0.3)


def _area(params: int) -> float:
    return 12 + params / 2e5


def _plot_winners(ax) -> None:
    depths, entries = {o: depth(o) for o in WINNERS.values()}, {o.name: o for o in published()}
    ax.bar(list(map(str, WINNERS)), list(depths.values()), color="C1", alpha=0.7)
    for i, (name, n) in enumerate(depths.items()):
        error = 1 - entries[name].top5
        ax.annotate(f"{name}\n{n} layers\n{error:.1%} top-5 error", (i, n), fontsize=8, ha="center",
                    xytext=(0, 4), textcoords="offset points")  # fmt: skip
    ax.margins(y=0.2)
    ax.set_ylabel("layers with weights")
    ax.set_title("depth of the year's winner", fontsize="medium")
