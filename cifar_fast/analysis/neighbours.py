"""What lies near what in a network's last layer: a map of the images, and the training images that are like others."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch import Tensor

from cifar_fast.analysis.names import above, in_figure, in_legend, picture_grid

MOST_ON_MAP = 1500  # images: t-SNE takes seconds for so many
THUMBNAILS = 60
CHUNK = 1000
SEED = 0


def nearest(
    queries: Tensor,  # float (M, features)
    keys: Tensor,  # float (N, features)
    k: int = 1,  # all, where there are fewer
) -> tuple[Tensor, Tensor]:  # cosines float (M, k), the largest first, and int64 (M, k) indices into `keys`
    "The keys that are most like each query."
    keys = F.normalize(keys)
    found = [(F.normalize(o) @ keys.T).topk(min(k, len(keys))) for o in queries.split(CHUNK)]
    return torch.cat([o.values for o in found]), torch.cat([o.indices for o in found])


def plot_neighbours(
    rows: Sequence[tuple[np.ndarray, str]],  # images uint8 (H, W, 3), and what is written above each
    neighbours: Sequence[Sequence[tuple[np.ndarray, str]]],  # the same of each row's neighbours
    title: str = "",  # of the figure
) -> Figure:
    "An image a row, and beside it what is most like it."
    cols = 1 + max((len(o) for o in neighbours), default=0)
    n = max(len(rows), 1)
    fig, axes = picture_grid(n, cols, (1.5 * cols, 1.75 * n + 0.4))
    for line, first, others in zip(axes, rows, neighbours):
        for ax, (image, text) in zip(line, [first, *others]):
            ax.imshow(image, interpolation="nearest")
            ax.set_title(above(text, 1.5), fontsize=8)
    fig.suptitle(in_figure(title), fontsize="medium", wrap=True)
    return fig


def plot_grid(
    pictures: Sequence[tuple[np.ndarray, str]],  # images uint8 (H, W, 3), and what is written above each
    cols: int = 6,
) -> Figure:
    "Images side by side."
    lines = [pictures[i : i + cols] for i in range(0, len(pictures), cols)]
    return plot_neighbours([o[0] for o in lines], [o[1:] for o in lines])


def plot_map(
    features: Tensor,  # float (N, features)
    labels: Tensor,  # int64 (N,)
    vocab: Sequence[str],  # class names
    images: np.ndarray,  # uint8 (N, H, W, 3), for thumbnails
) -> Figure:
    "Where the images lie: by their two principal components, and by t-SNE; coloured by class, some as thumbnails."
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    some = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))[:MOST_ON_MAP]
    own, labels, images = F.normalize(features[some]).numpy(), labels[some].numpy(), images[some.numpy()]
    principal = PCA(min(30, *own.shape), random_state=SEED).fit_transform(own)
    tsne = TSNE(init="pca", perplexity=min(30, (len(own) - 1) / 3), random_state=SEED).fit_transform(principal)
    fig = Figure(figsize=(13, 6.5), layout="constrained")
    axes = fig.subplots(1, 2)
    for ax, points, name in zip(axes, (principal[:, :2], tsne), ("principal components", "t-SNE")):
        for i, label in enumerate(vocab):
            ax.scatter(*points[labels == i].T, s=8, label=in_legend(label), color=f"C{i % 10}", alpha=0.6)
        for j in range(min(THUMBNAILS, len(points))):
            box = OffsetImage(images[j], zoom=20 / images.shape[1])
            color = f"C{labels[j] % 10}"
            ax.add_artist(AnnotationBbox(box, points[j], pad=0.1, bboxprops={"edgecolor": color, "linewidth": 1.5}))
        ax.set(xticks=[], yticks=[], title=name)
    if len(vocab) <= 20:
        handles, labels = axes[0].get_legend_handles_labels()
        cols = min(10, 190 // (8 + max(map(len, labels))))  # as many as have room side by side
        fig.legend(handles, labels, loc="outside lower center", ncols=cols, fontsize="small")
    return fig
