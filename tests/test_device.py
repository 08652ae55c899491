"""A GPU computes what the CPU does: every decoder, every loss, and a run of training.

Skipped where there is no GPU; the rest of the tests would not notice one.
"""

import copy

import pytest
import torch
from laws import build, same, tokens

from sar_minimal.algorithm1 import one_pass
from sar_minimal.counting.ngram import NGram
from sar_minimal.counting.rescoring import rescore
from sar_minimal.data import Split, batches
from sar_minimal.decoding import beam, greedy, log_likelihood, sample
from sar_minimal.kinds import KINDS, loss_of, make_model
from sar_minimal.lab.bench_step import graph_rows
from sar_minimal.lab.runs import train
from sar_minimal.lengths import ctc_pass, length_pass
from sar_minimal.masked import mask_predict
from sar_minimal.shifted import look_ahead
from sar_minimal.speculation import draft_and_verify, jacobi
from sar_minimal.tasks import load_task
from sar_minimal.training import Recipe, evaluate
from sar_minimal.transition import transition_pass

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

X, LENGTHS = tokens(4, 9), torch.tensor([9, 6, 1, 4])
TEXT = tokens(50, 6).tolist()
NGRAM = NGram(Split(TEXT, TEXT), 2, vocabulary=11)
DECODERS = {
    "one pass": ("sar", one_pass),
    "rescore": ("sar", lambda m, x, n: rescore(m, x, NGRAM, n)),
    "greedy": ("ar", greedy),
    "greedy, a language model": ("lm", lambda m, x, n: greedy(m, x, n, new=12)),
    "greedy, with an end": ("ar", lambda m, x, n: greedy(m, x, n, new=15, end_id=5)),
    "beam": ("ar", lambda m, x, n: beam(m, x, n, width=3)),
    "Jacobi": ("ar", lambda m, x, n: jacobi(m, x, n, window=4)),
    "mask-predict": ("masked", lambda m, x, n: mask_predict(m, x, n, iterations=3)),
    "look ahead": ("shifted", look_ahead),
    "transitions": ("transition", transition_pass),
    "length": ("length", lambda m, x, n: length_pass(m, x, n, beam=3)),
    "CTC": ("ctc", ctc_pass),
}


def pair(name):
    """The same model on the CPU and on the GPU, in double: no maximum hangs on rounding."""
    model = build(name).double()
    return model, copy.deepcopy(model).to(GPU)


def alike(found, expected):
    assert found.tokens.is_cuda and found.lengths.is_cuda
    for name in ("tokens", "lengths"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name
    assert (found.steps, found.reads) == (expected.steps, expected.reads)
    same(found.log_probs.cpu(), expected.log_probs, "log_probs", 1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name):
    kind, decode = DECODERS[name]
    here, there = pair(kind)
    alike(decode(there, X.to(GPU), LENGTHS.to(GPU)), decode(here, X, LENGTHS))


@pytest.mark.parametrize("drafter", ("sar", "shifted"))
def test_draft_and_verify(drafter):
    (here, there), (draft_here, draft_there) = pair("ar"), pair(drafter)
    expected = draft_and_verify(here, X, draft_here, LENGTHS)
    alike(draft_and_verify(there, X.to(GPU), draft_there, LENGTHS.to(GPU)), expected)


def test_draws_on_the_gpu():
    """A seed gives the same tokens again, and their log-probabilities are the CPU's for these tokens."""
    here, there = pair("ar")
    first, again = (
        sample(there, X.to(GPU), generator=torch.Generator(GPU).manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first.tokens, again.tokens)
    same(first.log_probs.cpu(), log_likelihood(here, X, first.tokens.cpu()), "log_probs", 1e-6)
    draws = draft_and_verify(
        there, X.to(GPU), pair("sar")[1], temperature=1.0, generator=torch.Generator(GPU)
    )
    same(draws.log_probs.cpu(), log_likelihood(here, X, draws.tokens.cpu()), "log_probs", 1e-6)


def task_for(kind):
    name = "numerals" if kind in ("length", "ctc") else "homophone"
    return load_task(name, sizes=(2000, 100, 100))


@pytest.mark.parametrize("kind", KINDS)
def test_training(kind, monkeypatch):
    """A run on the GPU learns what the same run on the CPU learns."""
    task, reached, first = task_for(kind), {}, {}
    for device in ("cpu", GPU):
        monkeypatch.setenv("SAR_DEVICE", device)
        model = make_model(kind, task, width=32, layers=1, heads=2)
        batch = next(iter(batches(task.train, 256)))
        first[device] = loss_of(model.to(device), batch.to(device)).item()
        before = evaluate(model.cpu(), task.validation)
        train(model, task, Recipe(steps=80, tokens=256, rate=5e-3), progress=False)
        assert next(model.parameters()).device.type == device
        assert all(w.dtype == torch.float32 for w in model.parameters())
        reached[device] = evaluate(model.cpu(), task.validation)
        assert reached[device] < before - 0.05, "nothing was learned"
    if kind not in ("masked", "shifted"):  # these draw what is hidden, or the shift
        assert abs(first["cpu"] - first[GPU]) < 1e-4
    assert abs(reached["cpu"] - reached[GPU]) < 0.1


def test_greedy_as_a_graph():
    """All steps recorded as one CUDA graph say what ``greedy`` says."""
    rows = graph_rows(build("ar"), T=12, rounds=2, batches=(1, 5))
    assert [row["B"] for row in rows] == [1, 5] and all(row["same"] == 1 for row in rows)
