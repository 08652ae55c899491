"""How many steps the parallel decoders take, on models whose every token is known beforehand.

That they make greedy's tokens, and draw from the model's distribution, are laws (laws.py).
"""

import pytest
import torch
import torch.nn.functional as F
from laws import build, every_sequence, tokens

from sar_minimal.algorithm1 import one_pass
from sar_minimal.blocks import Config
from sar_minimal.data import Batch
from sar_minimal.decoding import beam, greedy
from sar_minimal.kinds import loss_of
from sar_minimal.lab.stored import load, save
from sar_minimal.masked import MaskedModel, mask_predict
from sar_minimal.shift import PAD, START
from sar_minimal.shifted import look_ahead
from sar_minimal.speculation import acceptance, draft_and_verify, jacobi

X = tokens(2, 6)


def scripted(rule, name="ar"):
    """A model whose next token is ``rule(tokens, positions)``, (B, T) from (B, T) and (T,), and a list
    of what each pass read: (first position, how many)."""
    model, passes = build(name), []

    def step(tokens, state, last=False):
        first, T = state.cache.used, tokens.shape[1]
        passes.append((first, T))
        state.cache.used += T
        logits = 10.0 * F.one_hot(rule(tokens, first + torch.arange(T)), 11)
        return logits[:, -1:] if last else logits

    model.step = step
    return model, passes


def fixed(table):
    """Says row b's table[b, t] as its t-th token, whatever it has read."""
    return scripted(lambda tokens, at: table[:, at])


def chain():
    """Each token is the one before plus 1: nothing can be known before its past is."""
    return scripted(lambda tokens, at: (tokens + 1) % 11)


# ---------------------------------------------------------------- jacobi


def test_what_does_not_read_itself_takes_two_passes():
    """The first pass is right everywhere, the second sees that nothing changes."""
    model, passes = fixed(tokens(2, 6, seed=3))
    found = jacobi(model, X)
    assert torch.equal(found.tokens, tokens(2, 6, seed=3))
    assert found.steps == 2 and passes == [(0, 6), (1, 5)]  # <s> and 5 guesses, then all but <s>
    assert greedy(model, X).steps == 6


def test_a_chain_takes_a_pass_a_token():
    """The worst case is greedy's number of passes, each over what is still open."""
    model, passes = chain()
    found = jacobi(model, X)
    assert found.tokens.tolist() == [[2, 3, 4, 5, 6, 7]] * 2
    assert found.steps == 6 and passes == [(0, 6), (1, 5), (2, 4), (3, 3), (4, 2), (5, 1)]


def test_one_token_is_one_pass():
    model, passes = chain()
    assert jacobi(model, X, new=1).steps == 1 and passes == [(0, 1)]


def test_an_end_stops_the_passes():
    model, passes = chain()
    found = jacobi(model, X, new=20, end_id=4)
    assert found.tokens.tolist() == [[2, 3, 4]] * 2 and found.lengths.tolist() == [3, 3]
    assert found.steps == len(passes) == greedy(model, X, new=20, end_id=4).steps == 3


# ---------------------------------------------------------------- draft and verify


@pytest.mark.parametrize("wrong", ([], [0], [2], [1, 4], [0, 1, 2, 3, 4, 5]))
def test_a_pass_for_each_wrong_guess_and_one_more(wrong):
    """A draft that stands is corrected where it is wrong: one pass for each, one for what is left."""
    sar = build("sar-full-2-vocabulary")
    y = one_pass(sar, X).tokens.clone()
    y[:, wrong] = (y[:, wrong] + 1) % 11
    model, passes = fixed(y)
    found = draft_and_verify(model, X, sar)
    assert torch.equal(found.tokens, y)
    assert len(passes) == len(wrong) + (5 not in wrong)
    assert found.steps == 1 + len(passes)


def test_a_row_waits_for_no_other():
    """Rows that are wrong in different places are corrected in the same passes."""
    sar = build("sar-full-2-vocabulary")
    y = one_pass(sar, X).tokens.clone()
    y[0, [0, 1]] = (y[0, [0, 1]] + 1) % 11
    y[1, [3, 4]] = (y[1, [3, 4]] + 1) % 11
    model, passes = fixed(y)
    assert torch.equal(draft_and_verify(model, X, sar).tokens, y) and len(passes) == 3


