"""Run a frozen body once, and train its head on the features."""

import hashlib
from copy import copy
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.hook import HookCallback
from fastai.callback.training import BnFreeze, bn_types
from fastai.learner import Metric
from fasttransform import Pipeline, Transform
from torch import Tensor, nn

from cifar_fast.data.augment import RandomFlip
from cifar_fast.data.cache import cache_dir, is_too_large, room
from cifar_fast.data.feeding import FEEDING, describe
from cifar_fast.data.loaders import TensorDL
from cifar_fast.data.tensors import ImageTensors
from cifar_fast.files import read_tensors, write_tensors
from cifar_fast.models.networks import Features, TransferModel
from cifar_fast.progress import progress, say
from cifar_fast.training.graphs import INSIDE, patched

# Callbacks of these modules read neither images nor the body.
_BLIND_MODULES = {
    "fastai.learner",
    "fastai.metrics",
    *(f"fastai.callback.{o}" for o in ("core", "schedule", "fp16", "channelslast", "progress", "preds")),
    *(f"fastai.callback.{o}" for o in ("tracker", "training")),
    *(f"cifar_fast.training.{o}" for o in ("precision", "schedules", "frozen", "graphs")),
    *(f"cifar_fast.training.callbacks.{o}" for o in ("averages", "clip", "compiled", "guards", "measure", "progress")),
}

SMALL_STEP = 1_000_000  # multiplications of a head for a batch; of two threads the second begins to gain at twice that


class FrozenBody(Callback):
    """A frozen body computes in training as it does afterwards: without dropout and without stochastic depth.

    Batch norms are left to fastai's `BnFreeze`.
    """

    run_after = TrainEvalCallback

    def before_train(self):
        "After fastai has put the whole model into train mode."
        if isinstance(self.model, TransferModel) and _is_frozen(self.model):
            for module in self.model[0].modules():
                if not isinstance(module, bn_types):
                    module.training = False


class BnEval(BnFreeze):
    """A body's batch norms keep their statistics even while it is fine-tuned.

    Images of another size or kind have other statistics: batches would be normalised as the weights do not expect it.
    """

    always = True

    def before_train(self):
        "As fastai's, whatever is frozen."
        if isinstance(self.model, TransferModel):
            for module in self.model[0].modules():
                if isinstance(module, bn_types):
                    module.eval()


class FeatureTensors(ImageTensors):
    "The features of an `ImageTensors`: the same labels and order, a vector in place of each image."

    def __init__(
        self,
        x: Tensor,  # (N, F) features
        y: Tensor,  # int64 (N,)
        flipped: Tensor | None = None,  # (N, F) features of the mirrored images, where training flips them
        flip: RandomFlip | None = None,  # the transform that draws which images to mirror
        **about,  # of `ImageTensors`
    ):
        super().__init__(x, y, **about)
        self.flipped, self.flip = flipped, flip

    def batch(self, idxs: Tensor, epoch: int = 0) -> tuple:
        "Features (bs, F) and labels (bs,), each image mirrored as the image loader would have drawn it."
        x, y = super().batch(idxs, epoch)
        if self.flip is not None:
            x = torch.where(self.flip.draw(x)[:, None], self.flipped[idxs], x)
        return x, y

    def subset(self, idxs: Tensor) -> "FeatureTensors":
        "The features at `idxs`, mirrored where these are."
        res = super().subset(idxs)
        if self.flip is not None:
            res.flipped, res.flip = self.flipped[idxs], self.flip
        return res


