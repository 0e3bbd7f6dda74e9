"""The experiments that come with the package: the article's two trainings, and the record recipes.

They have no way in that others have not: read them as examples. Heavy imports stand inside, for a quick `--help`.
"""

from typing import Literal

from cifar_fast.experiment import Stage, experiment
from cifar_fast.options import amount, count, opt_name, rate, share


@experiment
def custom(
    dls,
    opt: opt_name = "adam",  # optimizer; both: the better of adam and sgd on held-out images
    convs: count = 3,  # convolutions
    width: count = 32,  # filters of the first convolution; each has twice those of the one before
    dense: count = 2,  # dense layers, the output layer among them
    dense_width: count = 512,  # units of the hidden dense layers
    conv_dropout: share = 0.0,  # dropout after the convolutions
    dropout: share = 0.5,  # dropout after the hidden dense layer
    logit_dropout: share = 0.5,  # dropout on the logits, as in the article; 0 leaves it out
    bn: bool = True,  # batch norm after each hidden dense layer
    agc: share = 0.0,  # adaptive gradient clipping at this ratio; 0 for none
):
    "Train the article's custom CNN, or a variant of it: cases 3 (--schedule constant) and 4 (--schedule decay)."
    from cifar_fast.training.callbacks.clip import AdaptiveGradientClip
    from cifar_fast.training.learner import custom_learner

    return custom_learner(
        dls, opt=opt, n_convs=convs, width=width, n_dense=dense, dense_width=dense_width,
        conv_dropout=conv_dropout, dropout=dropout, logit_dropout=logit_dropout, bn=bn,
        cbs=AdaptiveGradientClip(agc) if agc else None,
    )  # fmt: skip


def fine_tuned(epochs: int, unfreeze_epochs: int, unfreeze_lr: float) -> list[Stage]:
    "The head as the shared options say, then the whole network, the body's first layers at a hundredth of the rate."
    import cifar_fast.models.transfer  # noqa: F401 - now, before a run begins: its peak memory is counted above the imports

    def fine_tune(learn, cbs):
        learn.unfreeze()
        learn.fit_one_cycle(unfreeze_epochs, slice(unfreeze_lr / 100, unfreeze_lr), cbs=cbs, reset_opt=True)

    return [Stage("train", epochs), Stage("fine-tune", unfreeze_epochs, fine_tune)]


FEATURES: dict = {}  # of frozen bodies, which the Learners of a run's seeds share


@experiment(stages=fine_tuned)
def transfer(
    dls,
    weights: str = "auto",  # of the body: auto, imagenet, an entry as IMAGENET1K_V2, none, or the path of a state dict
    arch: str = "resnet18",  # any network of torchvision, as vgg16_bn or convnext_tiny, or timm/NAME
    head: Literal["linear", "fastai"] = "linear",  # linear: one dense layer; fastai: its default head
    opt: opt_name = "adam",  # optimizer; both: the better of adam and sgd on held-out images
    frozen_bn: Literal["eval", "always", "train"] = "eval",  # its batch norms keep still while frozen, always, never
    unfreeze_epochs: amount = 0,  # epochs of fine-tuning the whole network afterwards
    unfreeze_lr: rate = 1e-3,  # highest learning rate of the fine-tuning; the body's first layers get a hundredth
    cache_features: bool = False,  # keep the frozen body's features on the disk, for other runs
):
    "Train a new head on a frozen pretrained network: the article's cases 1 (--opt adam) and 2 (--opt sgd)."
    from cifar_fast.training.learner import transfer_learner

    return transfer_learner(
        dls, arch, weights, head, frozen_bn=frozen_bn, cache=FEATURES, cache_on_disk=cache_features, opt=opt
    )  # fmt: skip


def by_recipe(target: int, epochs: int, lr: float) -> list[Stage]:
    "The record recipe's own schedule."
    from cifar_fast.records.recipes import RECIPES

    epochs = epochs or RECIPES[target].epochs
    return [Stage("train", epochs, lambda learn, cbs: learn.fit_record(epochs, lr, cbs=cbs))]


@experiment(stages=by_recipe)
def record(
    dls,
    target: Literal[90, 94, 96] = 90,  # percent on CIFAR-10 that the recipe is made for
    epochs: amount = 0,  # training epochs; 0: the recipe's
    bs: amount = 0,  # images a batch; 0: the recipe's
    lr: rate = 1.0,  # factor of the recipe's rates
    opt: Literal["muon"] = "muon",  # optimizer
    schedule: Literal["linear"] = "linear",  # how the rates fall
    flip: Literal["recipe", "none", "random", "alternating"] = "recipe",  # mirror training images
    translate: int = -1,  # shift training images by up to so many pixels; -1: as the recipe
    cutout: int = -1,  # blank a square of so many pixels in training images; -1: as the recipe
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",  # auto: bf16 where it is faster
    compile: bool = False,  # run network and optimizer through torch.compile
):
    "Train the record network by a recipe: to 90, 94 or 96 % on CIFAR-10."
    from cifar_fast.records.recipes import record_learner

    asked = {"bs": bs or None, "flip": None if flip == "recipe" else flip}
    asked |= {name: None if o < 0 else o for name, o in (("translate", translate), ("cutout", cutout))}
    return record_learner(dls, target, precision, compile, **{k: v for k, v in asked.items() if v is not None})
