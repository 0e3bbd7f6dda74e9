"""Images and labels as one data set of tensors, resident on the device: what loaders take batches from."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from fastai.data.transforms import Categorize, CategoryMap
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorCategory, TensorImage, show_image
from fastcore.foundation import L, is_indexer
from torch import Tensor

from cifar_fast.data.image import Levels, decode_image
from cifar_fast.errors import InputError

# so that a loop by hand may compute a loss of what it takes from a loader
_LOSSES = (F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.binary_cross_entropy_with_logits, F.kl_div)
for _func in (*_LOSSES, torch.Tensor.eq):
    TensorImage.register_func(_func, TensorImage, TensorCategory)
TensorImage.register_func(torch.Tensor.gather, TensorImage, int, TensorCategory)
TensorImage.register_func(torch.Tensor.__getitem__, TensorImage, tuple)  # pred[range(bs), y]


class BatchCrossEntropy(CrossEntropyLossFlat):
    """fastai's cross-entropy for logits (N, classes) and labels (N,), which need no flattening.

    Flattening makes fastai tensors of both, and every operation on them, the backward pass too, then goes through
    Python: a third of a millisecond a batch.
    """

    def __call__(self, inp: Tensor, targ: Tensor, **kwargs) -> Tensor:
        return self.func(inp, targ, **kwargs)


class ImageTensors:
    "A resident data set of images and labels, with what fastai asks of a dataset: vocab, c, loss_func, items."

    n_inp = 1

    def __init__(
        self,
        x: Tensor,  # uint8 (N, 3, H, W)
        y: Tensor | None,  # int64 (N,), or None where the labels are not known
        vocab: list[str],  # class names
        split_idx: int,  # 0: augmented like training images; 1: not
        is_test: bool = False,  # whether these are test images, which must not choose anything
        name: str = "",  # of the data set
        levels: Levels | None = None,  # by which images of more than 8 bits are scaled
    ):
        self.x, self.y, self.split_idx, self.is_test, self.name = x, y, split_idx, is_test, name
        self.levels = levels
        self.vocab, self.loss_func = CategoryMap(vocab, sort=False), BatchCrossEntropy()
        self.files: list[str] | None = None  # of the images, below the folder that they are from
        self.splits: L | None = None  # indices of training and validation images in the whole that both are parts of
        self.parent: tuple[ImageTensors, Tensor] | None = None  # of a subset: the whole, and the indices in it

    @property
    def c(self) -> int:
        "Number of classes."
        return len(self.vocab)

    @property
    def n_subsets(self) -> int | None:
        "Splits of the whole; None where there is no whole."
        return self.splits and len(self.splits)

    @property
    def items(self) -> "ImageTensors":
        "Itself: an item is an (image, label) pair, which `dls.test_dl(items, with_labels=True)` takes."
        return self

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i) -> tuple | list[tuple]:
        if is_indexer(i):
            return self._item(int(i))
        return [self._item(o) for o in torch.arange(len(self))[i].tolist()]

    def _item(self, i: int) -> tuple:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return tuple(o[0] for o in self.batch(torch.tensor([i % len(self)])))

    def __iter__(self) -> Iterator[tuple]:
        return (self[i] for i in range(len(self)))

    def show(self, o: tuple, ctx=None, **kwargs):
        "Draw an (image, label) pair with its class as title, on the axes `ctx`; gives the axes."
        image, *labels = o
        title = " ".join(self.vocab[int(label)] for label in labels)
        return show_image(image, ctx=ctx, title=title, **kwargs)

    def batch(self, idxs: Tensor, epoch: int = 0) -> tuple:
        "Images (bs, 3, H, W) as uint8 TensorImage and labels (bs,) as TensorCategory; transforms see idxs and epoch."
        images = TensorImage(self.x[idxs], idxs=idxs, epoch=epoch)
        return (images,) if self.y is None else (images, TensorCategory(self.y[idxs]))

    def decode(self, o: tuple, full: bool = True) -> tuple:
        "An (image, label) pair with the label as a Category that shows its name."
        return (o[0], *(Categorize(self.vocab, sort=False).decode(label) for label in o[1:]))

    def replace(self, x: Tensor, y: Tensor | None, **kwargs) -> "ImageTensors":
        "Other images of the same classes."
        return type(self)(x, y, **{**self._about, **kwargs})

    @contextmanager
    def set_split_idx(self, i: int) -> Iterator["ImageTensors"]:
        "Itself, augmented like training images (0) or not (1) within the context; `learn.tta` asks for it."
        before, self.split_idx = self.split_idx, i
        try:
            yield self
        finally:
            self.split_idx = before

    def subset(self, idxs: Tensor) -> "ImageTensors":
        "The images at `idxs`, augmented where these are."
        res = self.replace(self.x[idxs], None if self.y is None else self.y[idxs])
        res.parent = self, idxs
        res.files = self.files and [self.files[i] for i in idxs.tolist()]
        return res

    def new_empty(self) -> "ImageTensors":
        "No images, for export."
        return self.replace(self.x[:0].clone(), self.y[:0].clone() if self.y is not None else None)

    def to(self, device: torch.device) -> "ImageTensors":
        "The images on `device`; itself where they are there already."
        if self.x.device == torch.device(device):
            return self
        res = self.replace(self.x.to(device), None if self.y is None else self.y.to(device))
        for name in ("parent", "files", "splits"):
            setattr(res, name, getattr(self, name, None))  # which an older export.pkl lacks
        return res

    @property
    def _about(self) -> dict:
        about = dict(vocab=list(self.vocab), split_idx=self.split_idx, is_test=self.is_test, name=self.name)
        return {**about, "levels": getattr(self, "levels", None)}  # which an older export.pkl lacks

    def from_items(self, items: Iterable, with_labels: bool = False) -> "ImageTensors":
        """Files, bytes, PIL images, arrays and tensors as a dataset, decoded like the training images.

        With `with_labels` an item is an (image, label) pair, or a path whose folder names the class.
        Raises `InputError`, naming what cannot be read.
        """
        pairs = [self._pair(o) if with_labels else (o, None) for o in items]
        x = torch.stack([self._image(image) for image, _ in pairs]) if pairs else self.x[:0]
        y = torch.tensor([self._label(label) for _, label in pairs]) if with_labels else None
        return self.replace(x, y, split_idx=1, is_test=False).to(self.x.device)

    def _pair(self, item) -> tuple:
        return (item, Path(item).parent.name) if isinstance(item, (str, Path)) else item

    def _label(self, label) -> int:
        if isinstance(label, str) and label not in self.vocab.o2i:
            raise InputError(f"{label!r} is none of the classes {', '.join(self.vocab)}")
        return self.vocab.o2i[label] if isinstance(label, str) else int(label)

    def _image(self, item) -> Tensor:
        if isinstance(item, Tensor):  # fastai's images have the channels first
            if item.dtype == torch.uint8 and item.shape == self.x.shape[1:]:
                return item.as_subclass(Tensor).cpu()
            item = item.as_subclass(Tensor).cpu().movedim(0, -1).numpy()
        return torch.from_numpy(decode_image(item, self.x.shape[-1], self._about["levels"])).permute(2, 0, 1)
