"""What the door makes of the Learner that an experiment gives: lean, with accuracy, in the precision asked for."""

from typing import Any

from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.learner import AvgMetric, Learner
from fastai.metrics import accuracy

from cifar_fast.errors import InputError
from cifar_fast.training.callbacks.progress import DeviceSmoothLoss, EpochProgress
from cifar_fast.training.learner import LeanLearner, own_cbs
from cifar_fast.training.precision import precision_cbs, resolve_precision


def as_lean(
    learn: Any,  # what an experiment's function has given
    precision: str = "auto",  # of a plain Learner without one: auto, fp32, bf16 or fp16
) -> LeanLearner:
    """A fastai Learner as a `LeanLearner`, in place: it can be resumed, and its progress waits for no device.

    A `LeanLearner` stays as it is. `accuracy` is added where it is none of the metrics. Raises `InputError` for what
    is no Learner, or one of another class, whose own ways of fitting would be lost.
    """
    given = f"the experiment gave a {type(learn).__name__}"
    if not isinstance(learn, Learner):
        raise InputError(f"{given}: return a fastai Learner, as fast_learner makes")
    if not isinstance(learn, LeanLearner):
        if type(learn) is not Learner:
            raise InputError(f"{given}: return a plain fastai Learner, or fast_learner's")
        if "recorder" not in vars(learn):
            raise InputError(f"{given} without a Recorder, which keeps its curves: leave default_cbs=False out")
        _make_lean(learn, precision)
    called = [o for o in learn.metrics if getattr(o, "name", None) == "accuracy"]
    if any(getattr(o, "func", o) is not accuracy for o in called):
        raise InputError(f"{given} with a metric called accuracy that is not fastai's: give it another name")
    if not called:
        learn.metrics = [AvgMetric(accuracy), *learn.metrics]
    return learn


def _make_lean(learn: Learner, precision: str) -> None:
    learn.__class__ = LeanLearner
    mixed = [cb for cb in learn.cbs if isinstance(cb, MixedPrecision)]
    if mixed and type(mixed[0]) is MixedPrecision:
        precision = mixed[0].amp_mode.value
    learn.remove_cbs([*mixed, *(cb for cb in learn.cbs if type(cb) is ProgressCallback)])
    known = {type(cb) for cb in learn.cbs}
    precise = precision_cbs(resolve_precision(precision, learn.dls.device), precision != "auto")
    added = [*precise, *own_cbs(), EpochProgress()]
    learn.add_cbs([cb for cb in added if type(cb) not in known])
    learn.recorder.smooth_loss = DeviceSmoothLoss()
    learn.arch, learn.weights = arch_and_weights(learn)


def arch_and_weights(learn: Learner) -> tuple[str, str | None]:
    "The network's name, and what it began with where that is known; vision_learner notes a function, and a flag."
    noted = vars(learn)  # getattr would ask the model too
    arch = noted.get("arch", type(learn.model).__name__)
    pretrained = {True: "imagenet", False: "none"}.get(noted.get("pretrained"))
    return getattr(arch, "__name__", arch), noted.get("weights") or pretrained


def with_precision(
    learn: LeanLearner,
    precision: str,  # auto: as it is; fp32, bf16 or fp16
) -> LeanLearner:
    "`learn`, which computes in `precision` from now on. Raises `InputError` for an unknown one."
    wanted = resolve_precision(precision, learn.dls.device)
    if precision != "auto" and wanted != learn.precision:
        getattr(learn, f"to_{wanted}")()
    return learn