@pytest.mark.parametrize("k, passes", ((1, 6), (2, 4), (3, 3), (5, 2), (11, 1), (50, 1)))
def test_k_right_guesses_are_k_and_one_tokens(k, passes):
    """The pass that checks k guesses also makes the token behind them."""
    model, made = chain()

    def draft(tokens, lengths):
        return (tokens.gather(1, lengths[:, None] - 1) + torch.arange(1, k + 1)) % 11

    found = draft_and_verify(model, X, draft, new=12)
    assert torch.equal(found.tokens, greedy(model, X, new=12).tokens)
    assert found.steps == 2 * passes and len(made) - 12 == passes


def test_what_a_draft_is_told():
    """The prompt and what is fixed, PAD behind it; for a model with a source the prompt is <s>."""
    told = []

    def draft(tokens, lengths):
        told.append((tokens.tolist(), lengths.tolist()))
        return torch.tensor([[0], [6]]).expand(2, 1)  # row 0 is never right

    model, _ = scripted(lambda tokens, at: torch.full_like(tokens, 6))
    draft_and_verify(model, X, draft, new=4)
    assert told == [
        ([[START], [START]], [1, 1]),
        ([[START, 6, PAD], [START, 6, 6]], [2, 3]),
        ([[START, 6, 6, PAD, PAD], [START, 6, 6, 6, 6]], [3, 5]),
        ([[START, 6, 6, 6, PAD], [START, 6, 6, 6, 6]], [4, 5]),
    ]
    told.clear()
    model, _ = scripted(lambda tokens, at: torch.full_like(tokens, 6), "lm")
    draft_and_verify(model, X, draft, lengths=torch.tensor([2, 3]), new=1)
    x = X.tolist()
    assert told == [([[*x[0][:2], PAD], x[1][:3]], [2, 3])]


def test_a_longer_output_than_the_draft_guesses():
    """Behind the end of its guess the model goes on alone."""
    sar, model = build("sar-full-2-vocabulary"), build("ar")
    for options in ({"new": 9}, {"new": 9, "temperature": 1.0}):
        found = draft_and_verify(model, X, sar, **options)
        assert found.tokens.shape == (2, 9)
    assert torch.equal(
        draft_and_verify(model, X, sar, new=9).tokens, greedy(model, X, new=9).tokens
    )


