"""Train a new head on a frozen pretrained ResNet: the article's cases 1 (--opt adam) and 2 (--opt sgd)."""

from typing import Annotated

from fastcore.meta import delegates
from fastcore.script import call_parse

from cifar_fast.options import amount, choice, exit_codes, rate, training_options


@call_parse
@delegates(training_options)
def main(
    weights: str = "auto",  # of the body: auto, imagenet, none, or the path of a .pth or .safetensors state dict
    arch: str = "resnet18",  # a torchvision ResNet
    head: Annotated[str, choice("linear", "fastai")] = "linear",  # linear: one dense layer; fastai: its default head
    opt: Annotated[str, choice("adam", "sgd", "both")] = "adam",  # optimizer; both: the better on held-out images
    frozen_bn: Annotated[str, choice("eval", "train")] = "eval",  # train: batch norm statistics of the body move
    unfreeze_epochs: amount = 0,  # epochs of fine-tuning the whole network afterwards
    unfreeze_lr: rate = 1e-3,  # highest learning rate of the fine-tuning; the body's first layers get a hundredth
    cache_features: bool = False,  # keep the frozen body's features on the disk, for other runs
    **kwargs,
):
    "Train a new head on a frozen pretrained ResNet, and leave a run folder."
    options = {**locals(), **kwargs}
    del options["kwargs"]
    with exit_codes():
        import cifar_fast.resnets  # noqa: F401 - now: peak memory is counted above what the imports hold
        from cifar_fast.experiment import run_experiment
        from cifar_fast.learner import transfer_learner

        def make_learner(dls, opt):
            return transfer_learner(
                dls, arch, weights, head, kwargs["size"], frozen_bn, cache_on_disk=cache_features, opt=opt,
                precision=kwargs["precision"], compile=kwargs["compile"],
            )  # fmt: skip

        run_experiment("transfer", options, make_learner)
