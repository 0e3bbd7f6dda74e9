"""What a GPU is for, in one table: the training step at the article's batch, whole trainings, features, the records.

    python experiments/bench/gpu.py --data cifar10 --peers FOLDER --out bench-gpu.json

Each part writes what it has found before the next begins. Without a GPU it runs as well, and measures the CPU.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

if __name__ == "__main__":  # started as a script of this folder, whose parent holds `bench`
    sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import peers
from bench.timings import DTYPES, Benchmark
from bench.turns import epoch_of, run_process
from cifar_fast.baselines import custom
from cifar_fast.cli import command
from cifar_fast.data.loaders import image_dls
from cifar_fast.errors import InputError
from cifar_fast.files import read_json
from cifar_fast.models.networks import CustomCNN
from cifar_fast.options import amount, count
from cifar_fast.training.graphs import BatchGraphs
from cifar_fast.training.learner import custom_learner

PARTS = ("steps", "article", "at_once", "features", "stock", "records")
AT_ONCE = 8  # seeds


class GpuBenchmark(Benchmark):
    "Rows that tell how much of a GPU a training uses."

    stock = Benchmark.custom  # against stock fastai and a plain DataLoader, which read files

    def __init__(
        self,
        data: str,  # cifar10, digits, or the path of an archive or a folder
        bs: int,  # training images a batch
        epochs: int,  # of the article's case 4
        size: int,  # pixels of the features
        images: int,  # training images of the part `stock`
        repeats: int,  # turns of each contender
        races: list[tuple[int, str | None, int]],  # per cent, folder of checkouts of peers and runs of each
        device: str,  # auto, cpu or cuda
        out: str,  # file to write
    ):
        super().__init__(data, "none", "resnet18", bs, images, repeats, 1, 0, device, False, "auto", out)
        self.data, self.epochs, self.size, self.races = data, epochs, size, races

    def steps(self) -> None:
        "Training the custom CNN at the article's batch and at 512, with graphs, without, and as bare as it can be."
        for bs in dict.fromkeys((self.bs, 512)):
            for precision in dict.fromkeys((self.precision, "fp32")):
                self.steps_of(bs, precision)

    def steps_of(self, bs: int, precision: str) -> None:
        "One batch size in one precision."
        dls = image_dls(self.whole, bs, device=self.device)
        with_graphs, without = (custom_learner(dls, precision=precision) for _ in range(2))
        without.remove_cb(BatchGraphs)
        contenders = {
            f"ours, {precision}": epoch_of(with_graphs),
            f"ours without graphs, {precision}": epoch_of(without),
            f"plain PyTorch, images on the device, {precision}": self.plain(bs, precision),
            f"compute limit, {precision}": self.limit(dls, len(dls.train), precision),
        }
        self.add_speeds(f"custom CNN training, batches of {bs}", contenders, len(dls.train) * bs)

    def plain(self, bs: int, precision: str) -> Callable[[], None]:
        "An epoch of the loop that whoever keeps all images on the device would write."
        images, device = self.whole, self.device
        mean, std = (torch.tensor(o, device=device).view(1, 3, 1, 1) for o in (images.mean, images.std))
        x, y = images.train_x.to(device), images.train_y.to(device)
        model = CustomCNN(len(images.vocab)).to(device, memory_format=torch.channels_last)
        opt = torch.optim.Adam(model.parameters(), fused=True)

        def epoch() -> None:
            model.train()
            for idxs in torch.randperm(len(x), device=device).split(bs):
                xb = (x[idxs].float() / 255 - mean) / std
                with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
                    pred = model(xb.contiguous(memory_format=torch.channels_last))
                opt.zero_grad()
                F.cross_entropy(pred.float(), y[idxs]).backward()
                opt.step()

        return epoch

    def limit(self, dls, n: int, precision: str) -> Callable[[], None]:
        "The bare step, `n` times: on a GPU as one captured graph."
        batch = dls.one_batch()
        steps = peers.bare_steps(CustomCNN(dls.c).to(self.device), batch, n, DTYPES[precision])
        if self.device.type != "cuda":
            return steps
        step = peers.bare_steps(CustomCNN(dls.c).to(self.device), batch, 1, DTYPES[precision], capturable=True)
        replay = peers.captured(step)

        def replays() -> None:
            for _ in range(n):
                replay()

        return replays

    def article(self) -> None:
        "Case 4 of the article as a process, from its start to the report: seconds."
        script = str(Path(__file__).parents[1] / "custom.py")
        for turn in range(self.repeats + 1):  # the first one decodes the images for the others
            with tempfile.TemporaryDirectory() as tmp:
                args = ["--data", str(self.data), "--bs", str(self.bs), "--run", f"{tmp}/run", "--quiet"]
                began = time.perf_counter()
                run_process([script, *args, "--epochs", str(self.epochs), "--device", str(self.device)])
                seconds = time.perf_counter() - began
                accuracy = read_json(Path(tmp) / "run/metrics.json")["accuracy"]
            row = f"case 4, {self.epochs} epochs, {'first' if turn == 0 else 'later'} process"
            self.add(f"{row}, start to report", f"ours, try {turn}", seconds, "s", [seconds])
            self.add(f"{row}, test accuracy", f"ours, try {turn}", accuracy * 100, "%", [accuracy])

    def at_once(self) -> None:
        "Three epochs of the custom CNN from one seed, and from eight at once: seconds of training."
        common = dict(data=self.data, bs=self.bs, epochs=3, precision=self.precision, device=str(self.device))
        seconds = {1: [], AT_ONCE: []}
        for _ in range(self.repeats):
            for n, found in seconds.items():
                with tempfile.TemporaryDirectory() as tmp:
                    runs = custom.run(**common, seeds=n, at_once=n, quiet=True, run=f"{tmp}/run")
                    found.append(sum(o.metrics["train_seconds"] for o in runs.runs))
        for n, found in seconds.items():
            self.add(f"seeds at once, batches of {self.bs}", f"ours, {n}, {self.precision}", median(found), "s", found)

    def features(self) -> None:
        "All images through the frozen ResNet-18 at 224 pixels, against the body alone on one batch: images a second."
        learn = self.transfer(self.size, self.whole)
        cached, n = learn.cached_body, len(self.whole.train_y)
        learn.epoch = 0
        if amp := vars(learn).get("mixed_precision"):
            amp.before_fit()  # which sets its autocast up

        def ours() -> None:
            with learn.no_bar(), learn.no_logging():
                cached.cache.clear()
                tfms = list(learn.dls.valid.after_batch.fs)
                cached._run_body(learn.dls.train_ds, tfms, False)

        xb = learn.dls.valid.one_batch()[0].as_subclass(torch.Tensor)
        body = learn.model.eval()

        def alone() -> None:
            with torch.no_grad(), torch.autocast(self.device.type, DTYPES[self.precision], self.precision != "fp32"):
                for _ in range(n // len(xb)):
                    body.features(xb)

        row, whole_batches = f"features of {n:,} images, frozen ResNet-18, {self.size} pixels", n // len(xb) * len(xb)
        contenders = {f"ours, {self.precision}": ours, "the body alone": alone}
        self.add_speeds(row, contenders, n, {"the body alone": whole_batches})

    def records(self) -> None:
        "The record recipes in turns with their peers."
        from bench.races import race

        for target, peer, runs in self.races:
            for name, value, unit, turns in race(self.whole, target, peer, runs, self.device):
                self.add(f"{target} % on CIFAR-10", name, value, unit, turns)


@command
def main(
    data: str = "cifar10",  # cifar10, digits, or the path of an archive or a folder
    parts: str = ",".join(PARTS),  # what to measure, comma-separated
    checkouts: str | None = None,  # folder that holds checkouts of peers, for the part `records`
    bs: count = 64,  # training images a batch
    epochs: count = 30,  # of the article's case 4
    size: count = 224,  # pixels of the features
    images: count = 10_000,  # training images of the part `stock`
    repeats: count = 3,  # turns of each contender
    runs: amount = 20,  # of each record recipe
    device: str = "auto",  # auto, cpu or cuda
    out: str = "bench-gpu.json",  # file to write
):
    "Measure how much of a GPU the toolkit uses, beside what bounds it."
    if unknown := set(parts.split(",")) - set(PARTS):
        raise InputError(f"there is no part {unknown.pop()!r}: give some of {','.join(PARTS)}")
    races = [(94, checkouts, runs), (96, checkouts, runs // 2)]
    bench = GpuBenchmark(data, bs, epochs, size, images, repeats, races, device, out)
    for part in parts.split(","):
        getattr(bench, part)()
        print(bench.table(), flush=True)
