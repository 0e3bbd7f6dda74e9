"""Search options of a training script with Ray Tune, on held-out images; the winner is trained on all and tested."""

import sys
from types import SimpleNamespace

from fastcore.meta import delegates
from fastcore.script import call_parse

from cifar_fast.options import exit_codes, one_line_errors, sweep_options


@call_parse
@one_line_errors
@delegates(sweep_options)
def main(**options):
    "Search options of a training script, and leave a table, a picture and the winner's run folder."
    with exit_codes():
        from cifar_fast.sweep import Sweep

        sys.exit(Sweep(SimpleNamespace(**options)).execute())