class CachedBody(Callback):
    """Before the first epoch, run the frozen body once over all images; the fit then trains the head alone.

    Batches, their order and the flips drawn are those of the fit without it. The Learner's model and `dls` stay the
    whole model and the images: only the loader of a training or validation phase is exchanged while it runs. Where
    features would not be exact (a body that trains, batch norms that move, augmentations but flips, callbacks that
    look at images or at the body) the fit runs as without it, and one line says why. Features are kept for the next
    fit as long as body, images, transforms and precision stay the same.
    """

    order = 11  # after CastToTensor and MixedPrecision
    in_graph = True  # of `BatchGraphs`: what it does in a batch is work of the device
    _stateattrs = ("cache", "loaded", "fed", "shares")
    threads: int | None = None  # of torch, where the fit goes on with one

    def __init__(
        self,
        on_disk: bool = False,  # whether to keep the features in the cache folder, for other runs
        cache: dict[str, Tensor] | None = None,  # features by their key, where Learners share them
    ):
        self.on_disk, self.active = on_disk, False
        self._init_state()
        if cache is not None:
            self.cache, self.shares = cache, True

    def _init_state(self):
        "fastcore's Stateful calls this on a loaded callback: features are never pickled."
        self.cache, self.loaded, self.fed, self.shares = {}, {}, [], False

    def before_fit(self):
        "Nothing is exchanged until training begins: predictions outside a fit see images."
        self.active = False

    def before_train(self):
        "Exchange the training images for features, where nothing stands against it: a callback may have changed that."
        reason = self.obstacle() if _is_frozen(self.model) else "it trains"
        if reason:
            self._stop(reason)
            return
        fed = [o for dl in (self.dls.train, self.dls.valid) for o in (dl.dataset, *map(describe, dl.after_batch.fs))]
        if not self.active or fed != self.fed:
            self._start()
            self.active, self.fed = True, fed
        self.learn.dl = self._feature_dl(self.dls.train)
        self._spare_threads()

    def after_train(self):
        "Let the image loader go on where the feature loader stopped."
        if self.active:
            self.dls.train.rng, self.dls.train.epoch = self.dl.rng, self.dl.epoch

    def before_validate(self):
        "Exchange validation images for features, where they have been computed."
        if self.active and _is_frozen(self.model) and (dl := self._feature_dl(self.learn.dl)) is not None:
            self.learn.dl = dl

    def before_batch(self):
        "Mark the features, so that the model leaves the body out."
        if isinstance(getattr(self.dl, "dataset", None), FeatureTensors) and self.xb[0].ndim == 2:
            self.learn.xb = (self.xb[0].as_subclass(Features),)

    def after_fit(self):
        "Images again."
        self.active = False
        self._restore_threads()

    after_failed_fit = after_fit

    def _spare_threads(self) -> None:
        "On a CPU a small head's steps are so short that threads wait for each other longer than they work."
        work = sum(p.numel() for p in self.model[1].parameters()) * self.dls.train.bs
        if self.threads is None and self.dls.device.type == "cpu" and work < SMALL_STEP:
            self.threads = torch.get_num_threads()
            torch.set_num_threads(1)

    def _restore_threads(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
            self.threads = None

    def _stop(self, reason: str) -> None:
        "Images from here on."
        if _is_frozen(self.model) and (self.active or self.epoch == 0):
            say(f"The frozen body runs in every epoch{' from here on' * self.active}: {reason}.")
        self.active, self.loaded, self.fed = False, {}, []
        if not self.shares:
            self.cache.clear()
        self._restore_threads()

    def _start(self) -> None:
        "Compute what is missing; of what Learners share, too, nothing stays that is of other images or another body."
        self.loaded, self.fed = {}, []  # before there is more
        train, valid = self.dls.train, self.dls.valid
        flip = next((o for o in train.after_batch.fs if isinstance(o, RandomFlip)), None)
        fixed = [o for o in train.after_batch.fs if not isinstance(o, RandomFlip)]
        body = _digest(self.model[0].state_dict().values())
        wanted = [(train.dataset, fixed, False), (valid.dataset, list(valid.after_batch.fs), False)]
        wanted += [(train.dataset, fixed, True)] if flip else []
        keys = [self._key(body, *o) for o in wanted]
        for key in set(self.cache) - set(keys):
            del self.cache[key]
        for key, (dataset, tfms, mirrored) in zip(keys, wanted):
            if key not in self.cache:
                self.cache[key] = self._features(key, dataset, tfms, mirrored)
        flipped = self.cache[keys[2]] if flip else None
        self.loaded = {
            train.dataset: FeatureTensors(self.cache[keys[0]], train.dataset.y, flipped, flip, **train.dataset._about),
            valid.dataset: FeatureTensors(self.cache[keys[1]], valid.dataset.y, **valid.dataset._about),
        }

    def obstacle(self) -> str:
        "Why the features of a frozen body cannot stand in for images in this fit; empty where they can."
        model, train = self.model, self.dls.train
        if not isinstance(model, TransferModel):
            return "the model is no TransferModel"
        if not isinstance(model[1], nn.Sequential) or not any(type(o).__name__ == "Flatten" for o in model[1]):
            return "its head has no Flatten, after which features would stand"
        if any(p.requires_grad for p in model.pooling.parameters()):
            return "its pooling trains"
        if any(_draws(m) or isinstance(m, bn_types) for m in model.pooling.modules()):
            return "its pooling is another in each batch"
        body = list(model[0].modules())
        if any(isinstance(m, bn_types) for m in body) and not any(isinstance(cb, BnFreeze) for cb in self.learn.cbs):
            return "its batch norms train"
        if not any(isinstance(cb, FrozenBody) for cb in self.learn.cbs) and any(_draws(m) for m in body):
            return "it has dropout"
        if any(m._forward_hooks or m._forward_pre_hooks for m in body):
            return "hooks look into it"
        if not all(isinstance(dl, TensorDL) for dl in self.dls.loaders):
            return "the batches come from another loader than TensorDL"
        tfms = [o for dl in (train, self.dls.valid) for o in dl.after_batch.fs if not isinstance(o, RandomFlip)]
        if others := [o for o in tfms if type(o) not in FEEDING]:
            return f"{vars(others[0]).get('_name', type(others[0]).__name__)} may make other images in every epoch"
        if name := patched(self.learn):
            return f"{name} is patched, and may look at the images"
        looking = [f"the callback {cb.name}" for cb in self.learn.cbs if _looks_at_images(cb)]
        looking += [f"the metric {o.name}" for o in self.learn.metrics if _reads_x(o)]
        return f"{looking[0]} may look at the images or the body" if looking else ""

    def _feature_dl(self, dl: TensorDL) -> TensorDL | None:
        "`dl` over features in place of images; None where there are none for its images."
        if not isinstance(dl, TensorDL):
            return None
        dataset = self.loaded.get(dl.dataset)
        if dataset is None and dl.dataset.parent is not None:
            whole, idxs = dl.dataset.parent
            if (found := self.loaded.get(whole)) is not None:
                dataset = FeatureTensors(found.x[idxs], dl.dataset.y, **dl.dataset._about)
        if dataset is None:
            return None
        res = copy(dl)
        res.dataset, res.after_batch = dataset, Pipeline([])
        return res

    # Computing features, in memory, in a mapped file or from the disk

    def _key(self, body: str, dataset: ImageTensors, tfms: list[Transform], mirrored: bool) -> str:
        "A hash of all that the features depend on."
        context = self._autocast()
        precision = f"{context.fast_dtype if context._enabled else torch.float32} on {dataset.x.device}"
        pooling = repr(self.model[0]) + repr(self.model.pooling)  # of the same weights others give other features
        parts = [body, pooling, _digest([dataset.x]), *map(describe, tfms), f"mirrored: {mirrored}", precision]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _autocast(self):
        "The precision that the fit computes in, as a context."
        amp = vars(self.learn).get("mixed_precision")  # of the Learner: getattr would ask the model too
        return torch.autocast(self.dls.device.type, enabled=False) if amp is None else amp.autocast

    def _features(self, key: str, dataset: ImageTensors, tfms: list[Transform], mirrored: bool) -> Tensor:
        path = cache_dir() / f"features-{key[:16]}.safetensors"
        on_disk = self.on_disk and hasattr(self.model, "architecture")  # else its code may change unseen
        if on_disk and (found := _read(path, key)) is not None:
            say(f"Features of {len(dataset):,} images: read from {path}")
            return found.to(dataset.x.device)
        x = self._run_body(dataset, tfms, mirrored)
        if on_disk:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_tensors(path, {"features": x.cpu()}, {"key": key})
            except OSError as error:
                say(f"The features are not kept for other runs ({error}): set $CIFAR_FAST_CACHE.")
        return x

    @torch.no_grad()
    def _run_body(self, dataset: ImageTensors, tfms: list[Transform], mirrored: bool) -> Tensor:
        "Features (N, F) of all images, in batches of the validation size."
        bs, res = self.dls.valid.bs, None
        modes = [(o, o.training) for o in self.model.modules()]
        self.model.eval()
        role = "training" if dataset.split_idx == 0 else "validation"
        what = f"{len(dataset):,} {'mirrored ' * mirrored}{role} images"
        dl = self.dls.valid.new(dataset=dataset, shuffle=False, after_batch=Pipeline(tfms))
        for i, (xb, *_) in enumerate(progress(dl)):
            with self._autocast():
                features = self.model.features((xb.flip(-1) if mirrored else xb).as_subclass(Tensor))
            if res is None:
                res = _empty((len(dataset), features.shape[1]), features, what)
            res[i * bs : i * bs + len(features)] = features
        for module, training in modes:
            module.training = training
        return res


def _is_frozen(model: nn.Module) -> bool:
    "Whether no body in it trains."
    return not isinstance(model, TransferModel) or not any(p.requires_grad for p in model[0].parameters())


def _draws(module: nn.Module) -> bool:
    "Whether a layer draws at random in training: dropout, or a block that is left out (stochastic depth)."
    share = next((getattr(module, o) for o in ("p", "drop_prob", "dropout") if hasattr(module, o)), 0)
    return isinstance(share, float) and share > 0


def _looks_at_images(cb: Callback) -> bool:
    "Whether `cb` is a hook, or an unknown callback that acts around the model's call or reads `x` elsewhere."
    if isinstance(cb, HookCallback):
        return True
    if not getattr(cb, "needs_images", True):
        return False
    around = {"before_batch", "after_batch", "__call__", *INSIDE}
    return any(around & set(vars(o)) for o in _own(cb)) or _reads_x(cb)


def _own(o: Callback | Metric) -> list:
    "What of a callback or metric is not fastai's: itself, as in Callback(before_batch=f), and classes."
    return [o, *(cls for cls in type(o).__mro__ if cls.__module__ not in _BLIND_MODULES)]


def _reads_x(o: Callback | Metric) -> bool:
    "Whether a function of `o` that is not fastai's names `x` or `xb`, as in `self.x`."
    codes = [getattr(f, "__code__", None) for part in _own(o) for f in vars(part).values()]
    return any({"x", "xb"} & set(code.co_names) for code in codes if code is not None)


def _digest(tensors) -> str:
    digest = hashlib.sha256()
    for o in tensors:
        digest.update(np.ascontiguousarray(o.detach().cpu().as_subclass(Tensor).numpy()))
    return digest.hexdigest()


def _empty(shape: tuple[int, int], like: Tensor, what: str) -> Tensor:
    "Room for features: in memory, or in a mapped file where they would take more than half of what is free."
    mapped = like.device.type == "cpu" and is_too_large(shape, like.element_size())
    size = shape[0] * shape[1] * like.element_size() / 1e6
    say(f"Features of {what}: {size:,.1f} MB in {'a mapped file' if mapped else 'memory'}")
    return room(shape, like.dtype) if mapped else torch.empty(shape, dtype=like.dtype, device=like.device)


def _read(path: Path, key: str) -> Tensor | None:
    try:
        tensors, about = read_tensors(path)
        return tensors["features"] if about["key"] == key else None
    except (OSError, KeyError, ValueError):
        return None  # missing or damaged: it is only a cache
