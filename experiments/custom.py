"""Train the article's custom CNN, or a variant of it: cases 3 (--schedule constant) and 4 (--schedule decay)."""

from typing import Annotated

from fastcore.meta import delegates
from fastcore.script import call_parse

from cifar_fast.options import choice, count, exit_codes, share, training_options


@call_parse
@delegates(training_options)
def main(
    opt: Annotated[str, choice("adam", "sgd", "both")] = "adam",  # optimizer; both: the better on held-out images
    convs: count = 3,  # convolutions
    width: count = 32,  # filters of the first convolution; each has twice those of the one before
    dense: count = 2,  # dense layers, the output layer among them
    conv_dropout: share = 0.0,  # dropout after the convolutions
    dropout: share = 0.5,  # dropout after the hidden dense layer
    logit_dropout: share = 0.5,  # dropout on the logits, as in the article; 0 leaves it out
    no_bn: bool = False,  # leave batch norm out
    agc: share = 0.0,  # adaptive gradient clipping at this ratio; 0 for none
    **kwargs,
):
    "Train the article's custom CNN, or a variant of it, and leave a run folder."
    options = {**locals(), **kwargs}
    del options["kwargs"]
    with exit_codes():
        from cifar_fast.callbacks import AdaptiveGradientClip
        from cifar_fast.experiment import run_experiment
        from cifar_fast.learner import custom_learner

        def make_learner(dls, opt):
            return custom_learner(
                dls, kwargs["size"], opt, precision=kwargs["precision"], compile=kwargs["compile"], n_convs=convs,
                width=width, n_dense=dense, conv_dropout=conv_dropout, dropout=dropout, logit_dropout=logit_dropout,
                bn=not no_bn, cbs=AdaptiveGradientClip(agc) if agc else None,
            )  # fmt: skip

        run_experiment("custom", options, make_learner)
