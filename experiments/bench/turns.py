"""What a contender of a benchmark does in its turn."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from fastai.learner import Learner

from bench import peers


@contextmanager
def quiet(learn: Learner) -> Iterator[Learner]:
    "`learn` without progress bars and tables, as a context."
    with learn.no_bar(), learn.no_logging():
        yield learn


def epoch_of(learn: Learner) -> Callable[[], None]:
    "One training epoch at a constant rate, without validation."

    def epoch() -> None:
        with quiet(learn):
            learn.fit(1, 1e-3, cbs=peers.NoValidation())

    return epoch


def predict(learn: Learner) -> None:
    "Predict the validation images."
    with learn.no_bar():
        learn.get_preds()


def predict_each(predict: Callable, files: list[str], learn: Learner | None = None) -> None:
    "Predict `files` one by one, without `learn`'s bars."
    with learn.no_bar() if learn else nullcontext():
        for file in files:
            predict(file)


def run_process(args: list[str]) -> None:
    "A Python process from start to end."
    subprocess.run([sys.executable, *args], check=True, capture_output=True)


def first_batch(
    program: str,
    cache: str | Path,  # folder of decoded data sets
) -> tuple[float, float]:
    "Of a `program` that makes `learn`: seconds from its start to the first batch, MB at its peak 20 batches later."
    rest = (
        "import re, time\nbatch = learn.dls.train.one_batch()\nprint('first', time.time(), flush=True)\n"
        "from fastai.callback.training import ShortEpochCallback\n"
        "with learn.no_bar(), learn.no_logging():\n"
        "    learn.fit(1, cbs=ShortEpochCallback(20 / len(learn.dls.train)))\n"
        "status = open('/proc/self/status').read()\n"
        "print('peak', int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) / 1024)\n"
    )
    env = {**os.environ, "CIFAR_FAST_CACHE": str(cache)}
    begin = time.time()
    done = subprocess.run([sys.executable, "-c", program + rest], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    words = done.stdout.split()
    return float(words[words.index("first") + 1]) - begin, float(words[words.index("peak") + 1])
