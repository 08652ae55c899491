"""Several models at once: a process for each core, each with one thread.

A step of a small model is, for half of its time, the calling of operators, which a second thread does not
make faster. A second model does not mind. So seeds and variants are trained side by side.
"""

import multiprocessing
import sys
import warnings
from collections.abc import Iterable
from multiprocessing.connection import wait

import torch

from ..blocks import Model
from ..checks import Refusal
from ..data import Task
from ..training import Recipe, choose_device, new_optimizer
from .runs import train

Run = tuple[Model, Task, Recipe]


def train_all(runs: Iterable[Run]) -> list[list[dict]]:
    """Train each model in place, as ``train`` does; returns what ``train`` returns, in the order of ``runs``.

    The weights are those of ``train`` under ``torch.set_num_threads(1)``, to the last bit, however many
    processes there are: as many as torch may use threads (``torch.get_num_threads()``), where ``can_fork``.
    Elsewhere, on a GPU, and for a single thread, one model after the other. torch's random state is left as it was;
    the models end on the CPU. Raises what ``train`` raises, and RuntimeError if a process dies (for want of
    memory, say); the others are stopped then, and what they had learned is lost.
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
    """Linux without a GPU: where there is one, torch refuses a backward pass in the fork of a process that has
    made one, and macOS and Windows have no fork that is safe."""
    return sys.platform == "linux" and not torch.cuda.is_available()


def _train(model: Model, task: Task, recipe: Recipe) -> list[dict]:
    metrics = train(model, task, recipe, progress=False)
    model.cpu()
    return metrics


def _in_processes(runs: list[Run], most: int) -> list[list[dict]]:
    new_optimizer(runs[0][0])  # imports torch's compiler: once, not in every child
    waiting, running, results = list(range(len(runs)))[::-1], {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                index = waiting.pop()
                ours, process = _start(runs[index])
                running[ours] = index, process
            for ours in wait(list(running)):
                index, process = running[ours]
                results[index] = _answer(ours, process)
                del running[ours]
    finally:  # also when one has failed, or Ctrl-C came
        for _, process in running.values():
            process.terminate()
            process.join()
    for index, (weights, _) in results.items():
        runs[index][0].load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        runs[index][0].cpu().eval()
    return [results[index][1] for index in range(len(runs))]


def _start(run: Run):
    """A fork has the model and the task already: nothing is sent to it, nothing imported again. It is safe as
    in torch's own data loader: the child is down to one thread before it computes, and prints nothing."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, run), daemon=True)
    with warnings.catch_warnings():  # from Python 3.12 on, of the threads that a fork leaves behind
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()  # ours reads the end of it as soon as the child is gone
    return ours, process


def _child(answer, run: Run) -> None:
    torch.set_num_threads(1)
    try:
        metrics = _train(*run)
        weights = {name: w.numpy() for name, w in run[0].state_dict().items()}
        answer.send((weights, metrics))
    except BaseException as error:
        answer.send(error)


def _answer(ours, process):
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"a training process ended without a result (exit code {process.exitcode}; -9: out of memory?)"
        ) from None
    process.join()
    if isinstance(found, BaseException):
        raise found
    return found
