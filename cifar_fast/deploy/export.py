"""Models out: `Learner.export_safe` and `Learner.to_onnx`, beside fastai's own `export`."""

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastcore.basics import patch
from torch import Tensor, nn

from cifar_fast.data.augment import BatchResize
from cifar_fast.data.loaders import TensorDL
from cifar_fast.deploy.modelcard import FOREIGN, ModelCard
from cifar_fast.deploy.safemodel import GRAPH, is_built_by_name, normalise, save_safe
from cifar_fast.errors import InputError, MissingExtra, first_line, own_place
from cifar_fast.files import write_atomically
from cifar_fast.progress import say
from cifar_fast.training.adapt import arch_and_weights
from cifar_fast.versions import versions

MOST_DIFFERENCE = 1e-4  # of the ONNX graph's logits from torch's


def model_card(
    learn: Learner,  # of this package's learners
    metrics: dict | None = None,  # what was measured
) -> ModelCard:
    "What `learn.model` is and how it is fed. Raises `InputError` for data that this package did not make."
    dl = learn.dls.valid
    if not isinstance(dl, TensorDL):
        raise InputError("only models on DataLoaders of this package can be saved so: use learn.export")
    architecture = getattr(learn.model, "architecture", None)
    known = architecture is not None and is_built_by_name(learn.model, architecture)
    tfms = list(dl.after_batch.fs)
    norm = next((o for o in tfms if isinstance(o, Normalize)), None)
    mean, std = ([0.0] * 3, [1.0] * 3) if norm is None else (o.flatten().tolist() for o in (norm.mean, norm.std))
    stored, levels = dl.dataset.x.shape[-1], getattr(dl.dataset, "levels", None)
    card = ModelCard(
        architecture=architecture or {},
        vocab=list(learn.dls.vocab),
        stored_size=stored,
        size=next((o.size for o in tfms if isinstance(o, BatchResize)), stored),
        mean=mean,
        std=std,
        metrics=metrics or {},
        data=dl.dataset.name,
        weights=arch_and_weights(learn)[1] or "none",
        versions=versions(),
        sha256="",
        levels=list(levels) if levels else None,
    )
    if known:
        with suppress(InputError):  # of an architecture that no card can hold
            ModelCard.parse(card.to_json())
            return card
    foreign = {"name": type(learn.model).__name__, "n_out": len(card.vocab)}
    return replace(card, architecture=foreign, format=FOREIGN)


@patch
def export_safe(
    self: Learner,
    folder: str | Path,  # to write; a relative one lies in `learn.path`, as with `export`
    metrics: dict | None = None,  # what was measured, to keep with the model
) -> Path:  # the folder
    """Save the model as model.safetensors and model.json, which `load_safe` and `Predictor` read without running code.

    A network that this package cannot build by name gets model.onnx beside them, which `Predictor` takes; where ONNX
    cannot hold it, a line says so. Raises `InputError` for other DataLoaders than this package's.
    """
    card, folder = model_card(self, metrics), self.path / folder
    folder.mkdir(parents=True, exist_ok=True)
    if card.is_foreign:
        try:
            self.to_onnx((folder / GRAPH).absolute(), metrics)
            card = replace(card, onnx_sha256=hashlib.sha256((folder / GRAPH).read_bytes()).hexdigest())
        except Exception as error:  # torch's exporter raises of every kind, and a finished training is to be kept
            # torch's own words around a cause are advice to whoever calls its exporter
            cause = error if isinstance(error, MissingExtra) else error.__cause__ or error
            place = f", in {found}" if (found := own_place(cause)) else ""
            say(f"model/{GRAPH} is left out ({type(cause).__name__}: {first_line(cause)[:200]}{place}): "
                "load_safe(folder, build=) reads the rest.")  # fmt: skip
    save_safe(self.model, card, folder)
    if not card.onnx_sha256:
        (folder / GRAPH).unlink(missing_ok=True)  # of another model
    return folder


class _Graph(nn.Module):
    "From uint8 images to logits, normalisation and resizing inside."

    def __init__(self, model: nn.Module, card: ModelCard):
        super().__init__()
        self.model, self.card = model, card

    def forward(self, images: Tensor) -> Tensor:
        return self.model(normalise(images, self.card))


@patch
def to_onnx(
    self: Learner,
    path: str | Path,  # of the .onnx file; a relative one lies in `learn.path`
    metrics: dict | None = None,  # what was measured, to keep with the model
) -> float:  # the largest difference of the logits from torch's
    """Export a graph that takes any number of uint8 images (N, stored_size, stored_size, 3) and gives logits.

    The card, with the vocab, stands in the file's metadata. The file is written only after onnxruntime has given the
    logits of torch for random images, to 1e-4; else RuntimeError. Raises `MissingExtra` without the extra `onnx`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - which torch asks for later, less clearly
    except ImportError as error:
        raise MissingExtra("onnx", "to_onnx") from error
    card, device = model_card(self, metrics), next(self.model.parameters()).device
    self.model.eval()
    graph = _Graph(self.model, card).to("cpu", memory_format=torch.contiguous_format)
    side = card.stored_size
    images = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), _silently():
            wanted = graph(images).numpy()
            program = torch.onnx.export(
                graph, (images,), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False,
                dynamic_shapes={"images": {0: torch.export.Dim("n")}},
            )  # fmt: skip
    finally:
        self.model.to(device)
    program.model.metadata_props["cifar_fast"] = card.to_json()
    content = program.model_proto.SerializeToString()  # `save` puts the weights of large networks beside its file
    difference = _difference(onnxruntime.InferenceSession(content), images.numpy(), wanted)
    if not difference <= MOST_DIFFERENCE:
        raise RuntimeError(f"the graph's logits differ by {difference:.1e} from torch's: nothing is written")
    write_atomically((self.path / path).absolute(), lambda tmp: tmp.write_bytes(content))
    return difference


@contextmanager
def _silently() -> Iterator[None]:
    "Without torch's words on its own deprecations, and the pages that it prints of a network that it cannot export."
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


def _difference(session, images: np.ndarray, wanted: np.ndarray) -> float:
    "The largest difference of the graph's logits from `wanted`, for all images at once and for one alone."
    found = [session.run(None, {"images": o})[0] for o in (images, images[:1])]
    return max(float(np.abs(o - wanted[: len(o)]).max()) for o in found)
