"""Models trained side by side: the weights of one after the other, and nothing left behind."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from laws import TINY

from sar_minimal.autoregressive import EncoderDecoderAR
from sar_minimal.kinds import make_model
from sar_minimal.lab import side_by_side as module
from sar_minimal.lab.runs import train
from sar_minimal.lab.side_by_side import can_fork, side_by_side, train_all
from sar_minimal.tasks import load_task
from sar_minimal.training import Recipe

TASK = load_task("reverse", **TINY)
KINDS = ("ar", "sar", "masked")
forks = pytest.mark.skipif(not can_fork(), reason="no processes here")


def new_runs(seed=0):
    size = {"width": 16, "layers": 1, "heads": 2, "max_length": 8}
    recipe = Recipe(steps=12, tokens=40, warmup=4, report=3, seed=seed)
    return [(make_model(kind, TASK, seed, **size), TASK, recipe) for kind in KINDS]


def weights(runs):
    return [torch.cat([w.detach().flatten() for w in model.parameters()]) for model, _, _ in runs]


@pytest.fixture
def threads(monkeypatch):
    """Sets the number of threads for a test, and says on which device it is."""
    monkeypatch.setenv("SAR_DEVICE", "cpu")
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", (1, 2, 5))
def test_the_same_weights_however_many_processes(threads, number):
    threads(1)
    expected = new_runs()
    rows = [train(*run, progress=False) for run in expected]
    threads(number)
    torch.manual_seed(7)
    state, runs = torch.get_rng_state(), new_runs()
    torch.set_rng_state(state)
    found = train_all(runs)
    assert all(map(torch.equal, weights(runs), weights(expected)))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers have moved"
    assert torch.get_num_threads() == number
    assert not any(model.training for model, _, _ in runs)
    for mine, theirs in zip(found, rows, strict=True):
        keys = ("step", "loss", "rate", "validation")
        assert [[row[k] for k in keys] for row in mine] == [
            [row[k] for k in keys] for row in theirs
        ]
    assert not multiprocessing.active_children()


def test_without_processes(threads, monkeypatch):
    """Where nothing can be forked, one after the other gives the same, at any number of threads."""
    threads(2)
    side, alone = new_runs(), new_runs()
    train_all(side)
    monkeypatch.setattr(module, "can_fork", lambda: False)
    monkeypatch.setattr(module, "_in_processes", None)
    train_all(alone)
    assert all(map(torch.equal, weights(side), weights(alone)))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("number", (1, 2, 3))
def test_any_work(threads, number):
    """Whatever is returned comes back in order, with the caller's random state, on one thread."""
    threads(number)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    offset = torch.arange(4)  # closed over, as a cell's variables are

    def work(n, name):
        return name, torch.rand(4) + n * offset, torch.nn.Linear(n, 1), torch.get_num_threads()

    found = side_by_side(work, ((n, "abcde"[n]) for n in range(1, 5)))
    assert [name for name, *_ in found] == list("bcde")
    for n, (_, drawn, layer, used) in enumerate(found, 1):
        assert torch.equal(drawn, expected + n * offset) and layer.in_features == n and used == 1
    assert torch.equal(torch.rand(4), expected) and torch.get_num_threads() == number
    assert side_by_side(work, ()) == []


def test_nothing_to_train():
    assert train_all([]) == []


def test_a_model_twice():
    run = new_runs()[0]
    with pytest.raises(ValueError, match="runs: expected each model once"):
        train_all([run, run])


@forks
def test_the_error_of_a_run(threads):
    """It is the one that ``train`` raises, and no model is half-way between before and after."""
    threads(2)
    runs = new_runs()
    model, _, recipe = runs[1]
    runs[1] = model, load_task("pinyin", lexicon=100, sizes=(10, 0, 0)), recipe
    before = weights(runs)
    with pytest.raises(ValueError, match="model: expected source_vocab"):
        train_all(runs)
    assert all(map(torch.equal, weights(runs), before))
    assert not multiprocessing.active_children()


@forks
def test_a_process_that_dies(threads, monkeypatch):
    """As one does that the system kills for want of memory: an error at once, not an endless wait."""
    threads(2)
    monkeypatch.setattr(module, "train", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match="a training process ended without a result"):
        train_all(new_runs())
    assert not multiprocessing.active_children()


@forks
def test_a_failure_stops_the_others_at_once(threads, monkeypatch):
    """The one that would go on for ever is ended, whether another one fails or dies."""
    threads(2)
    for end, error in (
        (lambda: 1 / 0, ZeroDivisionError),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), RuntimeError),
    ):

        def train(model, *_, **__):
            end() if isinstance(model, EncoderDecoderAR) else time.sleep(600)  # noqa: B023

        monkeypatch.setattr(module, "train", train)
        with pytest.raises(error):
            train_all(new_runs())
        assert not multiprocessing.active_children()


@forks
def test_ctrl_c(threads, monkeypatch):
    threads(2)

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_all(new_runs())
    assert not multiprocessing.active_children()
