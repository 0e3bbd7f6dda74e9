"""What a speedrun races against: airbench's scripts from a checkout, or its recipe in a plain loop on a CPU."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
import torch.nn.functional as F
from fastcore.xtras import load_mod
from torch import Tensor

from cifar_fast.data.image_set import ImageSet
from cifar_fast.device import time_when_done
from cifar_fast.errors import InputError
from cifar_fast.models.recordnet import RecordNet
from cifar_fast.records.optimizer import RecordMuon

SCRIPTS = {94: ("airbench94_muon.py", "cifar10_speedrun.py"), 96: ("airbench96_faster.py",)}  # the latter is hiverge's


@dataclass(frozen=True)
class Outcome:
    "What one run from random weights came to."

    accuracy: float  # on the test images, with the recipe's test-time augmentation
    seconds: float  # whitening, training and the final evaluation


class AirbenchScript:
    "airbench's script for a target, from a checkout, on our images; its models are compiled once, as it does it."

    def __init__(
        self,
        checkout: str | Path,  # folder of KellerJordan/cifar10-airbench
        target: int,  # 94 or 96
        images: ImageSet,  # CIFAR-10, or others of ten classes to see whether it runs
    ):
        if not torch.cuda.is_available():
            raise InputError("airbench's scripts need CUDA: without it give --peer recipe")
        if target not in SCRIPTS:
            raise InputError(f"airbench has no script for {target} %: give --target 94 or 96, or --peer recipe")
        if len(images.vocab) != 10:
            raise InputError(f"airbench's networks know 10 classes, and these images have {len(images.vocab)}")
        found = [o for o in (Path(checkout).absolute() / name for name in SCRIPTS[target]) if o.is_file()]
        if not found:
            raise InputError(f"{checkout} holds no {' or '.join(SCRIPTS[target])}: name a checkout of cifar10-airbench")
        self.script = found[0]
        self.name, self.folder = self.script.stem, tempfile.TemporaryDirectory()
        write_airbench_data(images, Path(self.folder.name) / "cifar10")
        with self._at_home():
            self.module = load_mod(self.script.stem, self.script)
        self.models = self._models()

    def warm_up(self) -> None:
        "Compile, by a whole run, as the script does it."
        self.run(0)

    def run(self, seed: int) -> Outcome:  # of torch; the script seeds some things itself
        "One run of the script's `main`; what it prints of itself is dropped, its own clock is read."
        torch.manual_seed(seed)
        seen: dict = {}
        self.module.print_training_details = lambda variables, **kwargs: seen.update(variables)
        with self._at_home(), contextlib.redirect_stdout(io.StringIO()):
            result = self.module.main(1, *([self.module.hyp] if hasattr(self.module, "hyp") else []), *self.models)
        if isinstance(result, tuple):  # hiverge's: accuracy without and with test-time views, seconds
            return Outcome(*result[1:])
        return Outcome(result, seen.get("time_seconds", seen.get("total_time_seconds")))

    def _models(self) -> list:
        module = self.module
        if hasattr(module, "CifarNet"):
            model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
            model.compile(mode="max-autotune")
            return [model]
        models = [module.make_net(module.hyp[o]) for o in ("proxy", "net", "net")]
        for model in (models[0], models[2]):
            model[0].bias.requires_grad = False
        return [torch.compile(o, mode="max-autotune") for o in models]

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[None]:
        "The script reads its data from the working directory, and its own text by the name it was started by."
        there, argv = os.getcwd(), sys.argv
        os.chdir(self.folder.name)
        sys.argv = [str(self.script)]
        try:
            yield
        finally:
            os.chdir(there)
            sys.argv = argv


def write_airbench_data(images: ImageSet, folder: Path) -> None:
    "train.pt and test.pt as airbench keeps them: images uint8 (N, H, W, 3), labels and class names."
    folder.mkdir(parents=True)
    for name, x, y in (("train", images.train_x, images.train_y), ("test", images.test_x, images.test_y)):
        content = {"images": x.permute(0, 2, 3, 1).contiguous(), "labels": y, "classes": list(images.vocab)}
        torch.save(content, folder / f"{name}.pt")


class PlainRecipe:
    """airbench94_muon's recipe in a plain PyTorch loop, without fastai, for machines that its script cannot use.

    Its numbers, but for the batch norms' eps (1e-3, not 1e-12), and its order of images; autocast, eager.
    """

    name = "airbench94_muon's recipe in a plain loop"
    bs, widths = 2_000, (64, 256, 256)
    filter_lr, bias_lr, head_lr, wd = 0.24, 0.053, 0.67, 2e-6
    views, whitening_share = 6, 3 / 8

    def __init__(
        self,
        images: ImageSet,  # to train and test on
        epochs: float = 8.0,  # fractions are parts of an epoch's batches
        device: torch.device = torch.device("cpu"),
        precision: str = "bf16",  # fp32, bf16 or fp16
    ):
        self.epochs, self.device, self.precision = epochs, device, precision
        self.bs = max(2, min(self.bs, len(images.train_x) // 25))
        mean, std = (torch.tensor(o, device=device).view(1, 3, 1, 1) for o in (images.mean, images.std))

        def normalized(x: Tensor) -> Tensor:
            return ((x.to(device).float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

        self.train, self.test = (normalized(o) for o in (images.train_x, images.test_x))
        self.train_y, self.test_y = images.train_y.to(device), images.test_y.to(device)
        self.n_out = len(images.vocab)

    def warm_up(self) -> None:
        "On a GPU a whole run, in which cuDNN looks for its fastest ways; on a CPU nothing needs it."
        if self.device.type == "cuda":
            self.run(0)

    def run(self, seed: int) -> Outcome:
        "Train from random weights, and test."
        torch.manual_seed(seed)
        model = RecordNet(self.n_out, self.widths).to(self.device, memory_format=torch.channels_last)
        began = time_when_done(self.device)
        model.whiten(self.train[:: ceil(len(self.train) / 5_000)])
        self._fit(model)
        accuracy = self._test(model)
        return Outcome(accuracy, time_when_done(self.device) - began)

    def _fit(self, model: RecordNet) -> None:
        filters = [p for p in model.groups.parameters() if p.ndim == 4]
        norms = [p for p in model.groups.parameters() if p.ndim == 1 and p.requires_grad]
        rates = [self.bias_lr, self.bias_lr, self.head_lr]
        opt = RecordMuon(
            [
                dict(params=group, lr=rate * self.bs, momentum=0.85, weight_decay=self.wd / rate)
                for group, rate in zip([[model.whitening.bias], norms, [model.head.weight]], rates)
            ]
            + [dict(params=filters, lr=self.filter_lr, momentum=0.6)]
        )
        firsts = [group["lr"] for group in opt.param_groups]
        total = round(self.epochs * (len(self.train) // self.bs))
        brief = self.whitening_share * total
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        model.train()
        for step, (xb, yb) in enumerate(self._batches(total)):
            model.whitening.bias.requires_grad_(step < brief)
            for group, lr, n in zip(opt.param_groups, firsts, (brief, total, total, total)):
                group["lr"] = lr * max(0.0, 1 - step / n)
            with self._autocast():
                loss = F.cross_entropy(model(xb), yb, label_smoothing=0.2)
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()

    def _batches(self, total: int) -> Iterator[tuple[Tensor, Tensor]]:
        n, side, done, epoch = len(self.train), self.train.shape[-1], 0, 0
        flipped = torch.rand(n, 1, 1, 1, device=self.device) < 0.5
        images = F.pad(torch.where(flipped, self.train.flip(-1), self.train), (2,) * 4, "reflect")
        while done < total:
            rows, cols = (torch.randint(0, 5, (n,), device=self.device) for _ in range(2))
            order = torch.randperm(n, device=self.device)
            for idxs in order[: n // self.bs * self.bs].split(self.bs):
                if done == total:
                    return
                done += 1
                xb = shifted(images[idxs], rows[idxs], cols[idxs], side)
                yield xb.flip(-1) if epoch % 2 else xb, self.train_y[idxs]
            epoch += 1

    @torch.no_grad()
    def _test(self, model: RecordNet) -> float:
        model.eval()
        right = 0
        for xb, yb in zip(self.test.split(500), self.test_y.split(500)):
            with self._autocast():
                padded = F.pad(xb, (1,) * 4, "reflect")
                views = [(xb, 0.25), (padded[:, :, :-2, :-2], 0.125), (padded[:, :, 2:, 2:], 0.125)]
                logits = sum(share * (model(x) + model(x.flip(-1))) for x, share in views)
            right += (logits.argmax(1) == yb).sum().item()
        return right / len(self.test)

    def _autocast(self) -> torch.autocast:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.bfloat16)
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32")


def shifted(
    images: Tensor,  # (N, C, side + 2 * pad, side + 2 * pad)
    rows: Tensor,  # int64 (N,): where each crop begins
    cols: Tensor,  # int64 (N,)
    side: int,  # pixels of a crop
) -> Tensor:  # (N, C, side, side), channels last
    "A crop of each image."
    res = torch.empty_like(images[:, :, :side, :side], memory_format=torch.channels_last)
    for row in range(images.shape[-1] - side + 1):
        for col in range(images.shape[-1] - side + 1):
            here = (rows == row) & (cols == col)
            res[here] = images[here, :, row : row + side, col : col + side]
    return res
