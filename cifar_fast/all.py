"""What a notebook needs: `from cifar_fast.all import *` brings this package's names and fastai's own."""

from fastai.vision.all import *

from cifar_fast.augment import *
from cifar_fast.callbacks import *
from cifar_fast.data import load_images
from cifar_fast.errors import InputError
from cifar_fast.formats import ImageSet
from cifar_fast.frozen import CachedBody
from cifar_fast.interpret import TestInterpretation, plot_confusion, plot_curves, plot_top_losses
from cifar_fast.learner import custom_learner, fast_learner, transfer_learner
from cifar_fast.loader import ImageTensors, TensorDataLoaders, TensorDL, cifar_dls, image_dls
from cifar_fast.models import CustomCNN, TransferModel
from cifar_fast.resnets import resnet_model
from cifar_fast.schedules import LRDecay, SchedStep
