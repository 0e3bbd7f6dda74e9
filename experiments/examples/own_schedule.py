"""Own schedule, callback and metrics: warm up, then a cosine; a fit of my own as the experiment's only stage."""

from fastai.vision.all import Callback, F1Score, ParamScheduler, SchedCos, SchedLin, combine_scheds, top_k_accuracy
from torch import nn

from cifar_fast.experiment import Stage, experiment


class ClipNorm(Callback):
    "Clips the gradient's norm."

    def before_step(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)


def warm_up(epochs: int, top: float) -> list[Stage]:
    rates = combine_scheds([0.2, 0.8], [SchedLin(top / 10, top), SchedCos(top, 0)])
    return [Stage("train", epochs, lambda learn, cbs: learn.fit(epochs, cbs=[ParamScheduler({"lr": rates}), *cbs]))]


@experiment(stages=warm_up)
def own_schedule(dls, top: float = 3e-3):  # highest learning rate
    "The custom CNN with a warm-up, clipped gradients and more metrics."
    from cifar_fast.all import custom_learner

    return custom_learner(dls, width=16, metrics=[F1Score(average="macro"), top_k_accuracy], cbs=ClipNorm())
