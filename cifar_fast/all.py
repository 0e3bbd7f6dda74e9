"""What a notebook needs: `from cifar_fast.all import *` brings this package's names and fastai's own."""

import warnings
from typing import Literal  # an own parameter's choices

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of libraries that fastai imports
    from fastai.vision.all import *
    from torchvision import models

from cifar_fast.analysis.asking import features_of, logits_of, predictions_of
from cifar_fast.analysis.charts import History, plot_complexity, plot_curves
from cifar_fast.analysis.confidence import (
    energy,
    fit_temperature,
    ood_auroc,
    plot_energies,
    plot_selective,
    selective_accuracy,
    with_temperature,
)
from cifar_fast.analysis.ensemble import Ensemble, ensemble
from cifar_fast.analysis.explain import grad_cam, integrated_gradients, plot_looks
from cifar_fast.analysis.featuremaps import feature_maps, image_layers, plot_channel, plot_layer
from cifar_fast.analysis.interpret import (
    TestInterpretation,
    plot_calibration,
    plot_confused,
    plot_confusion,
    plot_confusion_difference,
    plot_per_class,
    plot_top_losses,
)
from cifar_fast.analysis.labels import Suspect, found_among, plot_suspects, suspicious_labels
from cifar_fast.analysis.neighbours import nearest, plot_grid, plot_map, plot_neighbours
from cifar_fast.analysis.predictions import Predictions
from cifar_fast.analysis.shift import measure_shift, plot_kinds, plot_shift, shifted
from cifar_fast.analysis.stats import compare_methods, compare_models, compare_sets, mean_interval
from cifar_fast.baselines import custom, record, transfer
from cifar_fast.commands import evaluate
from cifar_fast.data.augment import (
    AlternatingFlip,
    BatchResize,
    Cutout,
    FromTorchvision,
    RandomFlip,
    RandomTranslate,
    TrainTransform,
    augmentations,
)
from cifar_fast.data.duplicates import exact_duplicates, near_duplicates
from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.labelled_sets import read_labelled_sets
from cifar_fast.data.loaders import TensorDataLoaders, TensorDL, cifar_dls, image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.data.tensors import ImageTensors
from cifar_fast.deploy.export import model_card
from cifar_fast.deploy.predictor import Prediction, Predictor
from cifar_fast.deploy.safemodel import SafeModel, load_safe
from cifar_fast.errors import ImageError, InputError, MissingExtra
from cifar_fast.experiment import Experiment, Stage, experiment, load_experiment
from cifar_fast.models.networks import CustomCNN, TransferModel
from cifar_fast.models.transfer import load_weights, transfer_model
from cifar_fast.options import amount, count, pixels, rate, share
from cifar_fast.records.callbacks import TestTimeViews
from cifar_fast.records.recipes import RECIPES, Recipe, record_learner
from cifar_fast.runs.by_hand import write_run
from cifar_fast.runs.compare import compare
from cifar_fast.runs.overview import list_runs
from cifar_fast.runs.results import FinishedRun, Runs
from cifar_fast.training.callbacks.clip import AdaptiveGradientClip
from cifar_fast.training.callbacks.compiled import Compiled
from cifar_fast.training.callbacks.guards import HonestChoice, Interruptible, StopOnNaN, only_predicts
from cifar_fast.training.callbacks.measure import Stopwatch, TrainAccuracy, some_train_dl
from cifar_fast.training.callbacks.progress import DeviceSmoothLoss, EpochProgress, LastFit, LossesToCPU
from cifar_fast.training.frozen import CachedBody
from cifar_fast.training.learner import custom_learner, fast_learner, transfer_learner
from cifar_fast.training.precision import DeviceMixedPrecision, precision_cbs, resolve_precision
from cifar_fast.training.schedules import LRDecay, SchedStep
