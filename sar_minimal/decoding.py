"""From an autoregressive model to tokens, step by step; and how likely given tokens are.

Every decoder of the book takes a batch and returns a ``Decoded``. What separates them is ``steps``,
the number of forward passes that had to wait for the one before: 1 for ``one_pass``, T for the ones
here, which is what the document's title promises to change (sections 3.2, 3.3). What lies between
is in ``speculation.py``, ``masked.py`` and ``shifted.py``.

What the decoders ask of a model above all: ``start`` makes a state with a cache and a prompt,
``step`` reads more tokens, ``state.reorder`` moves rows about.
"""

import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from .autoregressive import Autoregressive, EncoderDecoderAR
from .blocks import decoder, log_softmax
from .checks import WrongType, check_lengths, check_new, check_whole, expect
from .data import Decoded
from .shift import PAD


@decoder
def greedy(
    model: Autoregressive, x: Tensor, lengths=None, new=None, end_id: int | None = None
) -> Decoded:
    """At each step the most probable token, given those chosen before.

    x: (B, S) sources, or prompts for a ``DecoderLM``. lengths: (B,) of x, None when all are full.
    new: how many tokens to make per row, an int or (B,); None makes as many as x has (sequence to
    sequence with T = S, as in Algorithm 1). end_id: a row stops after this token.
    Raises TypeError or ValueError on wrong input.
    """
    return _generate(model, x, lengths, new, end_id, lambda p: p.max(-1, keepdim=True))


