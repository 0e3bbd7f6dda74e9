"""What a notebook needs: `from cifar_fast.all import *` brings this package's names and fastai's own."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of libraries that fastai imports
    from fastai.vision.all import *
    from torchvision import models

from cifar_fast.augment import *
from cifar_fast.baselines import custom, record, transfer
from cifar_fast.byhand import write_run
from cifar_fast.callbacks import *
from cifar_fast.charts import History, plot_complexity, plot_curves
from cifar_fast.compare import compare
from cifar_fast.data import load_images
from cifar_fast.errors import ImageError, InputError, MissingExtra
from cifar_fast.experiment import Experiment, Stage, experiment, load_experiment
from cifar_fast.export import model_card
from cifar_fast.featuremaps import feature_maps, image_layers, plot_channel, plot_layer
from cifar_fast.formats import ImageSet
from cifar_fast.frozen import CachedBody
from cifar_fast.interpret import (
    TestInterpretation,
    plot_calibration,
    plot_confused,
    plot_confusion,
    plot_confusion_difference,
    plot_per_class,
    plot_top_losses,
)
from cifar_fast.learner import custom_learner, fast_learner, transfer_learner
from cifar_fast.loader import ImageTensors, TensorDataLoaders, TensorDL, cifar_dls, image_dls
from cifar_fast.models import CustomCNN, TransferModel
from cifar_fast.options import amount, count, pixels, rate, share
from cifar_fast.overview import list_runs
from cifar_fast.precision import DeviceMixedPrecision, precision_cbs, resolve_precision
from cifar_fast.predict import Prediction, Predictor
from cifar_fast.predictions import Predictions
from cifar_fast.record import RECIPES, Recipe, TestTimeViews, record_learner
from cifar_fast.resnets import resnet_model
from cifar_fast.results import FinishedRun, Runs
from cifar_fast.safemodel import SafeModel, load_safe
from cifar_fast.schedules import LRDecay, SchedStep
from cifar_fast.stats import compare_methods, compare_models, mean_interval
