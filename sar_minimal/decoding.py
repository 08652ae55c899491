"""From a model to tokens: one pass, or step by step.

Every decoder takes a batch and returns a ``Decoded``. What separates them is ``steps``, the number
of forward passes that had to wait for the one before: 1 for ``one_pass``, T for the others, which
is what the document's title promises to change (sections 3.2, 3.3). What lies between is in
``parallel.py``.

The autoregressive decoders know three things of a model: ``start`` makes a state with a cache and
a prompt, ``step`` reads more tokens, ``state.reorder`` moves rows about.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .models import Autoregressive, DualStreamSAR, EncoderDecoderAR
from .ngram import NGram
from .shift import PAD, UNKNOWN, check_lengths, check_tokens, check_whole


@dataclass(frozen=True)
class Decoded:
    """tokens: (B, T) ids, PAD after the end. log_probs: (B, T) nats, 0 after the end, each
    token's under the model (at temperature 1). lengths: (B,). steps: sequential forward passes.
    reads: passes over x before the first of them (an encoder's). calls: forward passes in all."""

    tokens: Tensor
    log_probs: Tensor
    lengths: Tensor
    steps: int
    reads: int = 0

    @property
    def calls(self) -> int:
        return self.steps + self.reads


@torch.inference_mode()
def one_pass(model: DualStreamSAR, x: Tensor, lengths: Tensor | None = None, new=None) -> Decoded:
    """Algorithm 1's last line: the most probable token at every position, each on its own.

    x: (B, T) ids. lengths: (B,), None when every row is full. T tokens in, T tokens out.
    new: as many as x has, or None, which is the same; other lengths are for the models of ``lengths.py``.
    Raises TypeError or ValueError on wrong input, or a model that needs its own output.
    """
    log_q, own, past_end = _given_x(model, x, lengths)
    if new is not None and bool(((asked := check_new(new, own)) != own).any()):
        raise ValueError(
            f"new: one_pass makes one token for each of x, expected {own.tolist()[:4]} or None, got "
            f"{asked.tolist()[:4]}; for other lengths predict T (LengthSAR) or say blanks (CTCSAR)"
        )
    log_probs, tokens = log_q.max(-1)  # (B, T) each
    return Decoded(tokens.masked_fill(past_end, PAD), log_probs.masked_fill(past_end, 0.0), own, 1)


def _given_x(model, x, lengths):
    """log p(y_t | x), (B, T, V), each row's length, (B,), and which positions lie behind it, (B, T)."""
    if not isinstance(model, DualStreamSAR):
        raise TypeError(
            f"model: one_pass needs a model of y given x alone (DualStreamSAR), got {type(model).__name__}"
        )
    log_q = model(x, lengths).log_softmax(-1)  # x is checked there
    own = check_lengths(lengths, x)
    return log_q, own, torch.arange(x.shape[1], device=x.device) >= own[:, None]


@torch.inference_mode()
def rescore(
    model: DualStreamSAR, x: Tensor, ngram: NGram, lengths=None, k: int = 8, weight: float = 1.0
) -> Decoded:
    """One pass, and then agreement: the path through the ``k`` likeliest tokens of each position that is best
    for the model and an n-gram together, found exactly by Viterbi (Xiao 2022; Sun 2019 learns the n-gram).

    It maximises weight * sum_t log q(y_t | x) + log p(y </s>) under the n-gram, in nats; the larger weight, the
    nearer it is to ``one_pass``. Both know how frequent a token is, so the sum is a score, no probability:
    choose weight on validation data. Arguments, errors and log_probs (the model's) are those of ``one_pass``,
    which has to be of the n-gram's vocabulary. steps: 1, no network reads anything again.
    """
    check_whole("k", k)
    if not weight > 0:
        raise ValueError(f"weight: expected > 0, got {weight!r}")
    log_q, own, past_end = _given_x(model, x, lengths)
    if ngram.model.base != model.config.target_vocab:
        raise ValueError(
            f"ngram: expected a vocabulary of {model.config.target_vocab} as in model, got {ngram.model.base}"
        )
    log_q[..., :UNKNOWN] = -math.inf  # an n-gram has no <pad>, <s> or </s> within a sentence
    scores, candidates = log_q.topk(min(k, log_q.shape[-1] - UNKNOWN))  # (B, T, k)
    tokens = torch.full(past_end.shape, PAD, device=x.device)
    for row, n in enumerate(own.tolist()):
        columns = candidates[row, :n].cpu().numpy(), weight * scores[row, :n].double().cpu().numpy()
        tokens[row, :n] = torch.tensor(ngram.search(*columns), device=x.device)
    log_probs = log_q.gather(2, tokens[..., None])[..., 0].masked_fill(past_end, 0.0)
    return Decoded(tokens, log_probs, own, 1)


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
    """At each step a token drawn from p ** (1 / temperature), from the ``top_k`` likeliest if given.

    As ``greedy``; the same ``generator`` seed gives the same tokens on the same device.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature: expected > 0, got {temperature!r} (greedy is the limit at 0)"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected >= 1 or None, got {top_k!r}")

    def draw(log_probs):
        among = log_probs
        if top_k is not None and top_k < log_probs.shape[-1]:
            least = log_probs.topk(top_k).values[:, -1:]
            among = log_probs.masked_fill(log_probs < least, -math.inf)
        chosen = torch.multinomial((among / temperature).softmax(-1), 1, generator=generator)
        return log_probs.gather(1, chosen), chosen

    return _generate(model, x, lengths, new, end_id, draw)


@torch.inference_mode()
def _generate(model, x, lengths, new, end_id, choose) -> Decoded:
    """choose: log-probabilities (B, V) to the value and the id of one of them each, (B, 1)."""
    state, prompt, before, stop = _begin(model, x, lengths, new, end_id)
    read, longest = int(before.min()), int(stop.max())
    even = end_id is None and bool((stop == longest).all() and (before == read).all())
    given = F.pad(prompt, (0, longest - prompt.shape[1]), value=PAD)  # (B, longest)

    chunk = prompt[:, :read]
    tokens, log_probs = [chunk], [torch.zeros_like(chunk)]
    for t in range(read, longest):
        logits = model.step(chunk, state, last=True)[:, -1]  # (B, V)
        value, chunk = choose(logits.log_softmax(-1))  # (B, 1) each
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
    return _cut(model, torch.cat(tokens, 1), torch.cat(log_probs, 1), before, stop, steps)


@torch.inference_mode()
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
    state, prompt, before, stop = _begin(model, x, lengths, new, end_id)
    B, read, K, longest = len(x), int(before.min()), width, int(stop.max())

    rows = torch.arange(B, device=x.device).repeat_interleave(K)  # beam k of row b is b * K + k
    tokens = F.pad(prompt, (0, longest - prompt.shape[1]), value=PAD)  # (B, longest)
    tokens, before, stop = tokens[rows], before[rows], stop[rows]
    log_probs = torch.zeros(B * K, longest, device=x.device)
    first = torch.arange(B * K, device=x.device) % K == 0
    # One beam to begin with: alike, they would stay alike.
    score = torch.zeros(B * K, device=x.device).masked_fill(~first, -math.inf)

    steps = 0
    logits = model.step(prompt[:, :read], state, last=True)[:, -1][rows]
    state.reorder(rows)
    for t in range(read, longest):
        steps += 1
        p = logits.log_softmax(-1)  # (B * K, V)
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
    return _cut(model, tokens[top], log_probs[top], before[top], stop[top], steps)


@torch.inference_mode()
def log_likelihood(
    model: Autoregressive, x: Tensor, y: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """log p(y_t | y_<t, x) of given tokens, all at once (teacher forcing). y: (B, T). Returns (B, T).

    For a ``DecoderLM``, x is the prompt that y goes on from, and every row of it is full.
    """
    _check(model, x)
    lengths = check_lengths(lengths, x)
    model.check_input(y, model.config.target_vocab, "y")
    if len(y) != len(x):
        raise ValueError(f"y: expected {len(x)} rows as in x, got {len(y)}")
    state, prompt, _ = model.start(x, lengths, y.shape[1])
    together = torch.cat((prompt, y), dim=1)[:, : prompt.shape[1] + y.shape[1] - 1]
    logits = model.step(together, state)[:, prompt.shape[1] - 1 :]  # (B, T, V)
    return logits.log_softmax(-1).gather(2, y[..., None])[..., 0]


def _check(model, x):
    if not isinstance(model, Autoregressive):
        raise TypeError(
            f"model: expected an autoregressive one (EncoderDecoderAR, DecoderLM), got {type(model).__name__}"
        )
    check_tokens(x, "x")


def check_new(new, own: Tensor, name: str = "new", most: int | None = None) -> Tensor:
    """How many tokens to make in each row, (B,), on the device of its own lengths (B,), from an int or (B,).

    Raises TypeError or ValueError unless it is that, each at least 1 and at most ``most``.
    """
    if isinstance(new, int) and not isinstance(new, bool):
        new = torch.full_like(own, new)
    elif (
        not isinstance(new, Tensor)
        or new.dtype not in (torch.int64, torch.int32)
        or new.shape != own.shape
    ):
        raise TypeError(
            f"{name}: expected an int or one integer per row, shape {tuple(own.shape)}, got {new!r}"
        )
    if int(new.min()) < 1:
        raise ValueError(f"{name}: expected at least 1 token to make, got {int(new.min())}")
    if most is not None and int(new.max()) > most:
        raise ValueError(f"{name}: the model's max_length is {most}, got {int(new.max())} tokens")
    return new.to(own.device)


def _begin(model, x, lengths, new, end_id):
    """Check what a caller gave; start the model. Returns the state, the prompt, and for each row where
    its prompt ends and where its new tokens do, (B,) each."""
    _check(model, x)
    own = check_lengths(lengths, x)
    new = own if new is None else check_new(new, own)
    if end_id is not None and not 0 <= end_id < model.config.target_vocab:
        raise ValueError(
            f"end_id: expected an id in 0..{model.config.target_vocab - 1}, got {end_id!r}"
        )
    state, prompt, before = model.start(x, own, int(new.max()))
    return state, prompt, before, before + new


def _cut(model, tokens, log_probs, before, stop, steps) -> Decoded:
    """Keep each row's own new tokens, from its prompt's end to its stop, PAD after."""
    lengths = stop - before
    at = torch.arange(int(lengths.max()), device=tokens.device)  # (T,)
    place = (before[:, None] + at).clamp(max=tokens.shape[1] - 1)
    past_end = at >= lengths[:, None]
    return Decoded(
        tokens.gather(1, place).masked_fill(past_end, PAD),
        log_probs.gather(1, place).masked_fill(past_end, 0.0),
        lengths,
        steps,
        reads=int(isinstance(model, EncoderDecoderAR)),
    )
