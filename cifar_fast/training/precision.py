"""The precision that a training computes in, on whatever device."""

import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.learner import Learner

from cifar_fast.errors import InputError, check

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_precision(
    precision: str,  # auto, fp32, bf16 or fp16
    device: torch.device,  # where the training runs
) -> str:  # fp32, bf16 or fp16
    "What `auto` means on `device`: bf16 where it is the faster one, fp32 otherwise."
    check("precision", precision, precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(torch.device(device)) else "fp32"


def precision_of(learn: Learner) -> str:
    "What the fits of any fastai Learner compute in: fp32, bf16 or fp16."
    found = sorted((cb for cb in learn.cbs if isinstance(cb, MixedPrecision)), key=_asked)
    return found[-1].amp_mode.value if found else "fp32"


def _asked(cb: MixedPrecision) -> bool:
    return getattr(cb, "asked", True)


def has_fast_bf16(device: torch.device) -> bool:
    "Whether `device` multiplies bf16 faster than fp32: AMX, AVX512-BF16 but Intel's, compute capability 8 or newer."
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    has = torch.cpu.get_capabilities()
    # a Xeon without AMX (some clouds hide it) has the instructions, and trains 1.4 times as fast in fp32
    is_intel = str(has.get("cpu_name", "")).startswith("Intel")
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and not is_intel))


class DeviceMixedPrecision(MixedPrecision):
    """fastai's MixedPrecision on whatever device holds the data; fastai's own is silently fp32 without CUDA.

    It keeps fastai's name, `mixed_precision`, by which `load_learner` and `to_fp32` find it. One that nobody asked for
    gives way to another, in whose fits it does nothing. Two that were asked for would leave autocast on for good: they
    are refused.
    """

    name, entered, asked = "mixed_precision", False, True
    in_graph = True  # of `BatchGraphs`: what it does in a batch is work of the device

    def before_fit(self):
        "Set up autocast, and a gradient scaler for fp16. Raises `InputError` where there is another of its kind."
        others = [cb for cb in self.learn.cbs if isinstance(cb, MixedPrecision) and cb is not self and _asked(cb)]
        if others and self.asked:
            raise InputError("the Learner has two precisions: change it by to_bf16(), to_fp16() or to_fp32()")
        if others:
            self.run = False  # until the fit is over
            return None
        self.learn.mixed_precision = self  # which one of an earlier fit alone has taken with it
        device = torch.device(self.dls.device).type
        if device == "cuda":
            return super().before_fit()
        half = self.amp_mode == AMPMode.FP16
        self.autocast = torch.autocast(device, torch.float16 if half else torch.bfloat16)
        self.learn.scaler, self.scales = torch.amp.GradScaler(device, **{**self.kwargs, "enabled": half}), []

    def before_batch(self):
        "Compute in half precision from here."
        if self.entered:  # a callback has cancelled the batch before
            self.after_loss()
        super().before_batch()
        vars(self).update(entered=True)  # past fastai's __setattr__, which takes its time

    def after_loss(self):
        "To here."
        super().after_loss()
        vars(self).update(entered=False)

    def after_fit(self):
        "Leave autocast, where the fit ended within it: else all that follows would compute in half precision."
        if self.entered:
            self.after_loss()
        super().after_fit()

    after_failed_fit = after_fit


def precision_cbs(
    precision: str,  # fp32, bf16 or fp16
    asked: bool = True,  # whether somebody asked for it: else it gives way to a MixedPrecision added by hand
) -> list[Callback]:
    "Callbacks for channels-last training in `precision`."
    mixed = [] if precision == "fp32" else [DeviceMixedPrecision(precision)]
    for cb in mixed:
        cb.asked = asked
    return [ChannelsLast(), *mixed]
