"""An own schedule, callback and metrics: the training has one stage, which says itself how to fit."""

from fastai.vision.all import Callback, F1Score, ParamScheduler, SchedCos, SchedLin, combine_scheds, top_k_accuracy

from cifar_fast.all import Stage, custom_learner, experiment, nn, rate


class ClipNorm(Callback):
    "Clips the gradient's norm."

    def before_step(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)


def warm_up(epochs, top):
    rates = combine_scheds([0.2, 0.8], [SchedLin(top / 10, top), SchedCos(top, 0)])
    return [Stage("train", epochs, lambda learn, cbs: learn.fit(epochs, cbs=[ParamScheduler({"lr": rates}), *cbs]))]


@experiment(stages=warm_up)
def own_schedule(dls, top: rate = 3e-3):  # highest learning rate
    "The custom CNN with a warm-up, clipped gradients and more metrics."
    metrics = [F1Score(average="macro"), top_k_accuracy]
    return custom_learner(dls, width=16, metrics=metrics, cbs=ClipNorm())
