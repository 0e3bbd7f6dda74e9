"""What the record recipes do beside a plain fit: growing images, hard images, a brief bias, test-time views."""

from math import inf

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.learner import Learner
from torch import Tensor

from cifar_fast.data.loaders import TensorDL
from cifar_fast.errors import InputError, check
from cifar_fast.models.recordnet import RecordNet
from cifar_fast.progress import say
from cifar_fast.training.callbacks.guards import only_predicts


class TestTimeViews(Callback):
    """Predicts from several views of each image: itself and its mirror image, and both shifted by a pixel.

    The unshifted pair counts as much as the two shifted pairs together, one up and left, one down and right, the
    border reflected (Jordan 2024, airbench94). For `validate`, `get_preds` and whatever uses them.
    """

    order, run_train, __test__ = 1, False, False  # pytest takes no names for tests

    def __init__(
        self,
        views: int = 6,  # 1, 2 or 6
    ):
        check("views", views, views in (1, 2, 6), "1, 2 or 6")
        self.views = views

    def after_pred(self):
        "Replace the image's logits by the views' weighted mean."
        if self.training or self.views == 1:
            return
        x, pair = self.xb[0].as_subclass(Tensor), 0.5 if self.views == 2 else 0.25
        pred = pair * self.pred + pair * self.model(x.flip(-1))
        for shifted in shifts(x) if self.views == 6 else ():
            pred = pred + 0.125 * self.model(shifted)
            pred = pred + 0.125 * self.model(shifted.flip(-1))
        self.learn.pred = pred


def shifts(x: Tensor) -> list[Tensor]:
    "Images (N, C, H, W) shifted by a pixel down and right, and up and left."
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return [padded[:, :, :-2, :-2], padded[:, :, 2:, 2:]]


def position(learn: Learner) -> float:
    "How much of its fit `learn` has behind it, from 0 to 1; for lr_find, which is to see one kind of batch, always 0."
    return 0.0 if "lr_finder" in vars(learn) else learn.pct_train


class GrowingImages(Callback):
    """Shrinks the training images at first, whose batches then take less time; the last part of a fit sees them whole.

    Source: Howard 2018, "Training Imagenet in 3 hours for USD 25; and CIFAR10 for USD 0.26" (progressive resizing).
    """

    order, run_valid = 2, False

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = sizes  # pixels of a side in as many equal parts of the fit; one more part follows

    def before_batch(self):
        "Shrink."
        part = int(position(self.learn) * (len(self.sizes) + 1))
        if part < len(self.sizes) and self.sizes[part] < self.xb[0].shape[-1]:
            x = self.xb[0].as_subclass(Tensor)
            self.learn.xb = (F.interpolate(x, size=self.sizes[part], mode="bilinear", antialias=True),)


class HardImages(Callback):
    """Trains on fewer images towards the end of a fit: on those whose loss was highest when each was last seen.

    An image that the network knows teaches it little, and takes as long as any other. Images are ranked by plain
    cross-entropy, whatever the Learner's loss is. Sources: Loshchilov and Hutter 2015, "Online Batch Selection for
    Faster Training of Neural Networks", whose losses are remembered likewise; Jordan 2024, airbench96, whose hard
    images a smaller network chooses.
    """

    order, run_valid = -1, False  # before a user's callbacks, which may hand on a batch that does not say its idxs
    loss_of: Tensor | None = None  # float (N,) of each image when it was last seen; None: nothing is chosen

    def __init__(self, shares: tuple[float, ...]):
        self.shares = shares  # of the images, in as many equal parts of the fit's epochs

    def before_fit(self):
        "Nothing is known of any image. Predictions within a fit change nothing."
        if only_predicts(self.learn):
            return
        if isinstance(self.dls.train, TensorDL):
            self.loss_of = torch.full((len(self.dls.train_ds),), inf, device=self.dls.device)
        else:
            say("All images are trained on to the end: hard ones are chosen in loaders of cifar_dls or image_dls.")

    def before_epoch(self):
        "Choose the epoch's images: all, where no loss is known."
        if self.loss_of is None or only_predicts(self.learn):
            return
        share = self.shares[self.epoch * len(self.shares) // self.n_epoch]
        self.dls.train.take(self.hardest(share) if share < 1 and self.loss_of.isfinite().any() else None)
        self.seen = torch.full_like(self.loss_of, inf)

    def hardest(self, share: float) -> Tensor:
        "Indices of that share of the images, at least of a batch: int64 (k,)."
        k = max(round(share * len(self.loss_of)), self.dls.train.bs * self.dls.train.world)
        return self.loss_of.topk(min(k, len(self.loss_of))).indices

    def before_batch(self):
        "Note which images they are."
        self.idxs = getattr(self.xb[0], "idxs", None)

    def after_cancel_batch(self):
        "Nothing was said of them."
        self.idxs = None

    def after_batch(self):
        "Note how well each is known."
        if self.loss_of is not None and self.idxs is not None and len(self.idxs) == len(self.pred):
            pred, y = self.pred.detach().as_subclass(Tensor).float(), self.yb[0].as_subclass(Tensor)
            self.seen[self.idxs] = F.cross_entropy(pred, y, reduction="none")

    def after_train(self):
        "Put the epoch's losses in place of older ones; processes that share the images tell each other theirs."
        if self.loss_of is not None:
            if self.dls.train.world > 1:
                dist.all_reduce(self.seen, dist.ReduceOp.MIN)
            self.loss_of = torch.where(self.seen.isinf(), self.loss_of, self.seen)

    def after_fit(self):
        "What follows takes all images."
        if self.loss_of is not None and not only_predicts(self.learn):
            self.dls.train.take(None)
            self.loss_of = None

    after_failed_fit = after_fit

    def state_dict(self) -> dict:
        "What a run that goes on must find again."
        return {"loss_of": self.loss_of}

    def load_state_dict(self, state: dict) -> None:
        "Take it."
        self.loss_of.copy_(state["loss_of"])


class BriefBias(Callback):
    "Trains the whitening layer's bias in a fit's first part only: without it backward ends before the first layer."

    run_valid, frozen = False, False

    def __init__(self, share: float):
        self.share = share  # of the fit, in which the bias is trained

    def before_train(self):
        "Look at the network, which a user may have replaced. Raises `InputError`."
        if not isinstance(self.model, RecordNet):
            raise InputError("the record recipe trains a RecordNet: give another network to fast_learner")

    def before_batch(self):
        "Freeze it in time."
        bias = self.model.whitening.bias
        if bias.requires_grad and position(self.learn) >= self.share:
            bias.requires_grad_(False)
            self.frozen = True

    def after_fit(self):
        "What follows finds it as it was."
        if self.frozen:
            self.model.whitening.bias.requires_grad_(True)
            self.frozen = False

    after_failed_fit = after_fit
