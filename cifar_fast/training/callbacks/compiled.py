"""torch.compile for the fits of a Learner, with its seconds counted apart."""

import time

import torch
from fastai.callback.core import Callback

from cifar_fast.device import time_when_done
from cifar_fast.errors import InputError
from cifar_fast.training.callbacks.guards import only_predicts


def check_compiler() -> None:
    "Raises `InputError` where there is no C++ compiler, without which torch.compile ends at the first batch."
    from torch._inductor.cpp_builder import get_cpp_compiler  # a second, which others need not wait for
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise InputError("compiling needs a C++ compiler: install g++, name one by $CXX, or leave it out") from error


class Compiled(Callback):
    """Runs the model through torch.compile from the first fit on: a Learner that is loaded to predict stays as it is.

    `seconds` is the time of the training batches that had it compile.
    """

    order, seconds, began, graphs = 9, 0.0, 0.0, 0

    def __init__(
        self,
        **kwargs,  # of torch.compile: mode, dynamic, ...
    ):
        self.kwargs = kwargs

    def before_fit(self):
        "Compile, when the first batch comes."
        if only_predicts(self.learn):
            return
        if self.dls.device.type == "cpu" and self.kwargs.get("backend", "inductor") == "inductor":
            check_compiler()
        # torch counts what it compiles for all networks of a class together, and at 8 goes on uncompiled
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        if self.model._compiled_call_impl is None:
            self.model.compile(**self.kwargs)

    def before_batch(self):
        "Note how many graphs there are."
        self.graphs, self.began = self._n_graphs(), time.perf_counter()

    def after_batch(self):
        "Count the batch, if there are more now: one of another size compiles again."
        if self.training and self._n_graphs() > self.graphs:
            self.seconds += time_when_done(self.dls.device) - self.began

    def _n_graphs(self) -> int:
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]
