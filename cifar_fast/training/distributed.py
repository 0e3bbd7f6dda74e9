"""Many processes on one training: each takes its share of every batch's images, gradients are averaged.

For `accelerate launch`, through fastai's `distrib_ctx`. fastai's own DistributedDL moves indices with `.cuda()` and
repeats images to fill the last batch; here the `TensorDL`s shard themselves, on any device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fastai.learner import Learner
from fastai.metrics import AccumMetric
from fastai.torch_core import num_distrib, rank_distrib
from torch import distributed, nn

from cifar_fast.errors import InputError, MissingExtra

try:
    import accelerate  # noqa: F401 - fastai.distributed takes it where it is there
    from fastai.distributed import DistributedTrainer
except ImportError as error:
    raise MissingExtra("distributed", "training in many processes") from error


class ShardedTrainer(DistributedTrainer):
    """fastai's DistributedTrainer for `TensorDL`s, on CPUs (gloo) and GPUs (nccl).

    The model stays as it is, so that callbacks, checkpoints and cached features find what they look for; gradients
    are averaged before each step in one reduction. Batch norms are synchronised on a GPU; on a CPU, which torch has
    no such layer for, all take rank 0's statistics after each epoch. Validation metrics are of all ranks' images.
    """

    order, plain_norms = 9, ()  # before MixedPrecision, which looks for infinite gradients
    noted_anywhere = False  # whether Ctrl-C was pressed in any of the processes, as of the last step

    def before_fit(self):
        "Give all ranks rank 0's weights and order of images, and each its share of them."
        if not all(hasattr(dl, "shard") for dl in self.dls.loaders):
            raise InputError("training in many processes needs DataLoaders of this package")
        self.rank, self.world = rank_distrib(), num_distrib()
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            distributed.broadcast(tensor.data, 0)
        self.plain_norms = sync_norms(self.model) if self.dls.device.type == "cuda" and self.sync_bn else []
        for dl in self.dls.loaders:
            order, dl.epoch = of_first_rank((dl.rng.getstate(), dl.epoch))
            dl.rng.setstate(order)
            dl.shard(self.rank, self.world)
        torch.manual_seed(torch.initial_seed() + self.rank)  # dropout and augmentation differ, orders of images do not

    def before_step(self):
        "Average the gradients, and hear with them of Ctrl-C in any process: all end their fits after the same batch."
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        interruptible = vars(self.learn).get("interruptible")
        noted = grads[0].new_tensor([float(interruptible is not None and interruptible.noted)])
        flat = torch.cat([*(g.flatten() for g in grads), noted])
        distributed.all_reduce(flat)
        flat /= self.world
        *means, noted = flat.split([*(g.numel() for g in grads), 1])
        for grad, mean in zip(grads, means):
            grad.copy_(mean.view_as(grad))
        self.noted_anywhere = bool(noted.item() > 0)

    def after_train(self):
        "Statistics that were not synchronised become those of rank 0."
        for buffer in self.model.buffers():
            distributed.broadcast(buffer, 0)

    def after_validate(self):
        "Sum what the Recorder is about to read, where this was a validation in shares."
        if getattr(self.dl, "world", 1) == 1:
            return
        for metric in self.recorder._valid_mets:
            if hasattr(metric, "total"):
                sums = torch.tensor([float(metric.total), float(metric.count)], dtype=torch.float64)
                sums = sums.to(self.dls.device)
                distributed.all_reduce(sums)
                metric.total, metric.count = sums[0].cpu(), int(sums[1])
            elif isinstance(metric, AccumMetric):
                shares = [None] * self.world
                distributed.all_gather_object(shares, (metric.preds, metric.targs))
                metric.preds, metric.targs = ([x for share in o for x in share] for o in zip(*shares))

    def before_train(self):
        "Nothing is wrapped: the loaders have been sharded."

    before_validate = before_train

    def _backward(self):
        self.learn.loss_grad.backward()

    def after_fit(self):
        "Whole loaders and plain batch norms again."
        for dl in self.dls.loaders:
            dl.shard(0, 1)
        for parent, name, norm in self.plain_norms:
            norm.load_state_dict(getattr(parent, name).state_dict())
            setattr(parent, name, norm)
        self.plain_norms = ()

    after_failed_fit = after_fit


def sync_norms(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Put torch's SyncBatchNorm in place of each batch norm that trains, with its parameters.

    Gives what stood where, to put it back. Frozen ones stay: fastai's BnFreeze does not know SyncBatchNorm.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and any(p.requires_grad for p in child.parameters())
    ]
    for parent, name, child in found:
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    return found


@contextmanager
def shared_training(learn: Learner) -> Iterator[None]:
    "Fits in this context are shared by all processes that were launched together. Raises `MissingExtra`."
    device = learn.dls.device.type
    with learn.distrib_ctx(sync_bn=device == "cuda", **({"cpu": True} if device == "cpu" else {})):
        yield


def of_first_rank(value: Any) -> Any:
    "The first process's value, which is pickled, in place of this process's own. For use within `shared_training`."
    values = [value]
    distributed.broadcast_object_list(values, 0)
    return values[0]
