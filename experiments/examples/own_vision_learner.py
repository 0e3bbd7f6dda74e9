"""A plain fastai Learner: `vision_learner`, with a network of torchvision's and fastai's head."""

from typing import Literal

from cifar_fast.all import accuracy, experiment, models, vision_learner


@experiment
def own_vision_learner(
    dls,
    arch: Literal["resnet18", "squeezenet1_1", "mobilenet_v3_small"] = "squeezenet1_1",  # of torchvision
    pretrained: bool = False,  # start from ImageNet's weights
):
    "fastai's vision_learner; of a pretrained network it trains the head alone."
    return vision_learner(dls, getattr(models, arch), pretrained=pretrained, metrics=accuracy)
