"""Models for a y of another length than x. That their probabilities sum to 1, that padding changes nothing
and that a resumed run is exact are laws (laws.py); here are the parts, the decoders and the messages."""

import itertools
import math

import pytest
import torch
from laws import build, every_sequence, same, tokens

from sar_minimal.data import make_batch
from sar_minimal.kinds import loss_of
from sar_minimal.kinds import make_model as new_model
from sar_minimal.lab.runs import train
from sar_minimal.lab.stored import load, save
from sar_minimal.lengths import (
    CTCSAR,
    LengthSAR,
    ctc_loss,
    ctc_pass,
    length_loss,
    length_pass,
    uniform_copy,
)
from sar_minimal.shift import IGNORE, PAD
from sar_minimal.tasks import load_task
from sar_minimal.training import Recipe, loss_and_gradients, new_optimizer

NUMERALS = {"digits": 2, "sizes": (80, 10, 10)}
KINDS = {"length": LengthSAR, "ctc": CTCSAR}


# ---------------------------------------------------------------- copies


def test_uniform_copy_is_its_formula():
    """Place t of T reads x[floor(t S / T)]: longer, shorter and equal, each row on its own."""
    pairs = list(itertools.product(range(1, 7), range(1, 15)))
    S, T = (torch.tensor(column) for column in zip(*pairs, strict=True))
    x = tokens(len(pairs), 6)
    got = uniform_copy(x, S, T)
    for row, (s, t) in enumerate(pairs):
        expected = [int(x[row, math.floor(i * s / t)]) for i in range(t)]
        assert got[row].tolist() == expected + [PAD] * (14 - t), f"S = {s}, T = {t}"
    assert torch.equal(
        uniform_copy(x, torch.full((len(pairs),), 6), torch.full((len(pairs),), 6)), x
    )


@pytest.mark.parametrize("name", ("sar-full-2-vocabulary", "length", "ctc"))
def test_the_start_marker_tells_copies_apart(name):
    """One token again and again says the same everywhere to Algorithm 1, since rotary positions are relative;
    with <s> in front of it every place is another."""
    model, x = build(name), torch.full((1, 4), 7)
    logits = (model(x, torch.tensor([4])) if name == "length" else model(x))[0]  # (places, V)
    distance = (logits[:, None] - logits[None]).abs().amax(-1)
    distance += torch.eye(len(logits)) * 99
    assert distance.min() > 0.01 if name in KINDS else distance[0, 1:].max() < 1e-5


# ---------------------------------------------------------------- decoders


@torch.no_grad()
def best_of_each_length(model, x):
    """[(log p(T | x) + the sum of the likeliest tokens', those tokens)] for T = 1, 2, ..., x (1, S)."""
    found = []
    log_p = model.length_logits(x)[0].log_softmax(-1)
    for T in range(1, model.config.max_length + 1):
        each = model(x, torch.tensor([T]))[0].log_softmax(-1)  # (T, V)
        y = every_sequence(each.shape[1], T)
        score = each[torch.arange(T), y].sum(1)
        found.append((float(log_p[T - 1] + score.max()), y[score.argmax()].tolist()))
    return found


def test_a_beam_of_all_lengths_is_exhaustive():
    """With every length tried the best pair of T and y is found; with one, the best y of the likeliest T."""
    model = build("length", V=3, max_length=5)
    surprises = 0
    for x in every_sequence(4, 3)[::4, None]:
        found = best_of_each_length(model, x)
        assert length_pass(model, x, beam=5).tokens[0].tolist() == max(found)[1]
        assert length_pass(model, x, beam=99).tokens[0].tolist() == max(found)[1]
        likeliest = int(model.length_logits(x)[0].argmax())
        assert length_pass(model, x).tokens[0].tolist() == found[likeliest][1]
        surprises += max(found)[1] != found[likeliest][1]
    assert surprises, "the likeliest length was the best each time: this says little"


def test_a_length_that_is_asked_for():
    """new is an int for all or one number for each row, and log_probs are of the tokens given T."""
    model, x, n = build("length"), tokens(3, 5), torch.tensor([5, 2, 4])
    T = torch.tensor([3, 9, 1])
    told = length_pass(model, x, n, new=T)
    assert told.lengths.tolist() == [3, 9, 1] and told.tokens.shape == (3, 9) and told.calls == 1
    loss = loss_of(model, make_batch(*pairs_of(x, n, told)), "none")
    priced = loss[:, 0].clone()
    loss[:, 0] -= torch.nn.functional.cross_entropy(
        model.length_logits(x, n), T - 1, reduction="none"
    )
    assert (priced > loss[:, 0]).all()
    same(told.log_probs, -loss, "log p(y_t | x, T)")
    assert length_pass(model, x, n, new=7).lengths.tolist() == [7, 7, 7]


def pairs_of(x, lengths, decoded):
    xs = [row[:n].tolist() for row, n in zip(x, lengths, strict=True)]
    ys = [row[:n].tolist() for row, n in zip(decoded.tokens, decoded.lengths, strict=True)]
    return xs, ys


