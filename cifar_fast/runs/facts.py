"""What a Learner and its images are, as a run's metrics.json, title and pages say it: never more than they are."""

import hashlib

import torch
from fastai.callback.core import Callback
from fastai.callback.preds import MCDropoutCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import Tensor

from cifar_fast.analysis.asking import predictions_of
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.data.feeding import FEEDING, fixed_tfms
from cifar_fast.data.image_set import CIFAR10_SIZES, CIFAR10_VOCAB, ImageSet, is_fold, origin
from cifar_fast.training.adapt import arch_and_weights
from cifar_fast.training.precision import precision_of

SOME = 500  # test images, evenly spread: a callback that changes none of their predictions changes none
FROM_SCRATCH = ("CustomCNN", "RecordNet")  # networks that nobody has pretrained weights of


def run_facts(
    learn: Learner,  # on DataLoaders of this package
    experiment: str,  # its name
    seed: int | None,  # None: not known
) -> dict:
    "The entries of metrics.json that say what was trained on what, `title` among them."
    dls = learn.dls
    arch, weights = arch_and_weights(learn)
    about = f"{data_line(dls)}, {experiment}: {arch}{weights_line(arch, weights)}"
    return {
        "title": f"{about}, seed {'unknown' if seed is None else seed}",
        "about": about,
        "experiment": experiment,
        "data": dls.valid_ds.name,
        "data_is_cifar10": is_cifar10(dls),
        "tested_on": "test images" if is_tested(dls) else "held-out training images",
        "model": arch,
        "weights": weights,
        "bs": dls.train.bs,
        "size": int(dls.valid.one_batch()[0].shape[-1]),
        "device": str(dls.device),
        "precision": precision_of(learn),
        "seed": seed,
    }


def is_tested(dls: DataLoaders) -> bool:
    "Whether test images are tested, and no training images that were held out."
    return dls.valid_ds.is_test and not is_fold(dls.valid_ds.name)


def accuracy_on(
    tested: str,  # of `run_facts`, its `tested_on`
) -> str:
    "What an accuracy is called."
    return "test accuracy" if tested == "test images" else f"accuracy on {tested}"


def is_cifar10(dls: DataLoaders) -> bool:
    "Whether these are CIFAR-10's classes and numbers of images, and its test images to test on."
    sizes = len(dls.train_ds), len(dls.valid_ds)
    return list(dls.vocab) == CIFAR10_VOCAB and sizes == CIFAR10_SIZES and dls.valid_ds.is_test


def data_line(dls: DataLoaders) -> str:
    "What the images are."
    name, kind = origin(dls.valid_ds.name), "" if is_tested(dls) else " held-out"
    counts = f"{len(dls.train_ds):,} + {len(dls.valid_ds):,}{kind} images"
    if is_cifar10(dls):
        return f"CIFAR-10 ({counts})"
    if name == "cifar10":
        return f"a part of CIFAR-10 ({counts})"
    return f"{dls.valid_ds.name}, not CIFAR-10 ({counts})"


def weights_line(arch: str, weights: str | None) -> str:
    "Which weights a training started from, where it could have started from others."
    if weights is None or arch in FROM_SCRATCH:
        return ""
    return " with random weights" if weights == "none" else f" with {weights} weights"


def model_alone(
    learn: Learner,  # trained
    tested: Predictions,  # of the test images, by the Learner
) -> dict:
    """What the network alone says of the test images, where that is something else: model/ resizes and normalises.

    `without`, the callbacks and batch transforms that it has not; `accuracy` and the like, None where the network needs
    what one of them makes. Else empty, and where the network does not say the same twice.
    """
    own = [cb for cb in learn.cbs if isinstance(cb, MCDropoutCallback) or not _is_of_every_learner(cb)]
    valid = learn.dls.valid
    tfms = [o for o in fixed_tfms(valid) if not isinstance(o, FEEDING)]
    if not own and not tfms:
        return {}
    images = learn.dls.valid_ds.x.permute(0, 2, 3, 1).cpu()
    some = slice(None, None, -(-len(images) // SOME))

    def said(idxs: slice, alone: bool) -> Predictions:
        cbs, fs, feeding = learn.cbs.copy(), valid.after_batch.fs, vars(learn).get("feeding")
        try:
            if alone:
                valid.after_batch.fs, learn.feeding = [o for o in fs if o not in tfms], None
            with learn.removed_cbs(own if alone else []), learn.no_bar():
                return predictions_of(learn, images[idxs], tested.targs[idxs], tested.vocab)
        finally:
            learn.cbs, valid.after_batch.fs, learn.feeding = cbs, fs, feeding  # callbacks in the order that they had

    try:
        whole, once, twice = (said(some, alone).decoded for alone in (False, True, True))
        if once.equal(whole) or not once.equal(twice):
            return {}
        alone = said(slice(None), alone=True).metrics()
    except (torch.OutOfMemoryError, MemoryError):
        return {}
    except Exception:  # of a network's own code
        alone = dict.fromkeys(("accuracy", "loss", "per_class_accuracy", "taken_for"))
    return {"without": [type(o).__name__ for o in (*own, *tfms)], **alone}


def _is_of_every_learner(cb: Callback) -> bool:
    return type(cb).__module__.startswith(("fastai.", "cifar_fast.training."))


def model_metrics(metrics: dict) -> dict:
    "What a saved model carries of a run's metrics.json."
    names = "title data_is_cifar10 accuracy train_accuracy loss per_class_accuracy taken_for epochs seed".split()
    if alone := metrics.get("model_alone"):
        metrics = {**metrics, "train_accuracy": None, **alone}
    return {name: metrics.get(name) for name in names}


def images_hash(images: ImageSet) -> str:
    "A SHA-256 over all pixels, labels and class names: what a run must find again to go on."
    digest = hashlib.sha256(repr(list(images.vocab)).encode())
    for o in (images.train_x, images.train_y, images.test_x, images.test_y):
        digest.update(str(tuple(o.shape)).encode())
        digest.update(o.as_subclass(Tensor).contiguous().cpu().numpy())
    return digest.hexdigest()
