"""Several models at once: a process for each core, each with one thread.

A step of a small model is, for half of its time, the calling of operators, which a second thread
does not make faster. A second model does not mind. So seeds and variants are trained side by side.
"""

import multiprocessing
import sys
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch

from ..blocks import Model
from ..data import Task
from ..errors import Refusal
from ..training import Recipe, new_optimizer
from .device import choose_device
from .runs import train
from .tables import Row

Run = tuple[Model, Task, Recipe]


def train_all(runs: Iterable[Run]) -> list[list[Row]]:
    """Train each model in place as ``train`` does; returns what that does, in the order given.

    The weights are those of ``train`` under ``torch.set_num_threads(1)``, to the last bit, however
    many processes there are: as many as torch may use threads (``torch.get_num_threads()``), where
    ``can_fork``. Elsewhere, on a GPU, and for a single thread, one model after the other. torch's
    random state is left as it was; the models end on the CPU. Raises what ``train`` raises, and
    RuntimeError if a process dies (of no memory, say); the others are then stopped and lost.
    """
    runs = list(runs)
    if len({id(model) for model, _, _ in runs}) < len(runs):
        raise Refusal("runs: expected each model once, got one of them twice")
    threads, device = torch.get_num_threads(), choose_device()[0]
    if device.type == "cpu" and can_fork() and min(threads, len(runs)) > 1:
        return _in_processes(runs, threads)
    state = torch.get_rng_state()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        return [_train(*run) for run in runs]
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def can_fork() -> bool:
    """Linux without a GPU: where there is one, torch refuses a backward pass in the fork of a
    process that has made one, and macOS and Windows have no fork that is safe."""
    return sys.platform == "linux" and not torch.cuda.is_available()


def _train(model: Model, task: Task, recipe: Recipe) -> list[Row]:
    metrics = train(model, task, recipe, progress=False)
    model.cpu()
    return metrics


def _in_processes(runs: list[Run], most: int) -> list[list[Row]]:
    """A fork has the models and the tasks already: nothing is sent to it, nothing imported again.
    It is safe as in torch's own data loader: the child is down to one thread before it computes,
    and prints nothing."""
    new_optimizer(runs[0][0])  # imports torch's compiler: once, not in every child
    fork, others = multiprocessing.get_context("fork"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(most, len(runs)), fork, _begin, (runs,))
    try:
        # From Python 3.12 on a fork warns of the threads that it leaves behind.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            answers = [pool.submit(_in_child, index) for index in range(len(runs))]
        for answer in as_completed(answers):
            answer.result()  # raises what the child raised, at once
    except BaseException as error:  # Ctrl-C too
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError("a training process ended without a result (no memory?)") from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    for (model, _, _), answer in zip(runs, answers, strict=True):
        weights, _ = answer.result()
        model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        model.cpu().eval()
    return [answer.result()[1] for answer in answers]


inherited: list[Run] = []  # filled in a child alone


def _begin(runs: list[Run]) -> None:
    inherited.extend(runs)
    torch.set_num_threads(1)


def _in_child(index: int) -> tuple[dict[str, np.ndarray], list[Row]]:
    metrics = _train(*inherited[index])
    weights = inherited[index][0].state_dict()
    return {name: weight.numpy() for name, weight in weights.items()}, metrics
