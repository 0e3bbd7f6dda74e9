"""Rows of experiments/bench.py: each times the toolkit and its peers in turns, and keeps the medians."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from fastai.callback.mixup import MixUp
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed

import cifar_fast.deploy.export
import cifar_fast.training.schedules  # noqa: F401 - these two patch methods onto Learner
from bench import peers
from bench.turns import epoch_of, first_batch, predict, predict_each, quiet, run_process
from cifar_fast.analysis.stats import mean_interval
from cifar_fast.data.decoding import decode_files
from cifar_fast.data.image_set import ImageSet
from cifar_fast.data.levels import find_levels
from cifar_fast.data.loaders import image_dls
from cifar_fast.data.sources import load_images
from cifar_fast.deploy.predictor import Predictor, find_images
from cifar_fast.device import parse_device, time_when_done
from cifar_fast.files import write_json
from cifar_fast.models.networks import CustomCNN
from cifar_fast.runs.facts import data_line
from cifar_fast.training.learner import custom_learner, transfer_learner
from cifar_fast.training.precision import resolve_precision
from cifar_fast.versions import versions

EPOCHS = 30  # of the frozen transfer
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Benchmark:
    "Options of experiments/bench.py; a method a row. Parameters are documented there."

    def __init__(self, data, weights, arch, bs, images, repeats, seeds, workers, device, compile, precision, out):
        self.out = Path(out).absolute()
        self.device = parse_device(device)
        self.whole = load_images(data)
        self.title = data_line(image_dls(self.whole, device="cpu"))
        self.source = Path(data) if (Path(data) / "train").is_dir() else None
        self.images = self.whole.fewer(min(images, len(self.whole.train_y)), min(images, len(self.whole.test_y)))
        self.weights, self.arch, self.bs = weights, arch, bs
        self.repeats, self.seeds, self.compile = repeats, seeds, compile
        self.workers = workers or min(16, os.cpu_count())
        self.precision = resolve_precision(precision, self.device)
        self.rows: list[dict] = []
        self._tmp = tempfile.TemporaryDirectory(prefix="bench-")
        self._folder = None

    @property
    def folder(self) -> Path:
        "The timed images as PNG files."
        if self._folder is None:
            self._folder = peers.write_image_folder(self.images, Path(self._tmp.name))
        return self._folder

    # Rows

    def custom(self) -> None:
        "Training the custom CNN: images a second over one epoch, validation left out."
        n, c = len(self.images.train_y), len(self.images.vocab)
        vision_dls = peers.fastai_torchvision_dls(self.images, self.bs, self.workers, self.device)
        plain, model = peers.torchvision_dls(self.images, self.bs, self.workers)[0], CustomCNN(c).to(self.device)
        opt = torch.optim.Adam(model.parameters())
        steps = max(n // self.bs, 1)
        contenders = {
            "ours, fp32": epoch_of(self.ours("fp32")),
            "stock fastai, from_folder": epoch_of(peers.stock_learner(self.stock_dls(), CustomCNN(c))),
            "stock fastai, torchvision dataset": epoch_of(peers.stock_learner(vision_dls, CustomCNN(c))),
            "plain PyTorch, torchvision dataset": partial(peers.plain_epoch, model, opt, plain, self.device),
            "compute limit, fp32": self.bare(steps, "fp32"),
        }
        if self.precision != "fp32":
            contenders[f"ours, {self.precision}"] = epoch_of(self.ours(self.precision))
            contenders[f"compute limit, {self.precision}"] = self.bare(steps, self.precision)
        taken = {name: steps * self.bs for name in contenders if name.startswith("compute")}
        self.add_speeds("custom CNN training", contenders, n, taken)

    def augmented(self) -> None:
        "Training the custom CNN with flips, shifts, cutout and MixUp: images a second over one epoch."
        n, c = len(self.images.train_y), len(self.images.vocab)
        dls = self.stock_dls(augmented=True)
        own = image_dls(self.images, self.bs, flip="random", translate=4, cutout=8, device=self.device)
        learners = {
            f"ours, {o}": custom_learner(own, precision=o, compile=self.compile)
            for o in dict.fromkeys((self.precision, "fp32"))
        }
        learners["stock fastai, from_folder"] = peers.stock_learner(dls, CustomCNN(c))
        for learn in learners.values():
            learn.loss_func = CrossEntropyLossFlat()
            learn.add_cb(MixUp(0.4))
        contenders = {name: epoch_of(learn) for name, learn in learners.items()}
        self.add_speeds("custom CNN, flip, translate, cutout, MixUp", contenders, n)

    def finetune(self) -> None:
        "Training all of ResNet-18 at 32 pixels: images a second over one epoch, validation left out."
        stock, ours = peers.stock_vision_learner(self.stock_dls()), self.transfer(32)
        for learn in (stock, ours):
            learn.unfreeze()
        contenders = {f"ours, {self.precision}": epoch_of(ours), "stock fastai": epoch_of(stock)}
        self.add_speeds("ResNet-18 fine-tuning, 32 pixels", contenders, len(self.images.train_y))

    def predict(self) -> None:
        "Predictions of all test images by `get_preds`: seconds."
        dls = self.stock_dls()
        pairs = {
            "custom CNN": (self.ours(self.precision), peers.stock_learner(dls, CustomCNN(dls.c))),
            "ResNet-18, 32 pixels": (self.transfer(32), peers.stock_vision_learner(dls)),
        }
        for model, (ours, stock) in pairs.items():
            if self.compile:
                ours.model.compile()  # a fit would have done it
            contenders = {f"ours, {self.precision}": partial(predict, ours), "stock fastai": partial(predict, stock)}
            self.add_seconds(f"prediction of {len(self.images.test_y):,} images, {model}", contenders)

    def single(self) -> None:
        "One image, path in, label out: milliseconds."
        dls, files = self.stock_dls(), find_images([self.folder / "test"])[:100]
        stock = {"custom CNN": peers.stock_learner(dls, CustomCNN(dls.c))}
        stock["ResNet-18, 32 pixels"] = peers.stock_vision_learner(dls)
        for model, predictors in self.saved().items():
            contenders = {f"ours, {name}": partial(predict_each, o, files) for name, o in predictors.items()}
            contenders["stock fastai, learn.predict"] = partial(predict_each, stock[model].predict, files, stock[model])
            for name, values in self.interleave(contenders).items():
                ms = [o * 1000 / len(files) for o in values]
                self.add(f"one image, {model}", name, median(ms), "ms", ms)

    def saved(self) -> dict[str, dict[str, Predictor]]:
        "Predictors of both networks, by backend."
        res = {}
        for i, learn in enumerate((self.ours("fp32"), self.transfer(32))):
            learn.path = Path(self._tmp.name)
            learn.export_safe(f"model{i}")
            learn.to_onnx(f"model{i}.onnx")
            paths = {"ONNX": learn.path / f"model{i}.onnx", "torch": learn.path / f"model{i}"}
            res[("custom CNN", "ResNet-18, 32 pixels")[i]] = {name: Predictor(o) for name, o in paths.items()}
        return res

    def shipped(self) -> None:
        "Whole processes: a folder of files predicted, and from start to the first prediction: seconds."
        dls = self.stock_dls()
        learn, tmp = peers.stock_learner(dls, CustomCNN(dls.c)), Path(self._tmp.name)
        learn.path = tmp
        learn.export("stock.pkl")
        ours, test = self.ours("fp32"), self.folder / "test"
        ours.path = tmp
        ours.to_onnx("custom.onnx")
        first = find_images([test])[0]
        begin = f"from fastai.vision.all import *\nlearn = load_learner({str(tmp / 'stock.pkl')!r})\n"
        folder = f"dl = learn.dls.test_dl(get_image_files({str(test)!r}))\nprint(learn.get_preds(dl=dl)[0].argmax(1))"
        script = Path(__file__).parents[1] / "predict.py"
        one = "from cifar_fast.deploy.predictor import Predictor\n"
        one += f"print(Predictor({str(tmp / 'custom.onnx')!r})({first!r}).label)"
        rows = {
            f"folder of {len(self.images.test_y):,} files, process start to end": {
                "ours, predict.py, ONNX": [str(script), str(tmp / "custom.onnx"), str(test), "--csv"],
                "stock fastai, test_dl and get_preds": ["-c", begin + folder],
            },
            "process start to first prediction": {
                "ours, ONNX": ["-c", one],
                "stock fastai, load_learner": ["-c", begin + f"print(learn.predict({first!r})[0])"],
            },
        }
        for row, programs in rows.items():
            self.add_seconds(row, {name: partial(run_process, args) for name, args in programs.items()})

    def transfer32(self) -> None:
        "The frozen transfer at 32 pixels, 30 epochs with validation: seconds."
        self.frozen_transfer(32)

    def transfer128(self) -> None:
        "The frozen transfer at 128 pixels."
        self.frozen_transfer(128)

    def frozen_transfer(self, size: int) -> None:
        """Ours is run whole; the peer runs one epoch a turn, and 30 of them are counted.

        At 128 pixels a fifth of the images stands for all, for both, since the peer needs an hour an epoch.
        """
        images = self.images if size == 32 else self.images.fewer(len(self.images.train_y) // 5, 400)
        with tempfile.TemporaryDirectory() as tmp:
            folder = peers.write_image_folder(images, Path(tmp))
            dls = peers.fastai_folder_dls(folder, images, self.bs, size, self.workers, self.device)
            stock = peers.stock_vision_learner(dls)

            def ours() -> None:
                with quiet(self.transfer(size, images)) as learn:
                    learn.fit_decay(EPOCHS, 1e-3, 8e-5)

            def one_epoch() -> None:
                with quiet(stock):
                    stock.fit(1)

            seconds = self.interleave({f"ours, {self.precision}": ours, "stock fastai": one_epoch}, warm_up=False)
        n = f"{len(images.train_y):,} + {len(images.test_y):,} images"
        row = f"frozen ResNet-18, {EPOCHS} epochs, {size} pixels, {n}"
        for name, values in seconds.items():
            stock = name.startswith("stock")
            note = " (one measured epoch x 30)" if stock else ""
            self.add(row, name + note, median(values) * (EPOCHS if stock else 1), "s", values)

    def frozen(self) -> None:
        "A frozen network, 30 epochs at 32 pixels, each whole and from the same weights: seconds, and test accuracies."
        dls, seconds, accuracies = self.stock_dls(), {}, {}
        for seed in range(self.repeats):
            set_seed(seed)
            ours = self.transfer(32, arch=self.arch)
            stock = peers.stock_vision_learner(dls, self.arch)
            stock.model[0].load_state_dict(ours.model[0].state_dict())
            for name, learn in ((f"ours, {self.precision}", ours), ("stock fastai", stock)):
                begin = time.perf_counter()
                with quiet(learn):
                    learn.fit_decay(EPOCHS, 1e-3, 8e-5)
                seconds.setdefault(name, []).append(time_when_done(self.device) - begin)
                accuracies.setdefault(name, []).append(learn.recorder.values[-1][-1])
        n = f"{len(self.images.train_y):,} + {len(self.images.test_y):,} images"
        for name, values in seconds.items():
            self.add(f"frozen {self.arch}, {EPOCHS} epochs, {n}", name, median(values), "s", values)
        self.add_accuracies(f"frozen {self.arch}, test accuracy", accuracies)

    def startup(self) -> None:
        "Process start to first training batch, imports included, and the peak memory after 20 batches."
        source = str(self.source or self.folder)
        images = self.whole if self.source else self.images
        ours = f"from cifar_fast.data.loaders import cifar_dls\ndls = cifar_dls({self.bs}, {source!r})\n"
        stock = f"dls = ImageDataLoaders.from_folder({source!r}, train='train', valid='test', bs={self.bs})\n"
        stock = f"from fastai.vision.all import *\n{stock}"
        programs = {
            "ours": f"{ours}from cifar_fast.training.learner import custom_learner\nlearn = custom_learner(dls)\n",
            "stock fastai": f"{stock}from cifar_fast.models.networks import CustomCNN\n"
            "learn = Learner(dls, CustomCNN(dls.c), metrics=accuracy)\n",
        }
        turns, cache = {name: [] for name in programs}, Path(self._tmp.name) / "cache"
        for _ in range(self.repeats + 1):
            for name, program in programs.items():
                turns[name].append(first_batch(program, cache))
        n = f"{len(images.train_y) + len(images.test_y):,} images"
        for name, (first, *later) in turns.items():
            seconds, peaks = zip(*later)
            self.add(f"start to first batch, first time, {n}", name, first[0], "s", [first[0]])
            self.add(f"start to first batch, second time, {n}", name, median(seconds), "s", list(seconds))
            self.add("peak memory, 20 training batches", name, median(peaks), "MB", list(peaks))
        programs = {
            "ours": f"{ours}from cifar_fast.training.learner import transfer_learner\n"
            "learn = transfer_learner(dls, weights='none')\nlearn.unfreeze()\n",
            "stock fastai": f"{stock}learn = vision_learner(dls, resnet18, pretrained=False, normalize=False)\n"
            "learn.unfreeze()\n",
        }
        for name, program in programs.items():
            peaks = [first_batch(program, cache)[1] for _ in range(self.repeats)]
            self.add("peak memory, 20 batches of fine-tuning ResNet-18", name, median(peaks), "MB", peaks)

    def decoding(self) -> None:
        "Files to one tensor, by a thread a core: images a second. Raises ValueError where pixels differ."
        root = self.source if self.source and self.whole.is_cifar10 else self.folder  # whose files are of one size
        size, files = self.images.train_x.shape[-1], find_images([root])[: len(self.images.train_y)]
        contenders = {"ours": lambda: decode_files(files, size, find_levels(files)[0])[0]}
        contenders |= {name: partial(peers.read_all, read, files, size) for name, read in peers.READERS.items()}
        wanted = contenders["ours"]()
        for name, read in contenders.items():
            if not torch.equal(read(), wanted):
                raise ValueError(f"{name} reads other pixels")
        self.add_speeds(f"decoding {len(files):,} files of {size} pixels", contenders, len(files))

    def accuracy(self) -> None:
        "Test accuracy of the custom CNN after 3 epochs on all images, mean over seeds with its 95 % interval."
        whole = self.whole
        folder = peers.write_image_folder(whole, Path(self._tmp.name) / "whole")
        c = len(whole.vocab)

        def stock() -> Learner:
            dls = peers.fastai_folder_dls(folder, whole, self.bs, 32, self.workers, self.device)
            return peers.stock_learner(dls, CustomCNN(c))

        contenders: dict[str, Callable[[], Learner]] = {
            f"ours, {p}": lambda p=p: self.ours(p, whole) for p in dict.fromkeys((self.precision, "fp32"))
        }
        contenders["stock fastai"] = stock
        accuracies = {name: [] for name in contenders}
        for name, make in contenders.items():
            for seed in range(self.seeds):
                set_seed(seed)
                with quiet(make()) as learn:
                    learn.fit(3, 1e-3)
                    accuracies[name].append(learn.recorder.values[-1][-1])
        self.add_accuracies("custom CNN, test accuracy after 3 epochs", accuracies)

    # What contends

    def stock_dls(self, augmented: bool = False) -> DataLoaders:
        "Stock fastai on the timed images as files, at 32 pixels."
        return peers.fastai_folder_dls(self.folder, self.images, self.bs, 32, self.workers, self.device, augmented)

    def ours(self, precision: str, images: ImageSet | None = None) -> Learner:
        "The custom CNN as the toolkit trains it."
        dls = image_dls(images or self.images, self.bs, device=self.device)
        return custom_learner(dls, precision=precision, compile=self.compile)

    def transfer(self, size: int, images: ImageSet | None = None, arch: str = "resnet18") -> Learner:
        "A frozen network as the toolkit trains it."
        dls = image_dls(images or self.images, self.bs, device=self.device)
        return transfer_learner(dls, arch, self.weights, size=size, precision=self.precision, compile=self.compile)

    def bare(self, steps: int, precision: str) -> Callable[[], None]:
        "The compute limit of the custom CNN."
        model = CustomCNN(len(self.images.vocab)).to(self.device)
        if self.compile:
            model.compile()
        batch = image_dls(self.images, self.bs, device=self.device).one_batch()
        return peers.bare_steps(model, batch, steps, DTYPES[precision])

    # Timing and writing

    def add_speeds(self, row: str, contenders: dict, n: int, taken: dict[str, int] | None = None) -> None:
        "Time contenders in turns, and note images a second: of `n` images a turn, or as many as `taken` says."
        for name, turns in self.interleave(contenders).items():
            self.add(row, name, (taken or {}).get(name, n) / median(turns), "images/s", turns)

    def add_seconds(self, row: str, contenders: dict[str, Callable]) -> None:
        "Time contenders in turns, and note their seconds."
        for name, turns in self.interleave(contenders).items():
            self.add(row, name, median(turns), "s", turns)

    def add_accuracies(self, row: str, accuracies: dict[str, list[float]]) -> None:
        "Note each contender's mean over seeds, in per cent, with its interval."
        for name, values in accuracies.items():
            average, half = mean_interval(values)
            self.add(f"{row}, {len(values)} seeds", name, average * 100, "%", values, half and half * 100)

    def interleave(self, contenders: dict[str, Callable], warm_up: bool = True) -> dict[str, list[float]]:
        "Seconds of each contender, in turns, after a turn that does not count."
        seconds = {name: [] for name in contenders}
        for turn in range(-1 if warm_up else 0, self.repeats):
            for name, work in contenders.items():
                begin = time.perf_counter()
                work()
                taken = time_when_done(self.device) - begin
                if turn >= 0:
                    seconds[name].append(taken)
                print(f"  {name}: {taken:.2f} s", file=sys.stderr, flush=True)
        return seconds

    def add(self, row: str, contender: str, value: float, unit: str, turns: list, interval: float | None = None):
        "Note a result, and write down all there are: a long benchmark that is cut off keeps them."
        self.rows.append(dict(row=row, contender=contender, value=value, unit=unit, turns=turns, interval=interval))
        about = {
            "data": self.title, "bs": self.bs, "device": str(self.device), "threads": torch.get_num_threads(),
            "precision": self.precision, "compile": self.compile, "versions": versions(),
        }  # fmt: skip
        write_json(self.out, {**about, "rows": self.rows})

    def table(self) -> str:
        "The results as Markdown; ratios say how many times better the row's best entry of ours is."
        lines = ["| row | contender | value | ours is better by |", "|---|---|---|---|"]
        for row in dict.fromkeys(o["row"] for o in self.rows):
            entries = [o for o in self.rows if o["row"] == row]
            more_is_better = entries[0]["unit"] in ("images/s", "%")
            ours = [o["value"] for o in entries if o["contender"].startswith("ours")]
            best = (max if more_is_better else min)(ours)
            for o in entries:
                ratio = best / o["value"] if more_is_better else o["value"] / best
                spread = f" ± {o['interval']:.2f}" if o["interval"] else ""
                times = "" if o["contender"].startswith("ours") or o["unit"] == "%" else f"{ratio:.2f}x"
                lines.append(f"| {row} | {o['contender']} | {o['value']:,.4g}{spread} {o['unit']} | {times} |")
        return "\n".join(lines)
