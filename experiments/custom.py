"""Train the article's custom CNN, or a variant of it: cases 3 (--schedule constant) and 4 (--schedule decay)."""

from fastcore.meta import delegates
from fastcore.script import call_parse

from cifar_fast.options import custom_options, exit_codes, one_line_errors


@call_parse
@one_line_errors
@delegates(custom_options)
def main(**options):
    "Train the article's custom CNN, or a variant of it, and leave a run folder."
    with exit_codes():
        from cifar_fast.launch import run_experiment

        run_experiment("custom", options)
