"""What users would otherwise run: stock fastai, plain PyTorch scripts, and the bare step that bounds them all."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelValidException
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.vision.augment import CropPad, Flip, RandomCrop, RandomErasing, Resize
from fastai.vision.core import PILImage, image2tensor
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner
from fastcore.basics import chunked
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10
from torchvision.io import ImageReadMode, decode_image
from torchvision.models import get_model_builder
from torchvision.transforms import v2

from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.levels import AT_ONCE


class NoValidation(Callback):
    "Skips validation, where training alone is timed."

    def before_validate(self):
        "Skip."
        raise CancelValidException


def write_image_folder(images: ImageSet, root: Path) -> Path:
    "`images` as PNG files `train/<class>/*` and `test/<class>/*`, fastai's form of CIFAR-10."
    for split, x, y in (("train", images.train_x, images.train_y), ("test", images.test_x, images.test_y)):
        for name in images.vocab:
            (root / split / name).mkdir(parents=True, exist_ok=True)
        for i, (pixels, label) in enumerate(zip(x, y.tolist())):
            path = root / split / images.vocab[label] / f"{i:05}.png"
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, compress_level=1)
    return root


READERS: dict[str, Callable[[str], Tensor]] = {  # path in, uint8 (3, H, W) out
    "fastai, PILImage.create": lambda path: image2tensor(PILImage.create(path)),
    "torchvision, decode_image": lambda path: decode_image(path, ImageReadMode.RGB),
    "Pillow alone": lambda path: torch.from_numpy(np.array(Image.open(path).convert("RGB")).transpose(2, 0, 1)),
}


def read_all(
    read: Callable[[str], Tensor],  # one of `READERS`
    files: list[str],  # images of one size
    size: int,  # pixels of a side
) -> Tensor:  # uint8 (N, 3, size, size)
    "Images by a thread a core, some at once each, as the toolkit's own are."
    x = torch.zeros(len(files), 3, size, size, dtype=torch.uint8)

    def read_some(part: list[int]) -> None:
        for i in part:
            x[i] = read(files[i])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(read_some, chunked(range(len(files)), AT_ONCE)))
    return x


class TorchvisionCIFAR10(CIFAR10):
    "torchvision's CIFAR10 over arrays in memory; its `__getitem__` is torchvision's own."

    def __init__(self, x: Tensor, y: Tensor, transform: Callable):
        self.data, self.targets = x.permute(0, 2, 3, 1).contiguous().numpy(), y.tolist()
        self.transform, self.target_transform = transform, None


def fastai_folder_dls(
    root: Path, images: ImageSet, bs: int, size: int, workers: int | None, device, augmented: bool = False
) -> DataLoaders:
    """Stock fastai on a folder of PNG files.

    Augmented are images of 32 pixels: flips, shifts of up to 4 pixels and an erased rectangle an image, by fastai's own
    transforms.
    """
    item_tfms = Resize(size) if size != 32 else None
    tfms = [Normalize.from_stats(images.mean, images.std, cuda=False)]
    if augmented:
        item_tfms = [CropPad(40, pad_mode="reflection"), RandomCrop(32)]
        tfms = [Flip(), *tfms, RandomErasing(p=1.0, sh=0.1)]
    return ImageDataLoaders.from_folder(
        root, train="train", valid="test", bs=bs, item_tfms=item_tfms, batch_tfms=tfms, num_workers=workers,
        device=device,
    )  # fmt: skip


def torchvision_dls(images: ImageSet, bs: int, workers: int) -> list[DataLoader]:
    "Plain DataLoaders over torchvision's CIFAR10, training and test."
    tfm = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(images.mean, images.std)])
    train = TorchvisionCIFAR10(images.train_x, images.train_y, tfm)
    test = TorchvisionCIFAR10(images.test_x, images.test_y, tfm)
    kwargs = dict(num_workers=workers, pin_memory=torch.cuda.is_available())
    return [DataLoader(train, bs, shuffle=True, **kwargs), DataLoader(test, bs, **kwargs)]


def fastai_torchvision_dls(images: ImageSet, bs: int, workers: int, device) -> DataLoaders:
    "Stock fastai around `torchvision_dls`."
    dls = DataLoaders(*torchvision_dls(images, bs, workers), device=device)
    dls.c = len(images.vocab)
    return dls


def stock_learner(dls: DataLoaders, model: nn.Module) -> Learner:
    "A Learner with fastai's defaults."
    return Learner(dls, model, loss_func=nn.CrossEntropyLoss(), metrics=accuracy)


def stock_vision_learner(
    dls: DataLoaders,
    arch: str = "resnet18",  # a network of torchvision
) -> Learner:
    "fastai's frozen network with a linear head; random weights, on which its speed does not depend."
    head = dict(concat_pool=False, lin_ftrs=[], ps=0.0, first_bn=False)
    learn = vision_learner(dls, get_model_builder(arch), pretrained=False, normalize=False, metrics=accuracy, **head)
    learn.freeze()
    return learn


def plain_epoch(model: nn.Module, opt: torch.optim.Optimizer, dl: DataLoader, device: torch.device) -> None:
    "One epoch as tutorials write it."
    model.train()
    for x, y in dl:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()


def bare_steps(
    model: nn.Module,  # on its device
    batch: tuple[Tensor, Tensor],  # the one resident batch: normalised images and labels
    n: int,  # steps
    dtype: torch.dtype,  # of autocast; float32 for none
    capturable: bool = False,  # whether they are to be captured as a CUDA graph
) -> Callable[[], None]:
    "The compute limit: `n` training steps on one resident batch, channels-last and fused, without data or callbacks."
    model.to(memory_format=torch.channels_last).train()
    x, y = (o.as_subclass(Tensor) for o in batch)
    x = x.contiguous(memory_format=torch.channels_last)
    opt = torch.optim.Adam(model.parameters(), fused=True, capturable=capturable)

    def steps() -> None:
        for _ in range(n):
            with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(model(x).float(), y)
            opt.zero_grad()
            loss.backward()
            opt.step()

    return steps


def captured(step: Callable[[], None]) -> Callable[[], None]:
    "`step`, whose optimizer is capturable, as a CUDA graph, captured after some steps in which kernels are chosen."
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(keep=step) -> None:  # what `step` holds is the memory that the graph works on
        graph.replay()

    return replay
