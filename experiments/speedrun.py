"""Train by a record recipe against the clock: to 90, 94 or 96 % on CIFAR-10."""

from types import SimpleNamespace

from fastcore.meta import delegates
from fastcore.script import call_parse

from cifar_fast.options import exit_codes, one_line_errors, speedrun_options


@call_parse
@one_line_errors
@delegates(speedrun_options)
def main(**options):
    "Train by a record recipe, timed, as often as asked, and leave a run folder."
    with exit_codes():
        from cifar_fast.speedrun import Speedrun

        Speedrun(SimpleNamespace(**options)).execute()
