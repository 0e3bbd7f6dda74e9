"""Long trials of `bench.py --soak`: runs killed at random moments, damaged files, failing writes, memory that grows."""

import csv
import gc
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import psutil
import torch
from fastai.torch_core import set_seed
from safetensors.torch import load_file

from cifar_fast import files
from cifar_fast.baselines import custom
from cifar_fast.data.loaders import image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.deploy.safemodel import load_safe
from cifar_fast.errors import InputError
from cifar_fast.runs.checkpoint import NAME, read_checkpoint, write_checkpoint
from cifar_fast.runs.launch import train
from cifar_fast.runs.results import FinishedRun
from cifar_fast.training.learner import custom_learner

SMALL = {"data": "digits", "epochs": 4, "width": 4, "images": 600, "test_images": 100, "flip": "random"}
TIMES = {"train_seconds", "images_per_second", "peak_memory_mb"}  # of metrics.json: not the same twice


class Soak:
    "Trials in a folder of their own; each gives a line for the table."

    def __init__(self, folder: Path, trials: int = 50, loads: int = 1000, fits: int = 200, seed: int = 0):
        self.folder, self.trials, self.loads, self.fits = folder, trials, loads, fits
        self.random = random.Random(seed)
        self.whole = self.train("whole")

    def train(self, name: str) -> Path:
        "A small run in this process."
        folder = self.folder / name
        train(custom, custom.options(**SMALL, run=str(folder)))
        return folder

    def all(self) -> Iterator[str]:
        "What came out of every trial, one after another."
        for trial in (self.checkpoint_cost, self.memory, self.damage, self.write_faults, self.kills):
            yield trial()

    def kills(self) -> str:
        "SIGKILL at a random moment of a process's life, then --resume, perhaps killed too; equal to the whole run?"
        script = str(Path(__file__).parents[1] / "custom.py")
        args = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()]
        begin = time.perf_counter()
        subprocess.run([sys.executable, script, *args, "--run", str(self.folder / "timed")], check=True, **_SILENT)
        length, same, killed = time.perf_counter() - begin, 0, 0
        for trial in range(self.trials):
            folder = self.folder / f"killed-{trial}"
            first = subprocess.Popen([sys.executable, script, *args, "--run", str(folder)], **_SILENT)
            time.sleep(self.random.uniform(0.3, 1) * length)
            killed += first.poll() is None
            first.send_signal(signal.SIGKILL)
            first.wait()
            again = ["--resume", str(folder)] if (folder / "config.json").exists() else [*args, "--run", str(folder)]
            if not (folder / "config.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, script, *again], check=True, **_SILENT)
            same += outcome(folder) == outcome(self.folder / "timed")
            shutil.rmtree(folder)
        return f"killed {killed} of {self.trials} runs at random moments; ended bit-identical: {same} of {self.trials}"

    def damage(self) -> str:
        "Bits flipped and ends cut off; loads that give the right answer or one clear error."
        cached = self.folder / "images.safetensors"
        files.write_tensors(cached, {"x": torch.arange(5000, dtype=torch.uint8)}, {"fingerprint": "f"})
        readers: dict[Path, Callable] = {
            cached: lambda: files.read_tensors(cached)[0]["x"].tolist(),
            self.whole / NAME: lambda: str(read_checkpoint(self.whole / NAME)),
            self.whole / "predictions.safetensors": lambda: FinishedRun.read(self.whole).predictions.preds.tolist(),
            self.whole / "model/model.safetensors": lambda: str(load_safe(self.whole / "model").model.state_dict()),
            self.whole / "model/model.json": lambda: load_safe(self.whole / "model").card,
        }
        right, clear = 0, 0
        for trial in range(self.loads):
            path = list(readers)[trial % len(readers)]
            content, answer = path.read_bytes(), readers[path]()
            path.write_bytes(self.damaged(content))
            try:
                right += readers[path]() == answer
            except (InputError, ValueError) as error:
                clear += "\n" not in str(error)
            finally:
                path.write_bytes(content)
        return f"{self.loads} damaged files loaded: {right} right answers, {clear} clear errors"

    def damaged(self, content: bytes) -> bytes:
        "`content` cut off at a random place, or with one bit flipped."
        place = self.random.randrange(len(content))
        if self.random.random() < 0.5:
            return content[:place]
        flipped = bytearray(content)
        flipped[place] ^= 1 << self.random.randrange(8)
        return bytes(flipped)

    def write_faults(self) -> str:
        "Each write of a run fails once, then the run goes on; good state lost?"
        with failing_write(None) as writes:
            self.train("counted")
        lost = 0
        for failing in range(len(writes)):
            folder = self.folder / f"fault-{failing}"
            with failing_write(failing), suppress(OSError):
                self.train(folder.name)
            if (folder / "config.json").exists():
                train(custom, custom.options(resume=str(folder)))
            else:
                shutil.rmtree(folder, ignore_errors=True)  # where its first write fails, a run leaves none
                self.train(folder.name)
            lost += outcome(folder) != outcome(self.whole)
            shutil.rmtree(folder)
        return f"{len(writes)} writes of a run failed one by one, and the run went on; good state lost: {lost}"

    def memory(self) -> str:
        "Resident memory after many short fits in one process, against that after the 20th."
        images, sizes = load_images("digits").fewer(200, 50), []
        for i in range(self.fits):
            set_seed(i)
            learn = custom_learner(image_dls(images, device="cpu"), width=8)
            with learn.no_bar(), learn.no_logging():
                learn.fit(1)
            del learn
            gc.collect()
            sizes.append(psutil.Process().memory_info().rss / 2**20)
        after = sizes[min(19, len(sizes) - 1)]
        growth = sizes[-1] / after - 1
        return f"{self.fits} fits: {sizes[-1]:.0f} MB resident, {after:.0f} MB after the 20th ({growth:+.1%})"

    def checkpoint_cost(self) -> str:
        "Seconds of writing the checkpoint of the article's network, with Adam's state."
        model = custom_learner(image_dls(load_images("digits"), device="cpu")).model
        opt = torch.optim.Adam(model.parameters())
        sum(p.sum() for p in model.parameters()).backward()
        opt.step()
        batches = [(i, "train", 0.001, 0.1) for i in range(30 * 782)]
        state, seconds = {"model": model.state_dict(), "opt": opt.state_dict(), "batches": batches}, []
        for _ in range(5):
            begin = time.perf_counter()
            write_checkpoint(self.folder / "cost.pt", state)
            seconds.append(time.perf_counter() - begin)
        return f"a checkpoint of the custom CNN takes {median(seconds):.2f} s, {max(seconds):.2f} at most of five"


@contextmanager
def failing_write(failing: int | None) -> Iterator[list]:
    "Notes the files that are renamed into place within it; at the one of this number, from 0 on, the disk is full."
    rename, writes = files.replace, []

    def replace(*args):
        writes.append(args)
        if len(writes) - 1 == failing:
            raise OSError(28, "No space left on device")
        rename(*args)

    files.replace = replace
    try:
        yield writes
    finally:
        files.replace = rename


_SILENT = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outcome(folder: Path) -> tuple:
    "History, batches, metrics and weights of a run, times left out, comparable by ==."
    with (folder / "history.csv").open(newline="") as file:
        history = [{k: v for k, v in row.items() if k != "time"} for row in csv.DictReader(file)]
    metrics = files.read_json(folder / "metrics.json")
    metrics = {k: v for k, v in metrics.items() if k not in TIMES}
    weights = load_file(folder / "model/model.safetensors")
    batches = (folder / "batches.csv").read_text()
    return history, batches, metrics, {k: v.numpy().tobytes() for k, v in weights.items()}
