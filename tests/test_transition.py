"""A chain over the scores of one pass, against enumeration of every y on a tiny vocabulary.

That its probabilities and its best y are those of the formula is a law, in laws.py.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from laws import (
    LENGTHS,
    build,
    chain_by_definition,
    every_sequence,
    ignore_padding,
    run,
    same,
    tokens,
)

from sar_minimal.algorithm1 import one_pass
from sar_minimal.bounds import bounds_of
from sar_minimal.data import SPECIALS, Batch
from sar_minimal.kinds import loss_of
from sar_minimal.lab.bench_theory import above_bound
from sar_minimal.lab.stored import load, save
from sar_minimal.languages import HomophoneLanguage
from sar_minimal.shift import IGNORE, PAD
from sar_minimal.transition import transition_loss, transition_pass

V, T = 4, 4
Y = every_sequence(V, T)  # (256, T)


def chain(**options):
    return build("transition", V=V, **{"rank": 2, "candidates": V} | options).double()


def sources(n: int = 6):
    return torch.randint(V, (n, T), generator=torch.Generator().manual_seed(3))


def batch_of(x, y):
    n = torch.full((len(x),), T)
    return Batch(x.repeat_interleave(len(y), 0), n.repeat_interleave(len(y)), y.repeat(len(x), 1),
                 n.repeat_interleave(len(y)))  # fmt: skip


# ---------------------------------------------------------------- the distribution


@torch.no_grad()
def test_marginals_are_sums():
    model, x = chain(), sources()
    p = chain_by_definition(model, x, Y).softmax(1)
    found = model.chain(x).marginals()  # (B, T, V)
    for t in range(T):
        for v in range(V):
            same(found[:, t, v], p[:, Y[:, t] == v].sum(1), f"p(y_{t + 1} = {v} | x)", atol=1e-9)
    padded = model.chain(x, torch.tensor([4, 3, 2, 1, 4, 2])).marginals()
    assert (padded[1, 3] == 0).all() and (padded[3, 1:] == 0).all()
    same(padded[3, 0], model.chain(x[3:4, :1]).marginals()[0, 0], "a row of one")


@torch.no_grad()
def test_marginals_over_candidates_are_sums():
    """With fewer candidates than tokens the edges differ from place to place."""
    model, x = chain(), sources()
    few = model.chain(x, k=3)
    paths = every_sequence(3, T)
    for b in range(len(x)):
        scores = few.scores[b].gather(1, paths.T).sum(0)  # of each path
        for t in range(T - 1):
            scores = scores + few.edges[b, t, paths[:, t], paths[:, t + 1]]
        p = scores.softmax(0)
        for t in range(T):
            expected = torch.stack([p[paths[:, t] == c].sum() for c in range(3)])
            same(few.marginals()[b, t], expected, f"row {b}, place {t}", atol=1e-9)


@torch.no_grad()
def test_reductions_and_the_gradient():
    model, x = chain(), sources()
    batch = Batch(x, torch.full((6,), T), sources(6).flip(0), torch.full((6,), T))
    each = transition_loss(model, batch, "none")
    assert each.shape == (6, T)
    same(transition_loss(model, batch, "sum"), each.sum(), "sum", atol=1e-9)
    same(transition_loss(model, batch), each.mean(), "mean", atol=1e-9)
    same(loss_of(model, batch), each.mean(), "the loss it is trained with", atol=1e-9)
    with torch.enable_grad():
        transition_loss(model, batch, "sum").backward()
    for name in ("before", "after", "streams.head", "streams.embed.0"):
        weight, step = model.get_parameter(name), 1e-5
        at = weight.grad.abs().argmax()
        assert weight.grad.flatten()[at].abs() > 1e-3, f"{name}: too flat to say anything"
        ends = []
        for sign in (1, -1):
            weight.flatten()[at] += sign * step
            ends.append(transition_loss(model, batch, "sum"))
            weight.flatten()[at] -= sign * step
        same((ends[0] - ends[1]) / (2 * step), weight.grad.flatten()[at], name, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("how", ({"rank": 0}, {"rank": 2}), ids=("rank 0", "M = 0"))
def test_without_a_matrix_it_is_one_pass(how):
    model, x = chain(**how), sources()
    model.before.zero_()
    found, expected = transition_pass(model, x), one_pass(model.streams, x)
    assert torch.equal(found.tokens, expected.tokens)
    same(found.log_probs, expected.log_probs, "log p", atol=1e-9)
    batch = batch_of(x, Y)
    same(transition_loss(model, batch, "none"), loss_of(model.streams, batch, "none"), "loss", 1e-9)
    same(model.chain(x).marginals(), model(x).softmax(-1), "marginals", atol=1e-9)


# ---------------------------------------------------------------- what a chain can be


@torch.no_grad()
def test_the_posterior_of_a_markov_chain_is_such_a_chain(monkeypatch):
    """With M = log p(y_t | y_t-1) and s_t what x_t says, nothing lies between the loss and H(y | x)."""
    language, first = HomophoneLanguage.random(6, 2), len(SPECIALS)
    model = build("transition", V=6 + first, rank=6, candidates=1).double()  # as many as it needs
    model.before.copy_(F.pad(torch.eye(6), (0, 0, first, 0)))
    model.after.copy_(F.pad(language.transition.log().T, (0, 0, first, 0)))

    def scores(x, lengths=None, trusted=False):
        s = language.sounds.T[x - first].log()  # (B, T, 6)
        s[:, 0] += language.initial.log()
        return F.pad(s, (first, 0), value=-math.inf)

    monkeypatch.setattr(model, "forward", scores)
    found = above_bound(model, language, 5, samples=500)
    assert found["bound"] == bounds_of(language, 5).joint
    assert found["excess"] == pytest.approx(0, abs=1e-9) and found["error"] < 1e-9
    x, V = language.sources(5)[0], 6 + first
    smooth = model.chain(x + first, k=V).marginals()[..., first:]
    same(smooth, language.smooth(x), "smoothing", atol=1e-9)
    best = transition_pass(model, x + first, k=V).tokens - first
    same(language.log_prob(best), language.log_prob(language.viterbi(x)), "Viterbi", atol=1e-9)


# ---------------------------------------------------------------- candidates


@torch.no_grad()
def test_candidates_are_the_likeliest_and_the_one_that_was_said():
    model, x = chain(candidates=2), sources()
    scores = chain_by_definition(model, x, Y)
    exact = scores.log_softmax(1)
    likeliest = model(x).topk(2).indices  # (B, T, 2)
    for b in range(len(x)):
        for i in range(0, len(Y), 7):
            y = Y[i : i + 1]
            inside = torch.ones(len(Y)).bool()
            for t, (first, second) in enumerate(likeliest[b].tolist()):
                said = int(y[0, t])
                inside &= (Y[:, t] == first) | (Y[:, t] == (second if said == first else said))
            log_p = scores[b, i] - scores[b, inside].logsumexp(0)
            one = batch_of(x[b : b + 1], y)
            same(-transition_loss(model, one, "sum"), log_p, f"row {b}, {y}", atol=1e-9)
            assert log_p >= exact[b, i], "fewer candidates, and yet more to share with"
    for k in (V, V + 9):
        whole = transition_loss(model, batch_of(x, Y), "none", k)
        same(whole.sum(1), -exact.flatten(), f"{k} candidates are all", atol=1e-9)
    found = transition_pass(model, x)
    inside = (Y[None, :, :, None] == likeliest[:, None]).any(-1).all(-1)  # (B, 256)
    best = scores.masked_fill(~inside, -math.inf)
    assert torch.equal(found.tokens, Y[best.argmax(1)])
    same(found.log_probs.sum(1), best.log_softmax(1).max(1).values, "log p", atol=1e-9)


@torch.no_grad()
def test_fewer_candidates_never_cost_more():
    model, x = build("transition", rank=3).double(), tokens(5, 6)
    batch = Batch(x, torch.full((5,), 6), tokens(5, 6, seed=1), torch.full((5,), 6))
    losses = [transition_loss(model, batch, "none", k).sum(1) for k in range(1, 13)]
    for fewer, more in zip(losses, losses[1:], strict=False):
        assert (fewer <= more + 1e-12).all()
    same(losses[0], torch.zeros(5), "one candidate", atol=1e-12)
    assert (losses[5] < losses[10]).all() and (losses[10] > 1).all()
    assert torch.equal(losses[10], losses[11])


# ---------------------------------------------------------------- rows, folders


@torch.no_grad()
@pytest.mark.parametrize("k", (None, 3))
def test_padding_and_batch_mates_change_nothing(k):
    model, x, y = build("transition"), tokens(4, 6), tokens(4, 6, seed=1)
    together = transition_pass(model, x, LENGTHS, k)
    batch = Batch(x, LENGTHS, ignore_padding(y, LENGTHS), LENGTHS)
    each = transition_loss(model, batch, "none", k)
    assert (each[batch.y == IGNORE] == 0).all()
    for b, n in enumerate(LENGTHS.tolist()):
        alone = transition_pass(model, x[b : b + 1, :n], k=k)
        assert together.tokens[b].tolist() == alone.tokens[0].tolist() + [PAD] * (6 - n), f"row {b}"
        same(together.log_probs[b, :n], alone.log_probs[0], f"row {b}")
        assert (together.log_probs[b, n:] == 0).all() and together.lengths[b] == n
        m = LENGTHS[b : b + 1]
        row = Batch(x[b : b + 1, :n], m, y[b : b + 1, :n], m)
        same(each[b, :n], transition_loss(model, row, "none", k)[0], f"loss of row {b}")


def test_saved_and_loaded(tmp_path):
    for rank in (0, 3):
        model = build("transition", rank=rank, candidates=5)
        save(model, tmp_path / f"{rank}")
        again, x = load(tmp_path / f"{rank}"), tokens(3, 6)
        one, other = transition_pass(model, x), transition_pass(again, x)
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.log_probs, other.log_probs)


def test_a_rank_of_0_trains(tmp_path):
    _, metrics = run(tmp_path, "transition", rank=0)
    assert math.isfinite(metrics[-1]["validation"])


def test_refuses():
    model, x = build("transition"), tokens(2, 5)
    n = torch.tensor([5, 5])
    for call, error, message in (
        (lambda: transition_pass(model, x, k=0), ValueError, "k: expected a whole number >= 1, got 0"),
        (lambda: transition_pass(build("lm"), x), TypeError, "model: expected a TransitionSAR, got DecoderLM"),
        (lambda: transition_loss(model, Batch(x, n, x, n), "max"), ValueError, "reduction: expected"),
        (lambda: transition_loss(model, Batch(x, n, x + 7, n)), ValueError, r"y: expected ids in 0\.\.10"),
        (lambda: transition_loss(model, Batch(x, n, x[:, :3], n - 2)), ValueError, "y: Algorithm 1 makes one token"),
        (lambda: transition_loss(model, Batch(x, n, x, n - 2)), ValueError, "y: Algorithm 1 makes one token"),
        (lambda: build("transition", rank=-1), ValueError, "rank: expected a whole number >= 0, got -1"),
        (lambda: build("transition", candidates=0), ValueError, "candidates: expected a whole number >= 1"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
