"""Several trainings at once in one process: each takes its turns on the device, with random numbers of its own.

A small network's batch keeps little of a GPU busy, and the host waits for nothing: while the batches of one training
lie in its stream, the next one hands over its own. Python runs one at a time, so what each computes is what it
computes alone; on a CPU, where a batch is done before the next begins, nothing is gained.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from ctypes import c_ulong, py_object, pythonapi
from threading import Semaphore, Thread
from time import perf_counter

import numpy as np
import torch
from fastai.callback.core import Callback

BATCHES = 16  # a turn: enough that handing over costs little beside them, few enough that no stream runs dry


class Turns:
    "Does several works, one at a time: each goes on until it passes its turn on, or is done."

    def __init__(
        self,
        n: int,  # works
        device: torch.device,  # that they share
    ):
        self.n, self.device, self.stopping = n, device, False
        self.error: BaseException | None = None  # the first that one has raised
        self.order, self.turn = deque(range(n)), [Semaphore(0) for _ in range(n)]

    def do(
        self,
        works: list[Callable],  # as many as was said
    ) -> list:
        """What each gives; None for those not yet begun when one failed or Ctrl-C was pressed.

        Those under way are asked to stop then, by `stopping`; a second Ctrl-C ends them at once. Raises what was raised
        first.
        """
        done = [Future() for _ in works]
        threads = [Thread(target=self._do, args=o, daemon=True) for o in zip(range(self.n), works, done)]
        for thread in threads:
            thread.start()
        self.turn[0].release()
        try:
            wait(done)
        except KeyboardInterrupt:
            self.stopping = True
            _wait_or_interrupt(done, threads)
        if self.error is not None:
            raise self.error
        return [o.result() for o in done]

    def _do(self, number: int, work: Callable, done: Future) -> None:
        result = None
        try:
            self.turn[number].acquire()
            with own_device_state(self.device):
                result = None if self.stopping else work()
        except BaseException as error:
            self.stopping, self.error = True, self.error or error
        self.order.popleft()
        if self.order:
            self.turn[self.order[0]].release()
        done.set_result(result)

    def pass_on(self) -> float:
        "Let the others have their turns: seconds that they took. Random numbers go on as if there had been none."
        since = perf_counter()
        mine, go_on = self.order[0], random_numbers(self.device)
        self.order.rotate(-1)
        self.turn[self.order[0]].release()
        self.turn[mine].acquire()
        go_on()
        return perf_counter() - since


def _wait_or_interrupt(done: list[Future], threads: list[Thread]) -> None:
    "Wait; Ctrl-C raises KeyboardInterrupt in each thread. Were the process ended under them, torch would abort it."
    try:
        wait(done)
    except KeyboardInterrupt:
        for thread in threads:
            pythonapi.PyThreadState_SetAsyncExc(c_ulong(thread.ident), py_object(KeyboardInterrupt))
        wait(done)


class TakesTurns(Callback):
    "Passes the turn on every few batches of a fit, and ends it as Ctrl-C does where the turns are stopping."

    order = 69  # before Interruptible looks whether to end
    needs_images = False  # of `CachedBody`

    def __init__(self, turns: Turns):
        self.turns, self.left = turns, BATCHES

    def after_batch(self):
        "Count, and pass on."
        self.left -= 1
        if self.left == 0:
            seconds, self.left = self.turns.pass_on(), BATCHES
            if "stopwatch" in vars(self.learn):
                self.learn.stopwatch.leave_out(seconds)
        if self.turns.stopping and "interruptible" in vars(self.learn):
            self.learn.interruptible.noted = True


def random_numbers(device: torch.device) -> Callable[[], None]:
    "What makes the random numbers of Python, numpy, torch and `device` go on from where they are now."
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = _generator(device).graphsafe_get_state() if device.type == "cuda" else None

    def go_on() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpu is not None:
            _generator(device).graphsafe_set_state(gpu)

    return go_on


@contextmanager
def own_device_state(device: torch.device) -> Iterator[None]:
    "On CUDA a stream and a random state of one's own, which graphs read while those of others run beside them."
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)  # features that another one has computed may be shared
    generator = _generator(device)
    shared = generator.graphsafe_get_state()
    generator.graphsafe_set_state(generator.clone_state())
    try:
        with torch.cuda.stream(torch.cuda.Stream(device)):
            yield
            torch.cuda.synchronize(device)
    finally:
        generator.graphsafe_set_state(shared)


def _generator(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
