"""A finished run that is asked for more than its test accuracy."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.sources import STORED_SIZE
from cifar_fast.deploy.predictor import Predictor
from cifar_fast.device import parse_device
from cifar_fast.errors import InputError
from cifar_fast.files import tensor_hash
from cifar_fast.runs.one_seed import images_from_options
from cifar_fast.runs.results import Runs

BS = 500  # images a batch: they fill two cores


class Subject(Predictor):
    "A finished run that is asked: its saved model, and the images that it was trained and tested on."

    def __init__(
        self,
        folder: str | Path,  # of a finished run, or of several seeds, the first of which is asked
        data: str | None = None,  # where its images are; None: where they were
        device: str = "cpu",  # auto, cpu, cuda or another torch device
    ):
        self.runs = Runs.read(folder)
        self.run, self.data, self.device = self.runs.first, data, parse_device(device)
        super().__init__(self.run.folder / "model", str(self.device), BS)
        if list(self.card.vocab) != list(self.vocab):
            raise InputError(f"{self.run.folder / 'model'} knows other classes than the run: it is not its model")

    @property
    def vocab(self) -> Sequence[str]:
        "Class names."
        return self.run.predictions.vocab

    @cached_property
    def images(self) -> ImageSet:
        "Training and test images of the run. Raises `InputError` where they are not there, or are others."
        asked = self.run.config.get("asked") or {}
        data = self.data or asked.get("data")
        if data is None:
            raise InputError(f"{self.run.folder} does not say where its images are: name them with --data")
        usual = dict(size=STORED_SIZE, images=0, test_images=0, drop_labels=None, labels=None, skip_bad=False)
        options = {name: asked.get(name) or o for name, o in usual.items()}
        for name in ("labels", "drop_labels") if self.data and asked.get("data") else ():
            options[name] = moved(options[name], asked["data"], self.data)
        images = images_from_options(SimpleNamespace(data=data, **options))
        if tensor_hash(images.test_x) != self.run.test_images:
            raise InputError(f"{data} holds other test images than {self.run.folder} was tested on: give --data")
        return images

    @property
    def files(self) -> tuple[list[str] | None, list[str] | None]:
        "Of training and test images, below the folder that they are from; None where they are from none."
        return self.images.files or (None, None)

    @property
    def test_images(self) -> np.ndarray:
        "uint8 (N, H, W, 3)."
        return self.images.test_x.permute(0, 2, 3, 1).numpy()

    @property
    def train_images(self) -> np.ndarray:
        "uint8 (N, H, W, 3)."
        return self.images.train_x.permute(0, 2, 3, 1).numpy()

    def logits(self, images: np.ndarray) -> np.ndarray:
        "As of `Predictor`, computed as the run was tested."
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.run.config.get("precision"))
        with torch.autocast(self.device.type, half, enabled=half is not None):
            return super().logits(images)


def moved(
    file: str | None,  # that was beside images, or among them; None: there was none
    old: str | Path,  # where the images were
    new: str | Path,  # where they are
) -> str | None:
    "Where the file is: where it was, or as far from the images as before, if it has moved with them."
    if file is None or Path(file).exists():
        return file
    there = os.path.normpath(os.path.join(new, os.path.relpath(file, old)))
    return there if Path(there).exists() else file
