"""Own augmentations: a fastai Transform and one of torchvision's, both on whole batches on the device."""

from fastai.vision.all import Transform
from fastai.vision.core import TensorImage

from cifar_fast.experiment import experiment
from cifar_fast.options import rate


class Noise(Transform):
    "Adds noise to training images."

    order, split_idx = 100, 0  # after Normalize; 0: training images alone

    def __init__(self, std):
        self.std = std

    def encodes(self, x: TensorImage):
        return x + self.std * x.new_empty(x.shape).normal_()


@experiment
def own_augmentation(dls, std: rate = 0.1):  # of the noise, in units of the normalised pixels
    "The custom CNN with noise and torchvision's ColorJitter."
    from torchvision.transforms import v2

    from cifar_fast.all import FromTorchvision, custom_learner

    dls.train.after_batch.add([FromTorchvision(v2.ColorJitter(0.2, 0.2)), Noise(std)])
    return custom_learner(dls, width=16)
