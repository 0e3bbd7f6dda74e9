"""Train a new head on a frozen pretrained ResNet: the article's cases 1 (--opt adam) and 2 (--opt sgd)."""

from fastcore.meta import delegates
from fastcore.script import call_parse

from cifar_fast.options import exit_codes, one_line_errors, transfer_options


@call_parse
@one_line_errors
@delegates(transfer_options)
def main(**options):
    "Train a new head on a frozen pretrained ResNet, and leave a run folder."
    with exit_codes():
        import cifar_fast.resnets  # noqa: F401 - now: peak memory is counted above what the imports hold
        from cifar_fast.launch import run_experiment

        run_experiment("transfer", options)
