"""Training batches as CUDA graphs: for each, the host copies its indices and starts one graph.

At the article's batch of 64 a GPU needs a quarter of a millisecond for a batch, and Python a whole one to ask for its
kernels. A graph is captured once and holds all of them: gathering and augmenting the images, forward, loss, backward
and the optimizer's step, where it is one of torch's fused ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from fastai.callback.core import Callback, CancelBatchException
from fastai.callback.schedule import ParamScheduler
from fastai.callback.training import GradientClip
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.learner import CastToTensor, Learner
from fastai.optimizer import OptimWrapper
from torch import nn

from cifar_fast.data.augment import (
    AlternatingFlip,
    BatchResize,
    ColorJitter,
    Cutout,
    Erase,
    RandomFlip,
    RandomTranslate,
)
from cifar_fast.data.loaders import TensorDL
from cifar_fast.errors import first_line
from cifar_fast.progress import say
from cifar_fast.training.callbacks.guards import is_own, only_predicts
from cifar_fast.training.host_state import held_by, host_state, plain_values, transforms_of
from cifar_fast.training.precision import precision_of

WARM_UP = 3  # batches that run as without graphs, in which libraries choose their kernels and the optimizer its state
MOST_GRAPHS = 8  # of a fit, whose batches come in few kinds
INSIDE = (
    "after_pred", "after_loss", "before_backward", "after_backward", "after_cancel_backward", "before_step",
    "after_step", "after_cancel_step",
)  # fmt: skip
OF_BATCHES = ("_call_one", "one_batch", "_split", "_do_one_batch", "_backward", "_step")  # methods of a Learner
ON_DEVICE = (
    IntToFloatTensor, Normalize, BatchResize, RandomFlip, AlternatingFlip, RandomTranslate, ColorJitter, Cutout, Erase,
)  # fmt: skip


class DeviceGraph:
    "A function's work on a GPU, captured once and started again."

    def __init__(
        self,
        work: Callable[[], tuple],  # which gives tensors, whose memory each start fills anew
        stream: torch.cuda.Stream,  # to capture on
    ):
        self.graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[stream.device.index]
        before = generator.clone_state()
        try:
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.results = work()
        except BaseException:
            generator.graphsafe_set_state(before)  # which a capture that fails leaves unusable
            raise

    def start(self) -> tuple:
        "Do the work; its results, which the next start overwrites."
        self.graph.replay()
        return self.results


class Rates:
    "An optimizer's learning rates in a tensor that a graph reads."

    def __init__(
        self,
        groups: list[dict],  # of a torch optimizer
        device: torch.device,
    ):
        self.groups, self.is_gpu = groups, device.type != "cpu"
        self.lrs, self.filled = torch.zeros(len(groups), device=device), [None] * len(groups)

    def fill(self) -> None:
        "Take over what the groups say now."
        for i, group in enumerate(self.groups):
            if group["lr"] != self.filled[i]:
                self.filled[i] = group["lr"]
                self.lrs[i].fill_(group["lr"])

    @contextmanager
    def in_groups(self):
        "The groups hold the tensor's elements within the context, and numbers again after it."
        before = [group["lr"] for group in self.groups]
        for group, lr in zip(self.groups, self.lrs):
            group.update({"lr": lr, **({"capturable": self.is_gpu} if "capturable" in group else {})})
        try:
            yield
        finally:
            for group, lr in zip(self.groups, before):
                group.update({"lr": lr, **({"capturable": False} if "capturable" in group else {})})


class NoStep:
    "Stands in for the optimizer while a graph without its step is captured: gradients stay where the graph puts them."

    def __init__(self, opt):
        self.opt = opt

    def __getattr__(self, name):
        return getattr(self.opt, name)

    def step(self) -> None:
        "Leave it to the host."

    zero_grad = step


class BatchGraphs(Callback):
    """Runs the training batches of a fit as graphs, where all that happens in one can be captured.

    Callbacks hear of `before_batch` and `after_batch` as ever. A fit in which one acts inside the batch (between the
    model's call and the optimizer's step), or whose model keeps a state in Python, runs as without graphs, and one line
    says why. So do batches of another size than the first. An optimizer that is none of torch's fused ones, or of which
    more than the rate is scheduled, takes its step from the host. Weights are those of a fit without graphs, to
    rounding; what is drawn at random (dropout, augmentations) is drawn from other numbers.
    """

    order, works, rates = 100, False, None

    def __init__(self, graph: Callable | None = None):  # its class; None: `DeviceGraph` on CUDA, and none elsewhere
        self.kind, self.reason, self.graphs, self.seen = graph, "", {}, {}

    def before_fit(self):
        "Begin without graphs."
        device = torch.device(self.dls.device)
        self.graphs, self.seen, self.stream, self.reason = {}, {}, None, ""
        self.works = not only_predicts(self.learn) and (device.type == "cuda" or self.kind is not None)
        self.make = self.kind or DeviceGraph
        if self.works and device.type == "cuda":
            self.stream = torch.cuda.Stream(device)

    def after_fit(self):
        "Let go of what the graphs hold."
        self.graphs, self.seen, self.works, self.stream, self.rates = {}, {}, False, None, None

    after_failed_fit = after_fit

    def obstacle(self) -> str:
        "Why the batches of this fit cannot be graphs; empty where they can."
        if precision_of(self.learn) == "fp16":
            return "fp16 looks at its gradients on the host"
        for cb in self.learn.cbs:
            if any(listens(cb, event) for event in INSIDE) and not _is_in_graph(cb):
                return f"the callback {cb.name} acts inside them"
        if isinstance(getattr(getattr(self.learn.loss_func, "func", self.learn.loss_func), "__self__", None), Callback):
            return "the loss is a callback's"  # which may hand it something else in each batch
        if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in self.model.modules()):
            return "hooks look into the model"
        return f"{name} is patched" if (name := patched(self.learn)) else ""

    def can_step(self) -> bool:
        "Whether a graph can hold the optimizer's step: of its numbers only the learning rates change."
        if not isinstance(opt := self.learn.opt, OptimWrapper):
            return False  # fastai's own optimizers count in Python
        schedulers = [cb for cb in self.learn.cbs if isinstance(cb, ParamScheduler)]
        if any(set(getattr(cb, "scheds", {})) - {"lr"} for cb in schedulers):
            return False
        return all(o.get("fused") for o in opt.opt.param_groups)  # others begin with a state on the CPU

    def all_batches(self) -> None:
        "The batches of a training epoch."
        learn, dl = self.learn, self.learn.dl
        learn.n_iter = len(dl)
        if any(m._compiled_call_impl is not None for m in learn.model.modules()):
            self.works = False  # torch.compile makes graphs of its own
        elif self.works and (reason := self.obstacle()):
            self.give_up(reason)
        self.steps_on_host = not self.can_step()
        groups = () if self.steps_on_host else learn.opt.opt.param_groups
        if self.rates is None or self.rates.groups is not groups:
            self.rates = Rates(groups, learn.dls.device)
        self.sort_callbacks()
        gathers = self.gathers(dl)
        self.python = self.python_state(dl if gathers else None)
        with nullcontext() if self.stream is None else _own_stream(self.stream):
            for learn.iter, batch in enumerate(dl.slices() if gathers else dl):
                if self.works:
                    self.run_batch(batch, dl if gathers else None)
                else:
                    learn.one_batch(learn.iter, dl.batch_at(batch, dl.epoch) if gathers else batch)

    def sort_callbacks(self) -> None:
        "Which callbacks act in the graph, and which of the others hear of batches."
        sorted_cbs = self.learn.cbs.sorted("order")
        self.inside = [cb for cb in sorted_cbs if _is_in_graph(cb)]
        outside = [cb for cb in sorted_cbs if not _is_in_graph(cb)]
        self.before = [cb for cb in outside if listens(cb, "before_batch")]
        self.after = [cb for cb in outside if listens(cb, "after_batch")]
        self.is_watched = any(map(is_own, outside))

    def gathers(self, dl) -> bool:
        "Whether the graph can take the images itself: nothing on the host touches a batch before the model does."
        if not isinstance(dl, TensorDL) or not all(type(o) in ON_DEVICE for o in dl.after_batch.fs):
            return False
        return all(isinstance(cb, ParamScheduler) for cb in self.before)

    def parts(self, dl: TensorDL | None) -> list:
        "Model, loss and a loader whose images are gathered: what has a state in Python that a callback may change."
        loss = self.learn.loss_func
        parts = [self.learn.model, loss, getattr(loss, "func", None)]  # fastai's losses hold one of torch
        parts += [] if dl is None else [dl.dataset, *transforms_of(dl)]
        return [o for part in parts for o in (part.modules() if isinstance(part, nn.Module) else [part])]

    def python_state(self, dl: TensorDL | None) -> str:
        "The state of `parts`."
        return str(plain_values(self.parts(dl)))

    def state(self) -> tuple:
        "What a callback may change between batches."
        groups = [tuple(v for k, v in o.items() if k not in ("params", "lr")) for o in self.rates.groups]
        grads = tuple(p.requires_grad for p in self.learn.model.parameters())
        return *map(id, (self.learn.model, self.learn.loss_func, self.rates)), grads, str(groups)

    def run_batch(
        self,
        batch,  # int64 (bs,) indices, or tensors as the loader gives them
        dl: TensorDL | None,  # whose images the graph gathers; None: it is given them
    ) -> None:
        "A batch with fastai's events around it: what callbacks outside the graph make of it is what the graph gets."
        learn = self.learn
        try:
            if dl is None:
                learn._split(learn._set_device(batch))
            for cb in self.before:
                cb("before_batch")
            fed = (*learn.xb, *learn.yb) if dl is None else (batch,)
            if (graph := self.graph_for(fed, dl)) is None:
                self.run_from_host(fed, dl)
            else:
                self.take_over(graph.start(fed, dl))
        except CancelBatchException:
            learn("after_cancel_batch")
        for cb in self.after:
            cb("after_batch")

    def run_from_host(self, fed: tuple, dl: TensorDL | None) -> None:
        "A batch as without graphs."
        if dl is not None:
            self.learn._split(dl.batch_at(fed[0], dl.epoch))
        for cb in self.inside:
            cb("before_batch")
        self.learn._do_one_batch()
        for cb in self.inside:
            cb("after_batch")

    def take_over(self, results: tuple) -> None:
        "Let the Learner have what a graph has computed."
        if self.is_watched:  # an unknown callback may collect what the next batch overwrites
            results = tuple(tuple(o.clone() for o in part) for part in results)
        learn = self.learn
        learn.xb, learn.yb, (learn.pred, learn.loss) = results
        learn.loss_grad = learn.loss

    def graph_for(self, fed: tuple, dl: TensorDL | None) -> "CapturedBatch | None":
        "The graph for batches of this kind; None where it is not yet time, or there are too many kinds."
        if not self.works:
            return None
        if self.is_watched:
            self.python = self.python_state(dl)
        key = (dl is None, *((type(o), o.shape, o.dtype) for o in fed), self.python, *self.state())
        if key not in self.graphs:
            self.seen[key] = self.seen.get(key, 0) + 1
            if self.seen[key] <= WARM_UP or len(self.graphs) >= MOST_GRAPHS:
                return None
            self.graphs[key] = self.capture(fed, dl)
        return self.graphs[key]

    def capture(self, fed: tuple, dl: TensorDL | None) -> "CapturedBatch | None":
        "A graph of one batch; None, once and for all in this fit, where something in it cannot be captured."
        before = host_state(self.learn.model)
        try:
            res = CapturedBatch(self, fed, dl)
        except RuntimeError as error:
            self.give_up(f"one could not be captured ({first_line(error)})")
        else:
            if host_state(self.learn.model) == before:
                return res
            self.give_up("the model draws random numbers, or counts, in Python")
        self.learn.opt.zero_grad()
        return None

    def give_up(self, reason: str) -> None:
        "Run what is left of the fit from the host, and say so."
        self.works, self.reason = False, reason
        say(f"Batches run from the host: {reason}.")


class CapturedBatch:
    "The graph of one kind of batch, and the memory that it reads: indices of images, or the batch itself."

    def __init__(
        self,
        owner: BatchGraphs,
        fed: tuple,  # int64 (bs,) indices, or inputs and targets
        dl: TensorDL | None,  # whose images the graph gathers; None: it is given them
    ):
        self.owner, self.dl = owner, dl
        self.kept = owner.rates, [(o, held_by(o)) for o in owner.parts(dl)]  # whose ids its key has
        self.fed = tuple(o.clone() for o in fed)
        self.epoch = torch.zeros((), dtype=torch.int64, device=owner.learn.dls.device)
        self.alternates = dl is not None and any(isinstance(o, AlternatingFlip) for o in transforms_of(dl))
        self.graph = owner.make(self.work, owner.stream)

    def start(
        self,
        fed: tuple,
        dl: TensorDL | None,  # of this epoch: that of cached features is another in each
    ) -> tuple:
        "Run the batch `fed`; its inputs, its targets, and (predictions, loss)."
        for mine, given in zip(self.fed, fed):
            mine.copy_(given, non_blocking=True)
        if self.alternates:
            self.epoch.fill_(dl.epoch)
        self.owner.rates.fill()
        *res, grads = self.graph.start()
        if self.owner.steps_on_host:
            learn = self.owner.learn
            for p, grad in zip(learn.model.parameters(), grads):
                p.grad = grad
            learn.opt.step()
            learn.opt.zero_grad()
        return tuple(res)

    def work(self) -> tuple:
        "All that a batch is, callbacks that act inside it included."
        owner, learn = self.owner, self.owner.learn
        learn._split(self.fed if self.dl is None else self.dl.batch_at(self.fed[0], self.epoch))
        for p in learn.model.parameters():
            p.grad = None  # so that backward writes gradients in place of adding to them
        opt = learn.opt
        learn.opt = NoStep(opt) if owner.steps_on_host else opt
        try:
            with owner.rates.in_groups():
                for cb in owner.inside:
                    cb("before_batch")
                learn._do_one_batch()
                for cb in owner.inside:
                    cb("after_batch")
        finally:
            learn.opt = opt
        grads = [p.grad for p in learn.model.parameters()]
        return learn.xb, learn.yb, (learn.pred.detach(), learn.loss.detach()), grads


@contextmanager
def _own_stream(stream: torch.cuda.Stream) -> Iterator[None]:
    "On the stream that graphs are captured on, which waits for what came before and is waited for."
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            yield
    finally:  # a callback may have ended the epoch
        torch.cuda.current_stream().wait_stream(stream)


def listens(cb: Callback, event: str) -> bool:
    "Whether `cb` does something at `event`, by a method, a function given to it, or a `__call__` of its own."
    return event in vars(cb) or hasattr(type(cb), event) or type(cb).__call__ is not Callback.__call__


def is_patched(
    learn: Learner | type,
    name: str,  # of a method
) -> bool:
    "Whether a notebook has put a method of its own in place of fastai's and this package's."
    module = getattr(getattr(learn, name), "__globals__", {}).get("__name__", "")
    return not module.startswith(("fastai.", "cifar_fast."))


def patched(learn: Learner) -> str:
    "A method, of those that make a batch, which a notebook has put in place; empty where there is none."
    return next((o for o in OF_BATCHES if is_patched(learn, o) or is_patched(Learner, o)), "")


def _is_in_graph(cb: Callback) -> bool:
    "Whether what `cb` does in a batch is work of the device alone, the same in each."
    return getattr(type(cb), "in_graph", False) or type(cb) in (CastToTensor, GradientClip)
