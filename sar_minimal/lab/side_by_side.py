"""Several models at once: a process for each core, each with one thread.

A step of a small model is, for half of its time, the calling of operators, which a second thread
does not make faster, and beside other programs two threads wait for one another. A second model
does neither. So seeds and variants are trained side by side.
"""

import multiprocessing
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..blocks import Model
from ..data import Task
from ..errors import Refusal
from ..training import Recipe
from .device import choose_device
from .runs import train
from .tables import Row

Run = tuple[Model, Task, Recipe]
T = TypeVar("T")


def train_all(runs: Iterable[Run]) -> list[list[Row]]:
    """Train each model in place as ``train`` does; returns what that does, in the order given.

    The weights are those of ``train`` under ``torch.set_num_threads(1)``, to the last bit, however
    many processes there are (``side_by_side``, whose errors it raises, beside those of ``train``).
    The models end on the CPU.
    """
    runs = list(runs)
    if len({id(model) for model, _, _ in runs}) < len(runs):
        raise Refusal("runs: expected each model once, got one of them twice")
    answers = side_by_side(_train, runs)
    for (model, _, _), (weights, _) in zip(runs, answers, strict=True):
        model.cpu().load_state_dict(weights)
        model.eval()
    return [metrics for _, metrics in answers]


def side_by_side(work: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
    """``[work(*row) for row in arguments]``, on one thread each, several at once.

    As many as torch may use threads (``torch.get_num_threads()``), where ``can_fork``; elsewhere,
    on a GPU, and for a single thread, one after the other. Rely on what ``work`` returns alone:
    what it changes may be a copy in another process. Each call begins with torch's random state
    of the caller, which is left as it was. Raises what ``work`` raises, and RuntimeError if a
    process dies (of no memory, say); the others are then stopped and lost.
    """
    rows = list(arguments)
    threads, device = torch.get_num_threads(), choose_device()[0]
    if device.type == "cpu" and can_fork() and min(threads, len(rows)) > 1:
        return _in_processes(work, rows, threads)
    state, answers = torch.get_rng_state(), []
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        for row in rows:
            answers.append(work(*row))
            torch.set_rng_state(state)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    return answers


def can_fork() -> bool:
    """Linux without a GPU: where there is one, torch refuses a backward pass in the fork of a
    process that has made one, and macOS and Windows have no fork that is safe."""
    return sys.platform == "linux" and not torch.cuda.is_available()


def _train(model: Model, task: Task, recipe: Recipe) -> tuple[dict[str, Tensor], list[Row]]:
    metrics = train(model, task, recipe, progress=False)
    return model.cpu().state_dict(), metrics


def _in_processes(work: Callable[..., T], rows: list[tuple[Any, ...]], most: int) -> list[T]:
    """A fork has the models and the tasks already: nothing is sent to it, nothing imported again.
    It is safe as in torch's own data loader: the child is down to one thread before it computes,
    and prints nothing."""
    torch.optim.AdamW([torch.zeros(1)])  # imports torch's compiler: once, not in every child
    fork, others = multiprocessing.get_context("fork"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(most, len(rows)), fork, _begin, (work, rows))
    try:
        # From Python 3.12 on a fork warns of the threads that it leaves behind.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            answers = [pool.submit(_in_child, index) for index in range(len(rows))]
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
    return [pickle.loads(answer.result()) for answer in answers]


inherited: list[Any] = []  # filled in a child alone: the work, its arguments, the random state


def _begin(*work: Any) -> None:
    inherited.extend((*work, torch.get_rng_state()))
    torch.set_num_threads(1)


def _in_child(index: int) -> bytes:
    work, rows, state = inherited
    torch.set_rng_state(state)
    # Bytes: torch would send tensors as shared memory, which ends with the process that made it.
    return pickle.dumps(work(*rows[index]))
