"""One run's folder: config.json, history.csv, metrics.json, figures and the exported Learner."""

import csv
import json
import platform
import re
import shutil
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import matplotlib
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from cifar_fast.data import write_atomically
from cifar_fast.errors import InputError
from cifar_fast.interpret import TestInterpretation, plot_confusion, plot_curves, plot_top_losses


class Run:
    "A folder that one training fills. A folder that holds anything is refused, never overwritten."

    def __init__(
        self,
        folder: str | Path | None,  # None: runs/<name>-<date>-<time>
        name: str = "run",  # for the default folder
    ):
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        self.folder = Path(folder) if folder else Path("runs") / f"{name}-{stamp}"
        try:
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise InputError(f"{self.folder} is there already and not empty: give --run another folder")
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made ({error.strerror}): give --run another folder") from error
        self.history: list[dict] = []
        self.memory_before = peak_memory_mb()

    def discard(self) -> None:
        "Remove the folder and what is in it, where unusable input ends the run before anything was learnt."
        if not self.history:
            shutil.rmtree(self.folder)

    def write_json(self, name: str, content: dict) -> None:
        "Write `content` as `name`, whole or not at all."
        text = json.dumps(content, indent=2, default=str) + "\n"
        write_atomically(self.folder / name, lambda tmp: tmp.write_text(text))

    def write_figure(self, name: str, figure: Figure) -> None:
        "Save `figure` as `name` and close it."
        write_atomically(self.folder / name, lambda tmp: figure.savefig(tmp, dpi=110))
        matplotlib.pyplot.close(figure)

    def add_epoch(self, row: dict) -> None:
        "Append an epoch to the history, and write history.csv anew."
        self.history.append({**row, "epoch": len(self.history)})

        def write(tmp: Path) -> None:
            with tmp.open("w", newline="") as out:
                writer = csv.DictWriter(out, list(self.history[0]), extrasaction="ignore")
                writer.writeheader()
                writer.writerows(self.history)

        write_atomically(self.folder / "history.csv", write)

    def finish(
        self,
        learn: Learner,  # trained
        title: str,  # of the figures: what data and weights these are
        about: dict,  # further entries of metrics.json
    ) -> dict:  # the metrics
        "Export the Learner, test it, and write the figures and metrics.json, the last of all."
        learn.path = self.folder
        learn.export("export.pkl")
        interp = TestInterpretation.from_learner(learn)
        if trained := [row for row in self.history if not row["stage"].startswith("choose")]:
            self.write_figure("curves.png", plot_curves(trained, title))
        self.write_figure("confusion.png", plot_confusion(interp, f"{title}: {interp.accuracy:.2%}"))
        self.write_figure("top_losses.png", plot_top_losses(interp, title=title))
        metrics = {
            **about,
            "accuracy": interp.accuracy,
            "loss": interp.loss,
            "per_class_accuracy": interp.per_class_accuracy(),
            "params": sum(p.numel() for p in learn.model.parameters()),
            "macs": count_macs(learn),
            "peak_memory_mb": self.peak_memory_mb(learn.dls.device),
            "versions": versions(),
        }
        self.write_json("metrics.json", metrics)
        return metrics

    def peak_memory_mb(self, device: torch.device) -> float:
        "MiB: the device's peak allocation on a GPU, else the process's resident peak above that after imports."
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        return peak_memory_mb() - self.memory_before


class HistoryLogger(Callback):
    "Writes each row of fastai's table into the run's history.csv, several fits one after another."

    order = 58  # after the Recorder

    def __init__(
        self,
        run: Run,  # whose history it is
        stage: str = "train",  # what this fit is, for the column `stage`
    ):
        self.folder_run, self.stage = run, stage

    def after_epoch(self):
        "Add the row that the Recorder has just completed."
        names, row = self.recorder.metric_names, self.recorder.log
        if len(names) == len(row):  # else the epoch was cancelled
            self.folder_run.add_epoch({**dict(zip(names, row)), "stage": self.stage})


def count_macs(learn: Learner) -> int:
    "Multiply-accumulates of the model for one image: torch's count of operations, halved."
    xb = learn.dls.valid.one_batch()[0][:1].as_subclass(torch.Tensor)
    learn.model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        learn.model(xb)
    return counter.get_total_flops() // 2


def peak_memory_mb() -> float:
    "MiB that this process has had resident at most."
    status = Path("/proc/self/status")
    if status.exists():  # on Linux `ru_maxrss` starts from what the parent process had
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def versions() -> dict[str, str]:
    "Versions of what the numbers depend on."
    packages = {o: version(o) for o in ("cifar_fast", "fastai", "torch", "torchvision")}
    return {"python": platform.python_version(), **packages, "machine": platform.machine()}
