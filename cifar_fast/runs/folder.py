"""One run's folder: what a training writes into it, and reading it back without running anything from it."""

import pickle
import re
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import cifar_fast.deploy.export  # noqa: F401 - patches export_safe onto Learner
from cifar_fast.analysis.asking import predictions_of
from cifar_fast.analysis.charts import History, learning_rates, plot_curves
from cifar_fast.analysis.featuremaps import feature_maps, plot_channel
from cifar_fast.analysis.interpret import (
    TestInterpretation,
    plot_calibration,
    plot_confused,
    plot_confusion,
    plot_per_class,
    plot_top_losses,
)
from cifar_fast.analysis.names import save_figure
from cifar_fast.analysis.predictions import Predictions, write_predictions
from cifar_fast.errors import InputError
from cifar_fast.files import (
    is_not_offered,
    remove_leftovers,
    tensor_hash,
    warn_once,
    write_atomically,
    write_csv,
    write_json,
)
from cifar_fast.options import is_choosing
from cifar_fast.progress import progress, say
from cifar_fast.runs.facts import model_alone, model_metrics
from cifar_fast.runs.report import CHANNELS, alone_line, write_report
from cifar_fast.runs.test_sets import SecondTest, ask_second_test
from cifar_fast.training.callbacks.guards import is_fit
from cifar_fast.training.portable import PORTABLE
from cifar_fast.versions import versions

LOCK = ".lock"


