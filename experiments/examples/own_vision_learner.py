"""A plain fastai Learner: `vision_learner`, with a network of torchvision's and fastai's head."""

from typing import Literal

from cifar_fast.experiment import experiment


@experiment
def own_vision_learner(
    dls,
    arch: Literal["resnet18", "squeezenet1_1", "mobilenet_v3_small"] = "squeezenet1_1",  # of torchvision
    pretrained: bool = False,  # start from ImageNet's weights
):
    "fastai's vision_learner, the head alone trained where the body is pretrained."
    from fastai.vision.all import accuracy, vision_learner
    from torchvision import models

    return vision_learner(dls, getattr(models, arch), pretrained=pretrained, metrics=accuracy)