def test_the_same_seed_draws_the_same_tokens():
    model, sar, x = build("ar"), build("sar-full-2-vocabulary"), tokens(8, 6)
    one, two, other = (
        draft_and_verify(
            model, x, sar, temperature=1.0, generator=torch.Generator().manual_seed(seed)
        ).tokens
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_draft_of_the_model_itself_is_always_kept():
    """q = p: everything is kept, and nothing is left to draw from."""
    p = torch.rand(5, 7).softmax(-1)
    keep, rest = acceptance(p, p)
    assert (keep == 1).all() and torch.equal(rest, p)


# ---------------------------------------------------------------- mask-predict


def test_iterations_are_the_steps():
    model = build("masked")
    for iterations, steps in ((1, 1), (3, 3), (6, 6), (100, 100)):
        found = mask_predict(model, X, iterations=iterations)
        # 6 tokens: after so many iterations that less than 1 is hidden, there is nothing to say
        assert found.steps == sum(6 * (iterations - i) // iterations > 0 for i in range(iterations))
        assert found.steps <= steps and found.tokens.shape == (2, 6)


def test_a_masked_model_is_saved_and_loaded(tmp_path):
    model = build("masked")
    save(model, tmp_path)
    again = load(tmp_path)
    for y in (X, torch.full_like(X, model.mask_id), X.masked_fill(X > 7, model.mask_id)):
        assert torch.equal(model(X, y), again(X, y))


def test_what_is_shown_is_read():
    """Each shown token changes what is said of the others; what stands where y is hidden cannot."""
    model = build("masked", V=5)
    x, hidden = torch.tensor([[1, 3, 2]]), model.mask_id
    free = model(x, torch.full((1, 3), hidden))
    for y in every_sequence(5, 1)[:, 0].tolist():
        seen = model(x, torch.tensor([[hidden, y, hidden]]))
        assert ((seen - free).abs()[0].amax(-1) > 1e-3).all(), y


def test_iterations_repair_what_one_pass_mixes():
    """y is 4 4, or 5 5, 6 5, 7 5, and x does not say which. Token by token 4 5 is likeliest, which is
    none of them; a second look at the less certain first token makes a sequence of it (Gu 2018)."""
    ys = [[4, 4]] * 8 + [[5, 5]] * 4 + [[6, 5]] * 4 + [[7, 5]] * 4  # 0.4, 0.2, 0.2, 0.2
    y = torch.tensor(ys * 8)
    x, n = torch.tensor([[6, 7]]).expand(160, 2), torch.full((160,), 2)
    torch.manual_seed(0)
    model = MaskedModel(Config(target_vocab=8, source_vocab=8, width=16, layers=1, heads=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss_of(model, Batch(x, n, y, n)).backward()
        optimizer.step()
    model.eval()
    mixed, made = (mask_predict(model, x[:1], iterations=i).tokens[0].tolist() for i in (1, 2))
    assert mixed == [4, 5] and mixed not in ys
    assert made in ys[8:]


# ---------------------------------------------------------------- all of them


def test_calls_are_the_passes_of_all_networks():
    """Counted at the first block of each stack that runs: encoder, decoder, Algorithm 1, masked model."""
    ar, lm, sar = build("ar"), build("lm"), build("sar-full-2-vocabulary")
    masked, shifted = build("masked"), build("shifted")
    first = [ar.encoder[0], ar.layers[0], lm.layers[0], sar.streams[0][0]]
    first += [masked.streams.streams[0][0], shifted.streams.streams[0][0]]
    ran = []
    for block in first:
        block.register_forward_pre_hook(lambda *_: ran.append(1))
    for decode, reads in (
        (lambda: one_pass(sar, X), 0),
        (lambda: greedy(ar, X), 1),
        (lambda: greedy(lm, X), 0),
        (lambda: beam(ar, X), 1),
        (lambda: jacobi(ar, X, window=3), 1),
        (lambda: jacobi(lm, X), 0),
        (lambda: draft_and_verify(ar, X, sar), 1),
        (lambda: draft_and_verify(lm, X, shifted), 0),
        (lambda: mask_predict(masked, X, iterations=3), 0),
        (lambda: look_ahead(shifted, X), 0),
    ):
        ran.clear()
        found = decode()
        assert found.reads == reads and found.calls == found.steps + reads == len(ran)


@pytest.mark.parametrize("window", (1, 2, 3, 5, 16))
def test_a_window_bounds_what_a_pass_reads_and_changes_no_token(window):
    model, passes = chain()
    found = jacobi(model, X, new=12, window=window)
    assert torch.equal(found.tokens, greedy(model, X, new=12).tokens)
    assert all(n <= window for _, n in passes[: found.steps])
    model, passes = fixed(one_pass(build("sar-full-2-vocabulary"), X).tokens)
    found = draft_and_verify(model, X, build("sar-full-2-vocabulary"), window=window)
    assert torch.equal(found.tokens, one_pass(build("sar-full-2-vocabulary"), X).tokens)
    assert found.steps == 1 + -(-6 // window) and all(n <= window for _, n in passes)


def test_equals_are_hidden_in_order():
    """Where all tokens of x are equal, so are the probabilities, and rounding must not choose (A18)."""
    model, T = build("masked").double(), 7
    x = torch.arange(4, 12)[:, None].repeat(1, T)
    x = torch.cat((x, tokens(24, T, V=12)))[
        torch.randperm(32, generator=torch.Generator().manual_seed(0))
    ]
    for iterations in (2, 3, 4):
        together = mask_predict(model, x, iterations=iterations).tokens
        for b in range(len(x)):
            alone = mask_predict(model, x[b : b + 1], iterations=iterations).tokens[0]
            assert torch.equal(together[b], alone), f"{x[b].tolist()}, {iterations} iterations"
