"""The famous networks by torchvision's published entries, and yours among them: the article's figures 5 and 6."""

from cifar_fast.cli import command


@command
def main(
    runs: str = "",  # folders of runs to draw among them, comma-separated
    out: str = "models.png",  # picture to write
):
    "Print accuracy, operations and parameters of torchvision's networks, and draw them; needs no network."
    from pathlib import Path

    from article.published import plot_published, published
    from cifar_fast.errors import InputError
    from cifar_fast.files import write_atomically
    from cifar_fast.runs.results import Runs

    kind = Path(out).suffix.removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"--out is {out!r}: give the name of a .png, .svg or .pdf file")
    folders = [Runs.read(Path(o)) for o in runs.split(",") if o]
    figure = plot_published({o.name: o.first.metrics for o in folders})
    print("| network | top-1 | top-5 | billion multiply-accumulates | million parameters | weights |")
    print("|---|---|---|---|---|---|")
    for o in published():
        print(f"| {o.name} | {o.top1:.1%} | {o.top5:.1%} | {o.gmacs:.2f} | {o.params / 1e6:.1f} | {o.entry} |")
    write_atomically(Path(out).absolute(), lambda tmp: figure.savefig(tmp, format=kind, dpi=120))
    print(f"-> {out}")
