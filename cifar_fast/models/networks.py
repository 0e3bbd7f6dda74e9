"""Networks: the article's CustomCNN with its variants, and a body with a head that also takes cached features.

A network made here knows its `architecture`, a dict of plain values from which `build_model` makes it anew. Nothing
here needs fastai.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from cifar_fast.errors import InputError
from cifar_fast.models.recordnet import RecordNet


class CustomCNN(nn.Sequential):
    """The article's small network: convolutions with max-pooling between them, then dense layers.

    With the defaults, on 32 pixels: 4,294,218 parameters. Takes float (N, n_in, size, size), gives logits (N, n_out).
    Layers have names (conv1, pool1, ..., dense1, bn1, ...), in the order they run. Raises `InputError` where `size`
    is too small to be halved between all convolutions.
    """

    def __init__(
        self,
        n_out: int = 10,  # classes
        size: int = 32,  # pixels of a side of the images
        n_in: int = 3,  # channels of the images
        n_convs: int = 3,  # convolutions, each with twice the filters of the one before
        width: int = 32,  # filters of the first convolution
        n_dense: int = 2,  # dense layers, the output layer among them
        dense_width: int = 512,  # units of the hidden dense layers
        conv_dropout: float = 0.0,  # dropout of whole channels after each convolution
        dropout: float = 0.5,  # dropout after each hidden dense layer
        logit_dropout: float = 0.5,  # dropout on the logits: odd, but in the article's list; 0 leaves it out
        bn: bool = True,  # batch norm after each hidden dense layer
    ):
        if size >> (n_convs - 1) < 1:
            raise InputError(f"{n_convs} convolutions halve {size} pixels to nothing: use fewer or larger images")
        options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.architecture = {"name": "CustomCNN", **options}
        nf = n_in
        for i in range(1, n_convs + 1):
            if i > 1:
                self.add_module(f"pool{i - 1}", nn.MaxPool2d(2))
            ni, nf = nf, width * 2 ** (i - 1)
            self.add_module(f"conv{i}", nn.Conv2d(ni, nf, 3, padding=1))
            self.add_module(f"relu{i}", nn.ReLU(inplace=True))
            if conv_dropout:
                self.add_module(f"conv_drop{i}", nn.Dropout2d(conv_dropout))
        self.add_module("flatten", nn.Flatten())  # fastai's needs contiguous images
        n_features = nf * (size >> (n_convs - 1)) ** 2
        for i in range(1, n_dense):
            self.add_module(f"dense{i}", nn.Linear(n_features, dense_width))
            if bn:
                self.add_module(f"bn{i}", nn.BatchNorm1d(dense_width))
            self.add_module(f"dense_relu{i}", nn.ReLU(inplace=True))
            if dropout:
                self.add_module(f"drop{i}", nn.Dropout(dropout))
            n_features = dense_width
        self.add_module(f"dense{n_dense}", nn.Linear(n_features, n_out))
        if logit_dropout:
            self.add_module("logit_drop", nn.Dropout(logit_dropout))

    def __getitem__(self, idx):
        "A layer; of a slice a plain Sequential, as CustomCNN is made by its parameters."
        if isinstance(idx, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[idx]))
        return super().__getitem__(idx)


class Features(Tensor):
    "A batch of a body's pooled features (N, F), which a `TransferModel` takes in place of images."

    __torch_function__ = torch._C._disabled_torch_function_impl


class TransferModel(nn.Sequential):
    """fastai's (body, head) Sequential that also takes the body's `Features`, and then runs the rest of the head.

    The state dict is that of a plain Sequential.
    """

    @property
    def _n_pool(self) -> int:
        "Layers at the start of the head that pool and flatten: they have nothing to train."
        return next(i for i, o in enumerate(self[1]) if type(o).__name__ == "Flatten") + 1  # fastai's or torch's

    @property
    def pooling(self) -> nn.Sequential:
        "What stands between the body's last feature map and `features`."
        return self[1][: self._n_pool]

    def features(self, x: Tensor) -> Tensor:
        "Pooled features (N, F) of images (N, 3, H, W), in the precision of the computation."
        return self.pooling(self[0](x))

    def forward(self, x: Tensor) -> Tensor:
        "Logits (N, classes) of images or of `Features`."
        if isinstance(x, Features):
            return self[1][self._n_pool :](x.as_subclass(Tensor))
        return super().forward(x)


def build_model(
    architecture: dict,  # of a network of this package: its name, and its parameters
) -> nn.Module:  # with random weights, on torch's default device
    "The network that `architecture` describes. Raises `InputError` for an unknown name."
    name, options = architecture["name"], {k: v for k, v in architecture.items() if k != "name"}
    if name == "CustomCNN":
        return CustomCNN(**options)
    if name == "RecordNet":
        return RecordNet(**options)
    from cifar_fast.models.transfer import transfer_model  # torchvision: a second, which the others need not wait for

    return transfer_model(name, **options)