def test_the_best_way_is_one_of_many():
    """A row of ``ctc_pass`` sums to the log-probability of the best of all ways, at most that of its y."""
    model, x = build("ctc", V=3, upsample=2), every_sequence(4, 2)
    log_p = model(x).log_softmax(-1)  # (16, 4, 4)
    ways = every_sequence(4, 4)
    of_way = log_p[:, torch.arange(4), ways].sum(-1)  # (16, 256)
    found = ctc_pass(model, x)
    said = found.lengths > 0
    assert said.any() and len(set(found.lengths.tolist())) > 1 and found.steps == 1
    same(found.log_probs.sum(1)[said], of_way.max(1).values[said], "log p of the best way")
    for row, way in enumerate(ways[of_way.argmax(1)].tolist()):
        y = [v for v, _ in itertools.groupby(way) if v != model.blank_id]
        assert found.tokens[row, : found.lengths[row]].tolist() == y
    xs, ys = pairs_of(x[said], torch.full((int(said.sum()),), 2), _rows(found, said))
    of_y = -loss_of(model, make_batch(xs, ys), "none").sum(1)
    assert (found.log_probs.sum(1)[said] < of_y).all()


def _rows(decoded, which):
    return type(decoded)(
        decoded.tokens[which], decoded.log_probs[which], decoded.lengths[which], decoded.steps
    )


def test_silence_is_an_answer():
    """Where every place is blank, y has no tokens: length 0, and nothing to add up."""
    model = build("ctc")
    with torch.no_grad():
        model.streams.gain.fill_(0.0)  # all logits are 0 ...
        model.streams.head.fill_(0.0)
    model.register_forward_hook(
        lambda _, __, z: z + torch.eye(z.shape[-1])[-1]
    )  # ... but the blank's
    found = ctc_pass(model, tokens(2, 3))
    assert found.lengths.tolist() == [0, 0]
    assert found.tokens.shape == found.log_probs.shape == (2, 0)


@pytest.mark.parametrize("name", KINDS)
def test_one_pass_is_one_pass(name):
    """Nothing is decoded twice: y comes from a single call of the model, whatever the beam."""
    model, calls = build(name), []
    model.register_forward_hook(lambda *_: calls.append(1))
    for decode in (
        (ctc_pass,) if name == "ctc" else (length_pass, lambda *a: length_pass(*a, beam=3))
    ):
        calls.clear()
        made = decode(model, tokens(3, 5))
        assert made.steps == len(calls) == 1 and made.reads == (name == "length")


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_is_trained(name):
    """The loss has a gradient for each weight, that of the length among them."""
    model = build(name).train()
    loss_of(model, make_batch([[4, 5, 6], [7, 8]], [[6, 5, 4, 6, 5], [8]])).backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, f"{key} is not trained"


@pytest.mark.parametrize("name", KINDS)
def test_reductions_agree(name):
    model, loss = build(name), {"length": length_loss, "ctc": ctc_loss}[name]
    batch = make_batch([[4, 5, 6], [7, 8]], [[6, 5, 4, 6, 5], [8]])
    each = loss(model, batch, "none")
    assert each.shape == batch.y.shape and (each[batch.y == IGNORE] == 0).all()
    same(loss(model, batch, "sum"), each.sum(), "sum")
    same(loss(model, batch), each.sum() / 6, "mean")
    with pytest.raises(ValueError, match="reduction: expected 'mean', 'sum' or 'none', got 'max'"):
        loss(model, batch, "max")


@pytest.mark.parametrize("name", KINDS)
def test_save_and_load(name, tmp_path):
    own = {"upsample": 2} if name == "ctc" else {}
    model, x = build(name, **own), tokens(2, 3)
    save(model, tmp_path)
    again = load(tmp_path)
    assert type(again) is KINDS[name] and again.config == model.config
    assert again.options == model.options == own
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[key]), key
    more = (torch.tensor([4, 1]),) if name == "length" else ()
    assert torch.equal(model(x, *more), again(x, *more))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_numerals(kind):
    """Numbers of two digits at most: from the start to less than half of its nats a token."""
    task = load_task("numerals", **NUMERALS)
    model = new_model(kind, task, width=32, layers=1, heads=2, max_length=8)
    rows = train(
        model, task, Recipe(steps=80, tokens=160, rate=1e-2, warmup=10, report=5), progress=False
    )
    assert (
        rows[-1]["loss"] < 0.5 * rows[0]["loss"] and rows[-1]["validation"] < 0.6 * rows[0]["loss"]
    )


@pytest.mark.parametrize("name", KINDS)
def test_mixed_precision_is_near_full_precision(name):
    """``Recipe.mixed``: bfloat16 products, and losses that are summed in float32."""
    task = load_task("numerals", **NUMERALS)
    model = new_model(name, task, width=32, layers=2, heads=2, max_length=8)
    batch = make_batch(task.test.x, task.test.y)
    optimizer = new_optimizer(model)
    full, mixed = (
        loss_and_gradients(model, batch, optimizer, mixed).detach() for mixed in (False, True)
    )
    assert mixed.dtype == torch.float32 and mixed != full
    torch.testing.assert_close(mixed, full, rtol=0.02, atol=0)