@decoder
def sample(
    model: Autoregressive,
    x: Tensor,
    lengths=None,
    new=None,
    end_id: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Decoded:
    """At each step a token drawn from p ** (1 / temperature), of the ``top_k`` likeliest if given.

    As ``greedy``; the same ``generator`` seed gives the same tokens on the same device.
    """
    warm = isinstance(temperature, Real) and temperature > 0
    expect(warm, "temperature", "> 0 (greedy is the limit at 0)", temperature)
    if top_k is not None:
        check_whole("top_k", top_k)

    def draw(log_probs):
        among = log_probs
        if top_k is not None and top_k < log_probs.shape[-1]:
            least = log_probs.topk(top_k).values[:, -1:]
            among = log_probs.masked_fill(log_probs < least, -math.inf)
        chosen = torch.multinomial((among / temperature).softmax(-1), 1, generator=generator)
        return log_probs.gather(1, chosen), chosen

    return _generate(model, x, lengths, new, end_id, draw)


def _generate(model, x, lengths, new, end_id, choose) -> Decoded:
    """choose: log-probabilities (B, V) to the value and the id of one of them each, (B, 1)."""
    state, prompt, before, stop = begin(model, x, lengths, new, end_id)
    read, longest = int(before.min()), int(stop.max())
    even = end_id is None and bool((stop == longest).all() and (before == read).all())
    given = F.pad(prompt, (0, longest - prompt.shape[1]), value=PAD)  # (B, longest)

    chunk = prompt[:, :read]
    tokens, log_probs = [chunk], [zeros(chunk, model)]
    for t in range(read, longest):
        logits = model.step(chunk, state, last=True)[:, -1]  # (B, V)
        value, chunk = choose(log_softmax(logits))  # (B, 1) each
        if not even:  # a row still in its prompt keeps it; a row past its end gets PAD
            keep = ((t < before) | (t >= stop))[:, None]
            chunk = torch.where(keep, given[:, t : t + 1], chunk)
            value = value.masked_fill(keep, 0.0)
        tokens.append(chunk)
        log_probs.append(value)
        if end_id is not None:
            ends = (chunk[:, 0] == end_id) & (t >= before)
            stop = torch.where(ends, stop.clamp(max=t + 1), stop)
            if bool((stop <= t + 1).all()):
                break
    steps = len(tokens) - 1
    return cut(model, torch.cat(tokens, 1), torch.cat(log_probs, 1), before, stop, steps)


@decoder
def beam(
    model: Autoregressive,
    x: Tensor,
    lengths=None,
    new=None,
    end_id: int | None = None,
    width: int = 4,
) -> Decoded:
    """The best sequence found when the ``width`` best prefixes are kept at each step.

    As ``greedy``, which is ``width=1``. Scores are sums of log-probabilities, not divided by
    length. Exact when width >= V ** (T - 1).
    """
    check_whole("width", width)
    state, prompt, before, stop = begin(model, x, lengths, new, end_id)
    B, read, K, longest = len(x), int(before.min()), width, int(stop.max())

    rows = torch.arange(B, device=x.device).repeat_interleave(K)  # beam k of row b is b * K + k
    tokens = F.pad(prompt.long(), (0, longest - prompt.shape[1]), value=PAD)  # (B, longest)
    tokens, before, stop = tokens[rows], before[rows], stop[rows]
    log_probs = zeros(tokens, model)
    first = torch.arange(B * K, device=x.device) % K == 0
    # One beam to begin with: alike, they would stay alike.
    score = log_probs.new_zeros(B * K).masked_fill(~first, -math.inf)

    steps = 0
    logits = model.step(prompt[:, :read], state, last=True)[:, -1][rows]
    state.reorder(rows)
    for t in range(read, longest):
        steps += 1
        p = log_softmax(logits)  # (B * K, V)
        given = (t < before) | (t >= stop)
        if bool(given.any()):  # a given token costs nothing, every other is out of the question
            only = torch.full_like(p, -math.inf).scatter_(1, tokens[:, t, None], 0.0)
            p = torch.where(given[:, None], only, p)
        V = p.shape[-1]
        score, best = (score[:, None] + p).view(B, K * V).topk(K)  # (B, K)
        parent = (best // V + torch.arange(B, device=x.device)[:, None] * K).view(-1)  # (B * K,)
        chosen, score = (best % V).view(-1), score.view(-1)

        tokens, log_probs, stop = tokens[parent], log_probs[parent], stop[parent]
        tokens[:, t], log_probs[:, t] = chosen, p[parent, chosen]
        if end_id is not None:
            stop = torch.where((chosen == end_id) & (t >= before), stop.clamp(max=t + 1), stop)
        if t + 1 == longest or bool((stop <= t + 1).all()):
            break
        state.reorder(parent)
        logits = model.step(chosen[:, None], state)[:, -1]
    top = score.view(B, K).argmax(1) + torch.arange(B, device=x.device) * K
    return cut(model, tokens[top], log_probs[top], before[top], stop[top], steps)


@decoder
def log_likelihood(
    model: Autoregressive, x: Tensor, y: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """log p(y_t | y_<t, x) of given tokens y (B, T), all at once (teacher forcing): (B, T).

    For a ``DecoderLM``, x is the prompt that y goes on from, and every row of it is full.
    """
    lengths = _check(model, x, lengths)
    model.check_input(y, model.config.target_vocab, "y")
    expect(len(y) == len(x), "y", f"{len(x)} rows as in x", len(y))
    state, prompt, _ = model.start(x, lengths, y.shape[1])
    together = torch.cat((prompt, y), dim=1)[:, : prompt.shape[1] + y.shape[1] - 1]
    logits = model.step(together, state)[:, prompt.shape[1] - 1 :]  # (B, T, V)
    return log_softmax(logits).gather(2, y[..., None])[..., 0]


def _check(model, x, lengths):
    """The lengths of x, (B,), once model, x and lengths are what they should be."""
    if not isinstance(model, Autoregressive):
        expected = "an autoregressive one (EncoderDecoderAR, DecoderLM)"
        raise WrongType(f"model: expected {expected}, got {type(model).__name__}")
    model.check_input(x, model.start_vocab, "x")
    return check_lengths(lengths, x)


def begin(model, x, lengths, new, end_id):
    """Check what a caller gave; start the model. Returns the state, the prompt, and for each row
    where its prompt ends and where its new tokens do, (B,) each."""
    own = _check(model, x, lengths)
    new = own if new is None else check_new(new, own)
    V = model.config.target_vocab
    fits = end_id is None or (isinstance(end_id, int) and 0 <= end_id < V)
    expect(fits, "end_id", f"an id in 0..{V - 1}", end_id)
    state, prompt, before = model.start(x, own, int(new.max()))
    return state, prompt, before, before + new


def zeros(tokens: Tensor, model: Autoregressive) -> Tensor:
    """Log-probabilities for ``tokens``, 0 each, of the precision that the model's come in."""
    dtype = torch.promote_types(model.embed.dtype, torch.float32)
    return torch.zeros(tokens.shape, dtype=dtype, device=tokens.device)


def cut(model, tokens, log_probs, before, stop, steps) -> Decoded:
    """Keep each row's own new tokens, from its prompt's end to its stop, PAD after."""
    lengths = stop - before
    at = torch.arange(int(lengths.max()), device=tokens.device)  # (T,)
    place = (before[:, None] + at).clamp(max=tokens.shape[1] - 1)
    reads = int(isinstance(model, EncoderDecoderAR))
    return Decoded.of(tokens.gather(1, place), log_probs.gather(1, place), lengths, steps, reads)
