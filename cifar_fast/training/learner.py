"""Learners: a model, its own copy of the data, and the defaults that go with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path

from fastai.callback.core import Callback, CancelEpochException, FetchPredsCallback, event
from fastai.callback.hook import HookCallback
from fastai.callback.progress import ProgressCallback, ShowGraphCallback
from fastai.callback.schedule import LRFinder
from fastai.callback.training import BnFreeze
from fastai.data.core import DataLoaders, TfmdDL
from fastai.imports import noop
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import get_random_states, set_random_states, trainable_params
from fastcore.basics import risinstance
from fastcore.foundation import L
from fastcore.meta import delegates
from fastcore.xtras import ContextManagers
from torch import Tensor, nn, no_grad
from torch.nn.parameter import is_lazy

from cifar_fast.data.feeding import copy_dls, fed_dl, fed_dls, fixed_tfms, n_classes, pixels_fed, placed
from cifar_fast.data.loaders import TensorDL
from cifar_fast.errors import InputError, check
from cifar_fast.models.networks import CustomCNN
from cifar_fast.progress import say, shows_bars
from cifar_fast.training.callbacks.compiled import Compiled
from cifar_fast.training.callbacks.guards import HonestChoice
from cifar_fast.training.callbacks.progress import DeviceSmoothLoss, EpochProgress, LastFit, LossesToCPU
from cifar_fast.training.frozen import BnEval, CachedBody, FrozenBody
from cifar_fast.training.graphs import BatchGraphs, is_patched, listens
from cifar_fast.training.optimizers import optimizer
from cifar_fast.training.portable import PORTABLE
from cifar_fast.training.precision import DeviceMixedPrecision, precision_cbs, precision_of, resolve_precision

BODY_BN = {"eval": [BnFreeze], "always": [BnEval], "train": []}
CALL_ONE = None if is_patched(Learner, "_call_one") else Learner._call_one


class Contexts(ContextManagers):
    "fastcore's, which leave nothing entered where one of them fails: predictions would wait for the lock forever."

    def __enter__(self):
        try:
            super().__enter__()
        except BaseException:
            self.stack.close()
            raise


class LeanLearner(Learner):
    """fastai's Learner that calls a callback only for the events that it defines.

    fastai asks every callback at every event, and one that lacks it passes the question on to the Learner and to the
    model's modules: a millisecond a batch, as much as training a head on cached features takes.

    A fit that an exception ends, Jupyter's stop button among them, has no `after_fit` in fastai; here callbacks hear of
    it as `after_failed_fit`, and take back what they have changed.
    """

    first_epoch = 0  # of a fit that goes on from a checkpoint
    feeding: list | None = None  # batch transforms of the images that the model was made for
    _asked: tuple[list[Callback], dict[str, list[Callback]]] = ([], {})  # callbacks, and which define an event

    def __getstate__(self):
        return {k: v for k, v in super().__getstate__().items() if k != "_asked"}  # callbacks of fits long over

    def fit(self, n_epoch, *args, **kwargs):
        "fastai's; loaders that the Learner was given since it was made are fed as its model needs it."
        self.dls, logger = fed_dls(self.dls, self.feeding), self.logger
        try:
            super().fit(n_epoch, *args, **kwargs)
        finally:
            self.logger = logger  # of several callbacks that took it over, each gives back what it found

    def remove_cb(self, cb):
        "fastai's; nothing of the callback is kept."
        self._asked = [], {}
        return super().remove_cb(cb)

    def _do_epoch_validate(self, ds_idx=1, dl=None):
        dl = self.dls[ds_idx] if dl is None else dl
        super()._do_epoch_validate(ds_idx, fed_dl(dl, self.feeding))

    def show_results(self, ds_idx: int = 1, dl: TfmdDL | None = None, *args, **kwargs):
        "fastai's; loaders that the Learner is given are fed as its model needs it."
        self.dls = fed_dls(self.dls, self.feeding)
        super().show_results(ds_idx, fed_dl(dl, self.feeding), *args, **kwargs)

    def to_channelslast(self, *args, **kwargs):
        "fastai's, for chaining: a `LeanLearner` computes so already."
        return self

    def _with_events(self, f, event_type, ex, final=noop):
        try:
            super()._with_events(f, event_type, ex, final)
        except BaseException:
            if event_type == "fit":
                self._clean_up()
            raise

    def _clean_up(self):
        for cb in self._listeners("after_failed_fit"):
            with suppress(Exception):  # a device that failed fails again, which would hide what was first
                cb("after_failed_fit")
        for cb in self.cbs:
            with suppress(Exception):
                if not hasattr(type(cb), "after_failed_fit"):
                    cb("after_cancel_fit")
                if isinstance(cb, (HookCallback, LRFinder)):
                    cb("after_fit")
        with suppress(Exception):
            self.opt.zero_grad()
        for cb in self.cbs:
            cb.run = True  # as after any fit

    @property
    def precision(self) -> str:
        "What fits compute in: fp32, bf16 or fp16."
        return precision_of(self)

    def to_fp16(self, **kwargs) -> Learner:
        "Compute in fp16, in place of what it was; `kwargs` go to torch's GradScaler. For fp32 fastai has `to_fp32`."
        return self.to_fp32().add_cb(DeviceMixedPrecision("fp16", **kwargs))

    def to_bf16(self) -> Learner:
        "Compute in bf16, in place of what it was."
        return self.to_fp32().add_cb(DeviceMixedPrecision("bf16"))

    def tta(self, ds_idx: int = 1, dl: TfmdDL | None = None, *args, **kwargs) -> tuple[Tensor, Tensor]:
        "fastai's, by the training loader's augmentations: loaders of this package have none elsewhere."
        dl = self.dls[ds_idx] if dl is None else dl
        if isinstance(dl, TensorDL):
            dl = dl.new(shuffle=False, drop_last=False, after_batch=self.dls.train.after_batch)
        bars = () if shows_bars() else (ProgressCallback, ShowGraphCallback)
        with self.removed_cbs([cb for cb in self.cbs if isinstance(cb, bars)]):
            return super().tta(ds_idx, dl, *args, **kwargs)

    def export(self, fname: str | Path = "export.pkl", pickle_module=PORTABLE, pickle_protocol: int = 2):
        "fastai's, in a file that other systems read too; a Learner that cannot be pickled is as before."
        dls, opt = self.dls, self.opt
        try:
            Learner.export(self, fname, pickle_module, pickle_protocol)
        except BaseException:
            self.dls, self.opt = dls, opt  # of which fastai has taken the images away, and the optimizer
            raise

    def lr_find(self, *args, **kwargs):
        """fastai's, which leaves all random numbers as they were: the fit after it is the fit without it.

        Where the loss rises too soon for a suggestion, it searches again through all rates, and a line says so.
        Raises `InputError` where there is none then either.
        """
        states, orders = get_random_states(), orders_of(self.dls)
        try:
            return Learner.lr_find(self, *args, **kwargs)
        except IndexError as error:
            if len(args) < 4 and "stop_div" not in kwargs:  # fastai's fourth parameter
                n = len(self.recorder.lrs)
                say(f"The loss rises after {n} batches, as of a network that has learnt already: all rates are tried.")
                return self.lr_find(*args, **kwargs, stop_div=False)
            raise InputError("no rate can be suggested: the losses are too few or not finite; give a rate") from error
        finally:
            set_random_states(**states)
            set_orders(self.dls, orders)

    def validation_context(self, *args, **kwargs):
        "fastai's, without FetchPredsCallback: it predicts too, and would wait for this Learner's lock forever."
        context = Contexts(super().validation_context(*args, **kwargs).default)
        context.append(self.removed_cbs(self.cbs.filter(risinstance(FetchPredsCallback))))
        return context

    @contextmanager
    def no_bar(self) -> Iterator[Learner]:
        "As fastai's, but what comes back afterwards is the callback that was there."
        with self.removed_cbs(L(vars(self).get("progress"))):
            yield self

    def _do_fit(self):
        if is_patched(Learner, "_do_fit"):
            return super()._do_fit()
        for epoch in range(self.first_epoch, self.n_epoch):
            self.epoch = epoch
            self._asked = [], {}  # an event may have been given to a callback or its class, or another order
            self._with_events(self._do_epoch, "epoch", CancelEpochException)

    def all_batches(self):
        graphs = vars(self).get("batch_graphs")  # getattr would ask the model too
        if graphs is not None and self.training and graphs.works:
            graphs.all_batches()
        else:
            super().all_batches()

    def to_distributed(self, sync_bn: bool = True, **kwargs) -> Learner:
        "Share fits with the other processes; fastai's `distrib_ctx` calls this. Raises `MissingExtra`."
        from cifar_fast.training.distributed import ShardedTrainer  # accelerate, which one process does not need

        return self.add_cb(ShardedTrainer(sync_bn, **kwargs))

    def detach_distributed(self) -> Learner:
        "Fits are this process's own again."
        from cifar_fast.training.distributed import ShardedTrainer

        return self.remove_cb(ShardedTrainer)

    def _call_one(self, event_name: str):
        if not hasattr(event, event_name):
            raise InputError(f"there is no event {event_name!r}: see fastai.callback.core.event")
        if Learner._call_one is not CALL_ONE:  # a notebook has put its own in place
            return super()._call_one(event_name)
        for cb in self._listeners(event_name):
            cb(event_name)

    def _listeners(self, event_name: str) -> list[Callback]:
        cbs = list(self.cbs)
        if event_name == "after_fit":  # there fastai sets every callback running again
            return list(self.cbs.sorted("order"))
        if len(cbs) != len(self._asked[0]) or any(a is not b for a, b in zip(cbs, self._asked[0])):
            self._asked = cbs, {}
        listeners = self._asked[1]
        if event_name not in listeners:
            listeners[event_name] = [cb for cb in self.cbs.sorted("order") if listens(cb, event_name)]
        return listeners[event_name]


def orders_of(dls: DataLoaders) -> list[tuple]:
    "How each loader goes on: the state of its random numbers, and its pass."
    return [(dl.rng.getstate(), getattr(dl, "epoch", 0)) for dl in _own_orders(dls)]


def set_orders(dls: DataLoaders, orders: list[tuple]) -> None:
    "Let each loader go on as `orders_of` has noted it."
    for dl, (rng, epoch) in zip(_own_orders(dls), orders):
        dl.rng.setstate(rng)
        dl.epoch = epoch


def _own_orders(dls: DataLoaders) -> list:
    return [dl for dl in dls.loaders if hasattr(dl, "rng")]  # torch's draw from torch's own random numbers


def own_cbs() -> list[Callback]:
    "What every `LeanLearner` carries."
    return [HonestChoice(), LossesToCPU(), LastFit(), BatchGraphs()]


@delegates(CustomCNN.__init__, but=["n_out", "n_in"])
def custom_learner(
    dls: DataLoaders,  # stays as it is
    size: int | None = None,  # pixels fed to the network; None: as `dls` gives them
    opt: str | Callable = "adam",  # adam, sgd, adamw, ... of `OPTIMIZERS`, or a fastai `opt_func`
    lr: float = 1e-3,  # default learning rate
    precision: str = "auto",  # auto, fp32, bf16 or fp16
    compile: bool = False,  # whether to run the model through torch.compile
    metrics=accuracy,  # fastai metrics
    cbs=None,  # further callbacks
    path: str | Path | None = None,  # where the Learner saves and exports; None: that of `dls`
    **kwargs,  # of `CustomCNN`: n_convs, width, n_dense, dense_width, ...; of `fast_learner`: loss_func, wd, moms, ...
) -> Learner:
    "A Learner for the article's `CustomCNN`. Raises `InputError` for options that do not fit."
    dls = copy_dls(dls, size)
    of_model = {k: kwargs.pop(k) for k in list(kwargs) if k in signature(CustomCNN.__init__).parameters}
    model = CustomCNN(n_out=n_classes(dls), size=pixels_fed(dls), **of_model)
    return fast_learner(dls, model, "CustomCNN", "none", opt, lr, precision, compile, metrics, cbs, path, **kwargs)


def transfer_learner(
    dls: DataLoaders,  # stays as it is
    arch: str | Callable = "resnet18",  # a network of torchvision by name, timm/NAME, or a function that makes one
    weights: str | Path = "auto",  # auto, imagenet, an entry as IMAGENET1K_V2, none, or the path of a state dict
    head: str = "linear",  # linear: one dense layer on the pooled features; fastai: its default head
    size: int | None = None,  # pixels fed to the network; None: as `dls` gives them
    frozen_bn: str = "eval",  # a body's batch norms keep their statistics: eval: while frozen; always; train: never
    cache: bool | dict = True,  # run a frozen body once, train the head on its features; Learners may share a dict
    cache_on_disk: bool = False,  # whether to keep the features for other runs
    opt: str | Callable = "adam",  # adam, sgd, adamw, ... of `OPTIMIZERS`, or a fastai `opt_func`
    lr: float = 1e-3,  # default learning rate
    precision: str = "auto",  # auto, fp32, bf16 or fp16
    compile: bool = False,  # whether to run the model through torch.compile
    metrics=accuracy,  # fastai metrics
    cbs=None,  # further callbacks
    path: str | Path | None = None,  # where the Learner saves and exports; None: that of `dls`
    **kwargs,  # of `fast_learner`: loss_func, opt_func, splitter, wd, wd_bn_bias, train_bn, moms, model_dir, ...
) -> Learner:
    """A Learner for any published network with a new head and a frozen body; `unfreeze` and `fine_tune` free it.

    Images are normalised as the weights were trained, by torchvision's or timm's statistics for the network; for random
    ones as `dls` does it. Raises `InputError` for weights, sizes and options that do not fit, `MissingExtra` for timm.
    """
    # torchvision takes a second to import, which whoever trains the small network need not wait for
    from cifar_fast.models.transfer import backbone, load_weights, transfer_model

    check("frozen_bn", frozen_bn, frozen_bn in BODY_BN, f"one of {', '.join(BODY_BN)}")
    base, found = backbone(arch), load_weights(arch, weights)
    dls = copy_dls(dls, size, found.stats)
    model = transfer_model(arch, n_classes(dls), head, pixels_fed(dls), found)
    frozen_cbs = [FrozenBody(), *(cb() for cb in BODY_BN[frozen_bn])]
    if cache is not False:
        frozen_cbs.append(CachedBody(cache_on_disk, cache if isinstance(cache, dict) else None))
    kwargs = {"splitter": base.split(), **kwargs}
    learn = fast_learner(
        dls, model, base.name, found.name, opt, lr, precision, compile, metrics, L(frozen_cbs) + L(cbs), path, **kwargs
    )  # fmt: skip
    learn.freeze()
    return learn


def _shaped(model: nn.Module, dls: DataLoaders) -> nn.Module:
    "`model`, whose lazy layers have their sizes from a batch: optimizers and memory formats ask for them."
    if any(map(is_lazy, model.parameters())):
        with no_grad():
            model.to(dls.device).eval()(dls.valid.one_batch()[0][:2].as_subclass(Tensor))
    return model


def fast_learner(
    dls: DataLoaders,  # used as it is
    model: nn.Module,  # takes the batches of `dls`
    arch: str | None = None,  # the model's name; None: its class's
    weights: str | None = None,  # the name of the weights it starts from
    opt: str | Callable = "adam",  # adam, sgd, adamw, ... of `OPTIMIZERS`, or a fastai `opt_func`
    lr: float = 1e-3,  # default learning rate
    precision: str = "auto",  # auto, fp32, bf16 or fp16
    compile: bool = False,  # whether to run the model through torch.compile
    metrics=accuracy,  # fastai metrics
    cbs: Callback | list | None = None,  # further callbacks
    path: str | Path | None = None,  # where the Learner saves and exports; None: that of `dls`
    splitter: Callable = trainable_params,  # model to layer groups
    loss_func: Callable | None = None,  # None: that of `dls`
    opt_func: Callable | None = None,  # fastai's name for `opt`
    **learner_kwargs,  # of fastai's Learner: model_dir, wd, wd_bn_bias, train_bn, moms, default_cbs
) -> Learner:
    "A Learner with fast precision, fused optimizer and no host syncs; `arch` and `weights` stand on it."
    opt, dls = opt if opt_func is None else opt_func, placed(dls)
    opt = optimizer(opt) if isinstance(opt, str) else opt
    precision_of_device = precision_cbs(resolve_precision(precision, dls.device), precision != "auto")
    learn = LeanLearner(
        dls,
        _shaped(model, dls),
        loss_func=loss_func or getattr(dls.train_ds, "loss_func", None) or CrossEntropyLossFlat(),
        opt_func=opt,
        lr=lr,
        splitter=splitter,
        metrics=metrics,
        path=path,
        **{"train_bn": False, **learner_kwargs},
        cbs=[*precision_of_device, *([Compiled()] * compile), *own_cbs(), *L(cbs)],
    )
    if isinstance(dls[1], TfmdDL):
        learn.feeding = fixed_tfms(dls[1]) or None
    if "progress" in vars(learn):
        learn.remove_cb(learn.progress).add_cb(EpochProgress())
    if "recorder" in vars(learn):
        learn.recorder.smooth_loss = DeviceSmoothLoss()
    learn.arch, learn.weights = arch or type(model).__name__, weights
    return learn