class Run:
    """A folder that one training fills. A folder that holds anything is refused, never overwritten.

    One process at a time: the folder is locked until the run is finished, or its process is gone.
    """

    def __init__(
        self,
        folder: str | Path | None,  # None: runs/<name>-<date>-<time>
        name: str = "run",  # for the default folder
        resume: bool = False,  # whether to go on with what is in the folder
        advice: str = "give another --run, or --resume it",  # where the folder is used
    ):
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        self.folder, self.resumed = Path(folder) if folder else _unused(Path("runs") / f"{name}-{stamp}"), resume
        try:
            used = self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir()))
            if used and not resume:
                raise InputError(f"{self.folder} is there already and not empty: {advice}")
            self.is_new = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = lock_folder(self.folder)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made ({error.strerror}): give --run another folder") from error
        remove_leftovers(self.folder)
        self.history, self.batches, self.begun = [], [], None  # the last: what users' callbacks held at the beginning
        self.memory_before = memory_after_imports()

    def discard(self) -> None:
        """Remove what the run has written, where unusable input ends it before anything was learnt.

        The folder itself goes too, unless it was there before. What cannot be removed stays: the input's error counts.
        """
        if self.history or self.resumed:
            return
        for path in [self.folder] if self.is_new else list(self.folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def forget_history(self) -> None:
        "Take back what `add_epoch` has written."
        self.history, self.batches = [], []
        for name in ("history.csv", "batches.csv"):
            (self.folder / name).unlink(missing_ok=True)

    def release(self) -> None:
        "Let other processes have the folder."
        (self.folder / LOCK).unlink(missing_ok=True)
        self.lock.release()

    def write_json(self, name: str, content: dict) -> None:
        "Write `content` as `name`, whole or not at all."
        write_json(self.folder / name, content)

    def write_figure(self, name: str, figure: Figure) -> None:
        "Save `figure` as `name`."
        write_atomically(self.folder / name, lambda tmp: save_figure(figure, tmp))

    def add_epoch(
        self,
        row: dict,  # of fastai's table, and `stage`
        batches: list[tuple[float, float]] = (),  # learning rate and smoothed loss of each training batch
    ) -> None:
        "Append an epoch to the history."
        self.history.append({**row, "epoch": len(self.history)})
        self.batches += [(len(self.batches) + i, row["stage"], *o) for i, o in enumerate(batches)]
        self.write_history()

    def write_history(self) -> None:
        "Write history.csv and batches.csv anew."
        names = list(dict.fromkeys(name for o in self.history for name in o))  # a later stage may have more
        rows = [[o.get(name, "") for name in names] for o in self.history]
        write_csv(self.folder / "history.csv", names, rows)
        write_csv(self.folder / "batches.csv", ["batch", "stage", "lr", "loss"], self.batches)

    def finish(
        self,
        learn: Learner,  # trained
        facts: dict,  # entries of metrics.json that are known: those of `run_facts`, and how it was trained
        second_tests: Sequence[SecondTest] = (),  # of `read_second_tests`, to ask too
    ) -> dict:  # the metrics
        "Export the Learner, test it, and write predictions, figures, metrics.json, model/ and, last of all, the page."
        learn.path = self.folder
        self.write_export(learn)
        interp = TestInterpretation.from_learner(learn)
        self.write_predictions(interp)
        self.write_figures(learn, interp, facts["title"])
        metrics = {
            **facts,
            **interp.metrics(),
            "params": sum(p.numel() for p in learn.model.parameters()),
            "macs": count_macs(learn),
            "peak_memory_mb": self.peak_memory_mb(learn.dls.device),
            "versions": versions(),
        }
        if alone := model_alone(learn, interp):
            metrics["model_alone"] = alone
            say(alone_line(alone))
        if second_tests:
            metrics["also_tested"] = also_tested(learn, interp, second_tests)
        self.write_json("metrics.json", metrics)
        model = learn.export_safe("model", model_metrics(metrics))
        self.write_examples(model / "examples", learn)
        write_report(self.folder)
        return metrics

    def write_export(self, learn: Learner) -> None:
        "Write export.pkl; where something in the Learner cannot be pickled, say so: the model is kept in model/."
        try:
            write_atomically(self.folder / "export.pkl", lambda tmp: learn.export(tmp.absolute(), PORTABLE))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            say(f"export.pkl is left out ({error}): model/ and checkpoint.pt hold the weights.")

    def write_predictions(self, interp: TestInterpretation) -> None:
        "Write predictions.safetensors: what the model said of each test image, by which runs can be paired."
        write_predictions(self.folder / "predictions.safetensors", interp, tensor_hash(interp.dl.dataset.x))
        if interp.files:
            probability, guess = interp.preds.max(1)
            vocab, rows = interp.vocab, zip(interp.files, interp.targs.tolist(), guess.tolist(), probability.tolist())
            named = [[file, vocab[true], vocab[said], f"{p:.4f}"] for file, true, said, p in rows]
            write_csv(self.folder / "predictions.csv", ["file", "label", "predicted", "probability"], named)

    def write_examples(self, folder: Path, learn: Learner, n: int = 10) -> None:
        "Write test images of as many classes as PNG files, for whoever wants to try the model."
        folder.mkdir(exist_ok=True)
        images = learn.dls.valid_ds
        for label in range(min(n, images.c)):
            for i in (images.y == label).nonzero().flatten()[:1].tolist():
                pixels = images.x[i].cpu().permute(1, 2, 0).numpy()
                image = Image.fromarray(pixels)
                write_atomically(folder / f"{label:03}.png", lambda tmp, image=image: image.save(tmp, format="PNG"))

    def write_figures(self, learn: Learner, interp: TestInterpretation, title: str) -> None:
        "Draw all that the report shows."
        if trained := [row for row in self.history if not is_choosing(row["stage"])]:
            lrs = [lr for _, stage, lr, _ in self.batches if not is_choosing(stage)]
            self.write_figure("curves.png", plot_curves(History("", trained, lrs), title=title))
        self.write_figure("confusion.png", plot_confusion(interp, f"{title}: {interp.accuracy:.2%}"))
        self.write_figure("confusion_shares.png", plot_confusion(interp, title, normalize=True))
        self.write_figure("per_class.png", plot_per_class(interp, title))
        self.write_figure("top_losses.png", plot_top_losses(interp, title=title))
        self.write_figure("confused.png", plot_confused(interp, title=title))
        self.write_figure("calibration.png", plot_calibration(interp, title=title))
        image = interp.dl.dataset.x[0]
        try:
            most = max(map(len, feature_maps(learn, image).values()), default=0)
        except Exception as error:  # of a network's own code, whose input a callback makes
            say(f"Its feature maps are left out ({type(error).__name__}).")
            most = 0
        for channel in (o for o in CHANNELS if o < most):
            about = f"{title}: channel {channel} after each layer"
            self.write_figure(f"channel{channel}.png", plot_channel(learn, image, channel, about))

    def peak_memory_mb(self, device: torch.device) -> float:
        "MiB: the device's peak allocation on a GPU, else the process's resident peak above that after imports."
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        return peak_memory_mb() - self.memory_before


class SilentRun(Run):
    "The run as processes other than the first see it: they keep the history, and write nothing."

    def __init__(self, folder: str | Path | None, name: str = "run", resume: bool = False):
        self.folder, self.resumed, self.history, self.batches, self.begun = Path(folder or name), resume, [], [], None

    def nothing(self, *args) -> None:
        "What the first process does, this one leaves."

    discard = release = write_json = write_figure = write_history = nothing


def also_tested(learn: Learner, interp: TestInterpretation, tests: Sequence[SecondTest]) -> dict[str, dict]:
    "What the trained Learner says of further test sets: numbers by their names."

    def ask(x: np.ndarray, y: torch.Tensor) -> Predictions:
        with learn.no_bar():
            return predictions_of(learn, x, y, interp.vocab)

    return {o.name: ask_second_test(o, interp, ask) for o in progress(tests)}


def _unused(folder: Path) -> Path:
    "`folder`, or one with a number behind its name where another run began in the same second."
    names = (folder.with_name(f"{folder.name}-{i}") for i in range(2, 1000))
    return folder if not folder.exists() else next(o for o in names if not o.exists())


def check_begun(
    what: str | Path,  # that was begun, for the message
    before: dict[str, Any],  # what it was begun with
    now: dict[str, Any],  # what is asked for; a name that `before` lacks is not compared
    advice: str = "give the same, or another --run",
) -> None:
    "Raises `InputError`, naming the first thing in which the two differ."
    for name, value in now.items():
        if name in before and before[name] != value:
            raise InputError(f"{what} was begun with {name} {before[name]}, and now it is {value}: {advice}")


def lock_folder(folder: Path) -> FileLock:
    "The lock of `folder`, held while the process lives. Raises `InputError` where another process has it."
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        with warnings.catch_warnings(record=True) as soft:  # of filelock: two lines, one of them of its own code
            lock.acquire()
        if soft:
            warn_once(f"this disk locks no files: {folder / LOCK} says instead that {folder} is being written")
    except Timeout as error:
        raise InputError(
            f"{folder} is being written by another process: wait for it, or give another folder"
        ) from error
    except OSError as error:
        if not is_not_offered(error):
            raise
        warn_once(f"this disk locks no files ({error.strerror}): let no other process write into {folder}")
    return lock


class HistoryLogger(Callback):
    "Writes each row of fastai's table into the run's history.csv, several fits one after another."

    order = 58  # after the Recorder

    def __init__(
        self,
        run: Run,  # whose history it is
        stage: str = "train",  # what this fit is, for the column `stage`
    ):
        self.folder_run, self.stage, self.n_done = run, stage, 0

    def before_fit(self):
        "None of this fit's batches has been written."
        self.run, self.n_done = is_fit(self.learn), 0

    def after_epoch(self):
        "Add the row that the Recorder has just completed."
        names, row = self.recorder.metric_names, self.recorder.log
        if len(names) == len(row):  # else the epoch was cancelled
            losses = torch.stack(list(self.recorder.losses[self.n_done :])).tolist()
            batches = list(zip(learning_rates(self.learn)[self.n_done :], losses))
            self.n_done += len(batches)
            self.folder_run.add_epoch({**dict(zip(names, map(plain, row))), "stage": self.stage}, batches)


def plain(value):
    "A metric's value as Python has it: fastai's metrics may give tensors, arrays, and several values at once."
    return value.tolist() if isinstance(value, (torch.Tensor, np.ndarray, np.generic)) else value


def count_macs(learn: Learner) -> int | None:
    "Multiply-accumulates of the model for one image: torch's count of operations, halved; None where it cannot count."
    xb = learn.dls.valid.one_batch()[0][:1].as_subclass(torch.Tensor)
    learn.model.eval()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch counts no operations of fused kernels
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # torch speaks of its own flags
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),  # whose recurrent layers are one kernel too
            FlopCounterMode(display=False) as counter,
        ):
            learn.model(xb)
    except Exception as error:  # of a network's own code, which has been tested by then
        say(f"Its operations cannot be counted ({type(error).__name__}).")
        return None
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2


def memory_after_imports() -> float:
    "MiB resident when the process made its first run; lets peaks count from now, on Linux and GPUs."
    first = _first_peak()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    return first


def peak_memory_mb() -> float:
    "MiB that this process has had resident at most, on Linux and macOS; of those psutil does not tell."
    status = Path("/proc/self/status")
    if status.exists():  # on Linux `ru_maxrss` starts from what the parent process had
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


_first_peak = cache(peak_memory_mb)
