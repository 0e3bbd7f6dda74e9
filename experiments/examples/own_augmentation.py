"""Own augmentations of training images: a fastai Transform for whole batches, and one of torchvision's."""

from torchvision.transforms import v2

from cifar_fast.all import FromTorchvision, TensorImage, TrainTransform, custom_learner, experiment, rate


class Noise(TrainTransform):
    "Adds noise."

    order = 100  # after Normalize

    def __init__(self, std):
        super().__init__()
        self.std = std

    def encodes(self, x: TensorImage):
        return x + self.std * x.new_empty(x.shape).normal_()


@experiment
def own_augmentation(dls, std: rate = 0.1):  # of the noise, in units of the normalised pixels
    "The custom CNN with noise and torchvision's ColorJitter."
    dls.train.after_batch.add([FromTorchvision(v2.ColorJitter(0.2, 0.2)), Noise(std)])
    return custom_learner(dls, width=16)
