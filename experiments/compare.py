"""Put runs side by side: one HTML page, one printed table, and for every pair whether the difference is real."""

from fastcore.script import call_parse

from cifar_fast.options import exit_codes, one_line_errors


@call_parse
@one_line_errors
def main(
    *runs: str,  # run folders, or folders that --seeds has filled
    out: str = "comparison.html",  # page to write
):
    "Put runs side by side."
    with exit_codes():
        from pathlib import Path

        from cifar_fast.compare import (
            RESULT_HEADER,
            markdown_table,
            read_methods,
            result_rows,
            verdict_rows,
            write_comparison,
        )
        from cifar_fast.errors import InputError

        if not runs:
            raise InputError("no run is named: give the folders of one or more")
        methods = read_methods(list(dict.fromkeys(runs)))
        page = write_comparison(methods, Path(out))
        print(markdown_table(RESULT_HEADER, result_rows(methods)))
        print("± and ranges are 95 % intervals, over seeds where there are several, else over test images.")
        for row in verdict_rows(methods):
            print("{pair}: {difference} ({interval}), p = {p}: {verdict}. {test}".format(**row))
        print(f"-> {page}")
