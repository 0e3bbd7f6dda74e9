"""What a model says of many images: a saved one behind a Predictor, or a Learner's, on its fast path."""

from collections.abc import Sequence

import numpy as np
import torch
from fastai.callback.hook import Hook
from fastcore.basics import noop
from torch import Tensor, nn

from cifar_fast.analysis.predictions import Predictions
from cifar_fast.errors import InputError


def logits_of(
    model,  # a Predictor, or a Learner on DataLoaders of this package
    images: np.ndarray | Tensor,  # uint8 (N, H, W, 3), in memory or mapped from a file
) -> Tensor:  # float32 (N, classes), on the CPU
    "The network's outputs before the softmax."
    if not hasattr(model, "dls"):  # a Learner asks the user's network for all that it lacks, `logits` too
        return torch.as_tensor(model.logits(images.numpy() if isinstance(images, Tensor) else images)).float()
    x = torch.from_numpy(np.require(images, requirements=["C", "W"])).permute(0, 3, 1, 2)
    valid = model.dls.valid
    if x.shape[1:] == valid.dataset.x.shape[1:]:
        dl = valid.new(valid.dataset.replace(x, None, split_idx=1, is_test=False).to(valid.device))
    else:
        dl = model.dls.test_dl(list(np.asarray(images)))
    return model.get_preds(dl=dl, act=noop)[0].float().as_subclass(Tensor)


def predictions_of(
    model,  # a Predictor, or a Learner on DataLoaders of this package
    images: np.ndarray | Tensor,  # uint8 (N, H, W, 3)
    labels: Tensor,  # int64 (N,)
    vocab: Sequence[str],  # class names
) -> Predictions:
    "What `model` says of labelled images."
    return Predictions(logits_of(model, images).softmax(1), labels, vocab)


def features_of(
    model,  # a Predictor of a folder's model, or a Learner
    images: np.ndarray | Tensor,  # uint8 (N, H, W, 3)
) -> Tensor:  # float32 (N, features), on the CPU
    "What the last dense layer is given of each image. Raises `InputError` where there is no such layer to look into."
    module = model.model
    layers = [o for o in module.modules() if isinstance(o, nn.Linear)] if module is not None else []
    if not layers:
        raise InputError("this model's last layer cannot be looked into: it is an ONNX graph, or has no dense layer")
    kept: list[Tensor] = []
    with Hook(layers[-1], lambda _, inputs, output: kept.append(inputs[0].float().flatten(1)), cpu=True):
        logits_of(model, images)
    return torch.cat(kept)
