"""Processes that tests start."""

import os
import subprocess
import sys
from pathlib import Path

from fastai.callback.core import Callback

ROOT = Path(__file__).parent.parent
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines",
          "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip


def launched(script, *args, **kwargs):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*LAUNCH, script, *map(str, args)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


class Killed(BaseException):
    "As near to SIGKILL as a process can come and tell of it."


class Kill(Callback):
    "Kills the process at the n-th training batch that it sees."

    order = 100

    def __init__(self, after):
        self.left = after

    def after_batch(self):
        if self.training and not hasattr(self.learn, "lr_finder"):
            self.left -= 1
            if self.left == 0:
                raise Killed


class Bomb:
    "Makes a file when it is unpickled."

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


class Dying(Callback):
    "Ends the process, as far as a test can, at a training batch of the second epoch."

    order, epochs = 100, 0

    def before_train(self):
        self.epochs += 1

    def after_batch(self):
        if self.training and self.epochs == 2 and self.iter == 1:
            raise Killed
