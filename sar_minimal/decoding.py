"""From an autoregressive model to tokens, step by step; and how likely given tokens are.

Every decoder of the book takes a batch and returns a ``Decoded``. What separates them is ``steps``,
the number of forward passes that had to wait for the one before: 1 for ``one_pass``, T for the ones
here, which is what the document's title promises to change (sections 3.2, 3.3). What lies between
is in ``speculation.py``, ``masked.py`` and ``shifted.py``.

What the decoders ask of a model above all: ``start`` makes a state with a cache and a prompt,
``step`` reads more tokens, ``state.reorder`` moves rows about.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .autoregressive import Autoregressive, EncoderDecoderAR, State
from .blocks import decoder, log_softmax
from .checks import Lengths, New, check_lengths, check_new, check_type, check_whole
from .data import Decoded
from .errors import expect
from .shift import PAD, past_end


@dataclass
class Rows:
    """B rows (B K of a beam) in the making: b has its prompt to ``before[b]``, ends at ``stop[b]``.

    prompt: (B, P) ids. before, stop: (B,). end_id: a row ends behind this token too.
    """

    model: Autoregressive
    state: State
    prompt: Tensor
    before: Tensor
    stop: Tensor
    end_id: int | None

    def room(self) -> tuple[Tensor, Tensor]:
        """Prompts with PAD behind them, and log-probabilities 0, as precise as the model's, as far
        as the longest row goes: (B, longest) each."""
        more = int(self.stop.max()) - self.prompt.shape[1]
        tokens = F.pad(self.prompt.long(), (0, more), value=PAD)
        tokens = tokens.masked_fill(past_end(self.before, tokens.shape[1]), PAD)
        dtype = torch.promote_types(self.model.embed.dtype, torch.float32)
        return tokens, torch.zeros(tokens.shape, dtype=dtype, device=tokens.device)

    def end(self, chosen: Tensor, t: int) -> None:
        """Let rows end whose token at t, of ``chosen`` (B,), is the end."""
        if self.end_id is not None:
            ends = (chosen == self.end_id) & (t >= self.before)
            self.stop = torch.where(ends, self.stop.clamp(max=t + 1), self.stop)

    def cut(self, tokens: Tensor, log_probs: Tensor, steps: int) -> Decoded:
        """Keep each row's own new tokens, from its prompt's end to its stop, PAD after."""
        lengths = self.stop - self.before
        at = torch.arange(int(lengths.max()), device=tokens.device)  # (T,)
        place = (self.before[:, None] + at).clamp(max=tokens.shape[1] - 1)
        new = tokens.gather(1, place), log_probs.gather(1, place)  # (B, T) each
        return Decoded.of(*new, lengths, steps, int(isinstance(self.model, EncoderDecoderAR)))


def begin(model: Autoregressive, x: Tensor, lengths: Lengths, new: New, end_id: int | None) -> Rows:
    """Check what a caller gave, and start the model."""
    own = _check(model, x, lengths)
    number = own if new is None else check_new(new, own)
    V = model.config.target_vocab
    fits = end_id is None or (type(end_id) is int and 0 <= end_id < V)
    expect(fits, "end_id", f"an id in 0..{V - 1}", end_id)
    state, prompt, before = model.start(x, own, number)
    return Rows(model, state, prompt, before, before + number, end_id)


def _check(model: Autoregressive, x: Tensor, lengths: Lengths) -> Tensor:
    """The lengths of x, (B,), once model, x and lengths are what they should be."""
    check_type(model, Autoregressive, what="an autoregressive one (EncoderDecoderAR, DecoderLM)")
    model.check_input(x, model.start_vocab, "x")
    return check_lengths(lengths, x)


def check_temperature(value: object) -> None:
    """Raise Refusal unless logits can be divided by it: a number from 1e-30 to 1e30."""
    fits = isinstance(value, int | float) and 1e-30 <= value <= 1e30
    expect(fits, "temperature", "> 0 and finite (greedy is the limit at 0)", value)


@decoder
def greedy(
    model: Autoregressive,
    x: Tensor,
    lengths: Lengths = None,
    new: New = None,
    end_id: int | None = None,
) -> Decoded:
    """At each step the most probable token, given those chosen before.

    x: (B, S) sources, or prompts for a ``DecoderLM``. lengths: (B,) of x, None when all are full.
    new: how many tokens to make per row, an int or (B,); None makes as many as x has (sequence to
    sequence with T = S, as in Algorithm 1). end_id: a row stops after this token. Raises Refusal on
    wrong input.
    """
    rows = begin(model, x, lengths, new, end_id)
    return _generate(rows, lambda log_p: log_p.max(-1, keepdim=True))


@decoder
def sample(
    model: Autoregressive,
    x: Tensor,
    lengths: Lengths = None,
    new: New = None,
    end_id: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Decoded:
    """At each step a token drawn from p ** (1 / temperature), of the ``top_k`` likeliest if given.

    As ``greedy``; the same ``generator`` seed gives the same tokens on the same device.
    """
    check_temperature(temperature)
    if top_k is not None:
        check_whole("top_k", top_k)

    def draw(log_probs: Tensor) -> tuple[Tensor, Tensor]:
        among = log_probs
        if top_k is not None and top_k < log_probs.shape[-1]:
            top = log_probs.topk(top_k)  # by rank, so that ties do not make them more
            among = torch.full_like(among, -math.inf).scatter(1, top.indices, top.values)
        chosen = torch.multinomial((among / temperature).softmax(-1), 1, generator=generator)
        return log_probs.gather(1, chosen), chosen

    return _generate(begin(model, x, lengths, new, end_id), draw)


def _generate(rows: Rows, choose: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Decoded:
    """choose: log-probabilities (B, V) to the value and the id of one of them each, (B, 1)."""
    given, zeros = rows.room()
    read, longest = int(rows.before.min()), given.shape[1]
    even = bool((rows.stop == longest).all() and (rows.before == read).all())
    chunk = given[:, :read]
    tokens, log_probs = [chunk], [zeros[:, :read]]
    for t in range(read, longest):
        logits = rows.model.step(chunk, rows.state, last=True)[:, -1]  # (B, V)
        value, chunk = choose(log_softmax(logits))  # (B, 1) each
        if rows.end_id is not None or not even:
            # A row that is still in its prompt keeps it; one that is past its end gets PAD.
            keep = ((t < rows.before) | (t >= rows.stop))[:, None]
            chunk = torch.where(keep, given[:, t : t + 1], chunk)
            value = value.masked_fill(keep, 0.0)
        tokens.append(chunk)
        log_probs.append(value)
        rows.end(chunk[:, 0], t)
        if rows.end_id is not None and bool((rows.stop <= t + 1).all()):
            break
    return rows.cut(torch.cat(tokens, 1), torch.cat(log_probs, 1), len(tokens) - 1)


@decoder
def beam(
    model: Autoregressive,
    x: Tensor,
    lengths: Lengths = None,
    new: New = None,
    end_id: int | None = None,
    width: int = 4,
) -> Decoded:
    """The best sequence found when the ``width`` best prefixes are kept at each step.

    As ``greedy``, which is ``width=1``. Scores are sums of log-probabilities, not divided by
    length. Exact when width >= V ** (T - 1).
    """
    check_whole("width", width)
    rows, B, K = begin(model, x, lengths, new, end_id), len(x), width
    tokens, log_probs = rows.room()
    read, longest, state = int(rows.before.min()), tokens.shape[1], rows.state
    first = torch.arange(B, device=x.device) * K  # beam k of row b is b * K + k
    copies = torch.arange(B, device=x.device).repeat_interleave(K)
    rows.before, rows.stop = rows.before[copies], rows.stop[copies]
    # One beam to begin with: alike, they would stay alike.
    score = log_probs.new_full((B * K,), -math.inf).index_fill(0, first, 0.0)

    logits = model.step(tokens[:, :read], state, last=True)[:, -1][copies]
    tokens, log_probs = tokens[copies], log_probs[copies]
    state.reorder(copies)
    for t in range(read, longest):
        p = log_softmax(logits)  # (B * K, V)
        given = (t < rows.before) | (t >= rows.stop)
        if bool(given.any()):  # a given token costs nothing, every other is out of the question
            only = torch.full_like(p, -math.inf).scatter_(1, tokens[:, t, None], 0.0)
            p = torch.where(given[:, None], only, p)
        V = p.shape[-1]
        score, best = (score.view(B, K, 1) + p.view(B, K, V)).flatten(1).topk(K)  # (B, K) each
        parent, chosen = (best // V + first[:, None]).flatten(), best.flatten() % V  # (B * K,)
        tokens, log_probs, rows.stop = tokens[parent], log_probs[parent], rows.stop[parent]
        tokens[:, t], log_probs[:, t] = chosen, p[parent, chosen]
        # Scores only fall: where a row's best has ended, no other will pass it.
        rows.end(chosen, t)
        best_stop = rows.stop.view(B, K).gather(1, score.argmax(1, keepdim=True))
        if bool((best_stop <= t + 1).all()):
            break
        state.cache.reorder(parent)  # beams of a row have one source
        logits = model.step(chosen[:, None], state)[:, -1]
    top = score.argmax(1) + first
    rows.before, rows.stop = rows.before[top], rows.stop[top]
    return rows.cut(tokens[top], log_probs[top], t + 1 - read)


@decoder
def log_likelihood(model: Autoregressive, x: Tensor, y: Tensor, lengths: Lengths = None) -> Tensor:
    """log p(y_t | y_<t, x) of given tokens y (B, T), all at once (teacher forcing): (B, T).

    For a ``DecoderLM``, x is the prompt that y goes on from, and every row of it has to be full.
    """
    lengths = _check(model, x, lengths)
    if not isinstance(model, EncoderDecoderAR):
        full = bool((lengths == x.shape[1]).all())
        expect(full, "lengths", f"full prompts, {x.shape[1]} each", lengths)
    model.check_input(y, model.config.target_vocab, "y")
    expect(len(y) == len(x), "y", f"{len(x)} rows as in x", len(y))
    state, prompt, _ = model.start(x, lengths, y.shape[1])
    together = torch.cat((prompt, y), dim=1)[:, : prompt.shape[1] + y.shape[1] - 1]
    logits = model.step(together, state)[:, prompt.shape[1] - 1 :]  # (B, T, V)
    return log_softmax(logits).gather(2, y[..., None])[..., 0]
