"""A saved model on files, bytes, pictures and arrays. Imports no fastai, and for an ONNX file no torch either."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_fast.data.image import decode_image
from cifar_fast.data.image_files import walk_images
from cifar_fast.deploy.modelcard import ModelCard
from cifar_fast.errors import ImageError, InputError, MissingExtra
from cifar_fast.files import SEED_FOLDER, numbered_folders


class Prediction(NamedTuple):
    "What the model says of one image."

    label: str  # the likeliest class
    probabilities: dict[str, float]  # of every class, in [0, 1]

    @property
    def probability(self) -> float:
        "Of the likeliest class."
        return self.probabilities[self.label]


class Predictor:
    """A saved model, ready to be asked, by several threads at once too.

    `Predictor("model")("cat.jpg").label`. Raises `InputError` for a model that cannot be used, `MissingExtra` for an
    ONNX file without onnxruntime, and for each unusable image `ImageError`.
    """

    def __init__(
        self,
        model: str | Path,  # a folder that `export_safe` has written, a run of --seeds, or a file of `to_onnx`
        device: str = "cpu",  # for a folder, a torch device
        bs: int = 256,  # images a batch
        calibrated: bool = False,  # as sure as the temperature says that `evaluate --held-out` has found
    ):
        path = Path(model)
        self.bs = bs
        self.model = None  # the torch network, of a folder's model
        if seeds := numbered_folders(path, SEED_FOLDER):
            members = [Predictor(o / "model", device, bs, calibrated) for o in seeds]
            self.card, self._logits = _together(path, members)
            return
        if path.suffix == ".onnx":
            self.card, self._logits = _open_onnx(path)
        else:
            self.card, self._logits, self.model = _open_folder(path, device)
        if calibrated:
            logits, temperature = self._logits, self.card.temperature(path)
            self._logits = lambda images: logits(images) / temperature

    def __call__(
        self,
        x,  # a path, bytes, a PIL image, an array (H, W), (H, W, 3), (H, W, 4) or (N, H, W, 3), or a list of those
    ) -> Prediction | list[Prediction]:  # a list for a list and for (N, H, W, 3)
        "Predict. Raises `ImageError`, naming the file, and predicts nothing then."
        several = isinstance(x, (list, tuple)) or (isinstance(x, np.ndarray) and x.ndim == 4)
        results = []
        for result in self.stream(x if several else [x]):
            if isinstance(result, ImageError):
                raise result
            results.append(result)
        return results if several else results[0]

    def stream(
        self,
        items: Iterable,  # of what the Predictor takes one by one
    ) -> Iterator[Prediction | ImageError]:
        "A result an item, in order, and in place of the result an unusable image's error; a batch in memory at a time."
        items = iter(items)
        while chunk := list(islice(items, self.bs)):
            decoded = [self._decode(o) for o in chunk]
            usable = [o for o in decoded if not isinstance(o, ImageError)]
            found = iter(self._predict(np.stack(usable)) if usable else ())
            yield from (o if isinstance(o, ImageError) else next(found) for o in decoded)

    def logits(
        self,
        images: np.ndarray,  # uint8 (N, H, W, 3), in memory or mapped from a file; other sizes are resized
    ) -> np.ndarray:  # float32 (N, classes)
        "What the network says of many images, a batch in memory at a time."
        size, found = self.card.stored_size, [np.zeros((0, len(self.card.vocab)), np.float32)]
        for start in range(0, len(images), self.bs):
            batch = np.asarray(images[start : start + self.bs])
            if batch.shape[1:] != (size, size, 3):
                batch = np.stack([decode_image(o, size) for o in batch])
            found.append(self._logits(np.require(batch, requirements=["C", "W"])))
        return np.concatenate(found)

    def inputs(
        self,
        images: np.ndarray,  # uint8 (N, H, W, 3)
    ):
        "What the torch network, `model`, is given of them: a float Tensor (N, 3, size, size), on its device."
        import torch

        from cifar_fast.deploy.safemodel import normalise

        pixels = np.stack([decode_image(o, self.card.stored_size) for o in images])
        return normalise(torch.from_numpy(pixels).to(next(self.model.parameters()).device), self.card)

    def _decode(self, item) -> np.ndarray | ImageError:
        try:
            return decode_image(item, self.card.stored_size, self.card.levels)
        except ImageError as error:
            return error

    def _predict(self, images: np.ndarray) -> list[Prediction]:
        probs, vocab = _softmax(self._logits(images)), self.card.vocab
        return [Prediction(vocab[i], dict(zip(vocab, o))) for i, o in zip(probs.argmax(1), probs.tolist())]


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    exps = np.exp(logits - logits.max(1, keepdims=True))
    return exps / exps.sum(1, keepdims=True)


def _together(path: Path, members: list[Predictor]) -> tuple[ModelCard, Callable]:
    "The mean of the members' probabilities, as logits; the card has no member's own measurements."
    first = members[0].card
    if any((o.card.vocab, o.card.stored_size) != (first.vocab, first.stored_size) for o in members):
        raise InputError(f"the models in {path} know different classes or sizes: they make no ensemble")

    def logits(images: np.ndarray) -> np.ndarray:
        probs = np.mean([_softmax(o._logits(images)) for o in members], axis=0)
        return np.log(probs.clip(1e-30)).astype(np.float32)

    return replace(first, metrics={}), logits


def _open_folder(path: Path, device: str):
    card = ModelCard.read(path / "model.json")
    if card.is_foreign:
        if device != "cpu":
            raise InputError(f"{path} is run by its ONNX graph, on the CPU: leave the device {device!r} out")
        return card, _open_foreign(path, card), None
    import torch

    from cifar_fast.deploy.safemodel import load_safe
    from cifar_fast.device import parse_device

    device = parse_device(device)
    loaded = load_safe(path, device)

    def logits(images: np.ndarray) -> np.ndarray:
        return loaded.logits(torch.from_numpy(images).to(device)).float().cpu().numpy()

    return loaded.card, logits, loaded.model


def _open_foreign(path: Path, card: ModelCard):
    "What a network of somebody's own says, by its ONNX graph."
    graph = path / "model.onnx"
    if not card.onnx_sha256 or not graph.is_file():
        raise InputError(
            f"{path} holds a {card.architecture['name']} without {graph.name}: load it by its own code, with "
            "load_safe(folder, build=)"
        )
    if hashlib.sha256(graph.read_bytes()).hexdigest() != card.onnx_sha256:
        raise InputError(f"{graph} is not the file that model.json names (SHA-256): save the model again")
    return _open_onnx(graph)[1]


def _open_onnx(path: Path):
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnx", "an ONNX model") from error
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of to_onnx or a folder of export_safe")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map.get("cifar_fast")
    except Exception as error:  # onnxruntime's errors have no common class
        raise InputError(f"{path} cannot be read as ONNX: export the model again") from error
    if about is None:
        raise InputError(f"{path} was not written by to_onnx: its metadata has no card")
    return ModelCard.parse(about, path), lambda images: session.run(["logits"], {"images": images})[0]


def find_images(
    paths: list[str | Path],  # files, and folders to look through
) -> list[str]:
    """Files as they are, and every image in and below folders, by name, as training finds them: litter is passed over.

    Raises `InputError` where there are none.
    """
    found = []
    for path in paths:
        if str(path).startswith(("http://", "https://")):
            raise InputError(f"{path} is an address, and nothing is downloaded: save the picture and give its file")
        path = Path(path)
        if path.is_dir():
            found += walk_images(path)
        elif path.exists():
            found.append(str(path))
        else:
            raise InputError(f"{path} does not exist: give image files or folders")
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: no images there: give image files or folders of them")
    return found
