"""Between one pass and step by step: guess all tokens, and keep the guesses that hold.

An autoregressive model makes tokens one by one, but it *scores* T tokens in one pass (teacher
forcing). The decoders here put the scoring to work on guesses. A guess is kept when it is what the
model would have made there, and the first that is not is replaced by what it would have made, so
each pass fixes at least one token and the result is the model's own:

====================  ===============================================  ========================
decoder               where the guesses come from                      result
====================  ===============================================  ========================
``jacobi``            the pass before                                  that of ``greedy``
``draft_and_verify``  another model, or any function                   that of ``greedy``; or a
                                                                       draw, as by ``sample``
====================  ===============================================  ========================

Only rounding can tell them from step by step: a batch of positions is summed in another order than
one position, which decides between two tokens whose logits agree to 6 digits.

Rows of a batch advance at their own speed. The cache has one length for all of them, so a pass
reads on from the first position that is open in any row; what a row has fixed beyond it is read
again and stays.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .algorithm1 import DualStreamSAR
from .autoregressive import Autoregressive, EncoderDecoderAR
from .blocks import Model, decoder, log_softmax
from .checks import Lengths, New, check_range, check_tokens, check_type, check_whole
from .data import Decoded
from .decoding import Rows, begin, check_temperature
from .errors import expect
from .shift import PAD, past_end
from .shifted import ShiftedLM


class Guesses:
    """Rows whose tokens are guessed, and fixed from the left: row b up to ``done[b]``.

    tokens, log_probs: (B, longest). at: the positions, (longest,). done: (B,), of a row that has
    ended longest, so that it holds nobody up. steps: passes so far. temperature, generator: of
    draws; None, None: the most probable tokens.
    """

    def __init__(
        self, rows: Rows, temperature: float | None = None, generator: torch.Generator | None = None
    ) -> None:
        self.rows, self.temperature, self.generator = rows, temperature, generator
        self.tokens, self.log_probs = rows.room()
        self.longest = self.tokens.shape[1]
        self.at = torch.arange(self.longest, device=self.tokens.device)
        self.done, self.steps = rows.before, 0

    @property
    def first(self) -> int:
        """The first position that is open in any row."""
        return int(self.done.min())

    def place(self, guess: Tensor, q: Tensor | None) -> Tensor | None:
        """Put guesses (B, k) at done[b] and after. q: (B, k, V), what each was drawn from, or None;
        returns it likewise, (B, longest, V), 0 elsewhere."""
        k = guess.shape[1]
        ahead = self.at - self.done[:, None]  # (B, longest)
        fresh, ahead = (ahead >= 0) & (ahead < k), ahead.clamp(0, k - 1)
        self.tokens = torch.where(fresh, guess.gather(1, ahead), self.tokens)
        if q is None:
            return None
        q = q.gather(1, ahead[..., None].expand(-1, -1, q.shape[-1]))
        return q.masked_fill(~fresh[..., None], 0.0)

    def score(self, first: int, last: int) -> Tensor:
        """The logits of positions first..last - 1 given the guesses before each, (B, last - first,
        V)."""
        cache = self.rows.state.cache
        cache.used = read = min(cache.used, first - 1)  # what lies behind was a guess
        self.steps += 1
        logits = self.rows.model.step(self.tokens[:, read : last - 1], self.rows.state)
        return logits[:, first - 1 - read :]

    def fix(self, first: int, chosen: Tensor, log_probs: Tensor, holds: Tensor) -> None:
        """Write the model's tokens from ``first`` on, (B, n) both. Of a row's guesses ``holds``
        (B,) held; the one behind them had a right past, so what stands there now is right too."""
        rows, last = self.rows, first + chosen.shape[1]
        self.tokens[:, first:last], self.log_probs[:, first:last] = chosen, log_probs
        self.done = torch.maximum(self.done, (first + holds + 1).clamp(max=last))
        if rows.end_id is not None:  # a row stops behind the first end token that it has fixed
            own = (self.at >= rows.before[:, None]) & (self.at < self.done[:, None])
            ends = torch.where((self.tokens == rows.end_id) & own, self.at + 1, self.longest)
            rows.stop = torch.minimum(rows.stop, ends.amin(1))
        self.done = self.done.masked_fill(self.done >= rows.stop, self.longest)


@decoder
def jacobi(
    model: Autoregressive,
    x: Tensor,
    lengths: Lengths = None,
    new: New = None,
    end_id: int | None = None,
    window: int = 32,
) -> Decoded:
    """``greedy`` as a fixed point: guess all tokens, replace each by the most probable one given
    the guesses before it, until none changes (Song 2021; Santilli 2023).

    Arguments, errors and tokens are those of ``greedy``. steps: passes, at most as many as its,
    since each pass fixes the first token that was open. Fewer when several hold at once. window: a
    pass looks at so many open positions at most; guesses far ahead rest on guesses, seldom hold,
    and cost as much as others.
    """
    check_whole("window", window)
    g = Guesses(begin(model, x, lengths, new, end_id))
    while (first := g.first) < g.longest:
        last = min(first + window, g.longest)
        log_p = log_softmax(g.score(first, last))  # (B, last - first, V)
        guess, fixed = g.tokens[:, first:last], g.at[first:last] < g.done[:, None]
        best = torch.where(fixed, guess, log_p.argmax(-1))
        holds = (guess == best).cumprod(1).sum(1)  # (B,): how many before the first that changed
        g.fix(first, best, log_p.gather(2, best[..., None])[..., 0], holds)
    return g.rows.cut(g.tokens, g.log_probs, g.steps)


def acceptance(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """How to make a draw from q into a draw from p (Leviathan 2023; Chen 2023).

    Keep a token v that was drawn from q with probability min(1, p(v) / q(v)); otherwise draw
    another from the rest, max(p - q, 0), normalised. What comes out is v with probability min(p,
    q)(v) + (1 - sum min(p, q)) rest(v) = p(v), whatever q is; a good q is kept more often.

    p, q: (..., V) probabilities; q = 0 everywhere where nothing was drawn, and then nothing is
    kept. Returns the probability that each token is kept, and the rest, (..., V) each.
    """
    keep = torch.where(q > 0, p / q, 0.0).clamp(max=1.0)
    rest = (p - q).clamp(min=0.0)
    total = rest.sum(-1, keepdim=True)
    return keep, torch.where(total > 0, rest / total, p)  # nothing is left when q = p: all is kept


@decoder
def draft_and_verify(
    model: Autoregressive,
    x: Tensor,
    draft: DualStreamSAR | ShiftedLM | Callable[..., Any],
    lengths: Lengths = None,
    new: New = None,
    end_id: int | None = None,
    temperature: float | None = None,
    generator: torch.Generator | None = None,
    window: int = 32,
) -> Decoded:
    """Speculation: ``draft`` guesses cheaply, ``model`` checks (Stern 2018; Leviathan 2023).

    draft: a ``DualStreamSAR`` of the same task, which guesses all of y in one pass; behind a token
    that was turned down the rest of its guess stands. Or a ``ShiftedLM`` of y, whose K shifts guess
    the K tokens that follow, in one pass each time. Or a function of tokens (B, n), the prompt and
    what is fixed, PAD behind each row's own lengths (B,), that returns guesses (B, k) for the k
    tokens that follow in each row; it is asked before each pass, about what is open then. If it
    draws them at random it returns a pair, with the probabilities (B, k, V) that each was drawn
    from. temperature: None makes the tokens of ``greedy``; else they are drawn from the
    distribution that ``sample`` draws from at this temperature, whatever the draft. The other
    arguments: as ``greedy``. window: as for ``jacobi``. steps: passes of ``model``, at most as many
    as greedy's, plus the draft's, 1 for each time it was asked (what a function does inside is not
    seen). Raises Refusal on wrong input, also on a wrong answer of ``draft``.
    """
    check_whole("window", window)
    if temperature is not None:
        check_temperature(temperature)
    g = Guesses(begin(model, x, lengths, new, end_id), temperature, generator)
    _check_draft(model, draft, g.longest - 1)
    stands, reach = isinstance(draft, DualStreamSAR), g.longest
    while (first := g.first) < g.longest:
        if g.steps == 0 or not stands:
            own = torch.minimum(g.done, g.rows.stop)  # of a row that has ended, its end
            seen = g.tokens.masked_fill(past_end(own, g.longest), PAD)[:, : int(own.max())]
            if isinstance(draft, ShiftedLM):
                guess, q = _choose(g, draft.ahead(seen, own))
            elif isinstance(draft, DualStreamSAR):
                guess, q = _choose(g, draft(x, lengths))
            else:
                guess, q = _checked(g, draft(seen, own))
            g.steps += 1
            if not stands:  # behind the last guess comes one token more: its past is checked too
                open_ = g.done.masked_fill(g.done == g.longest, 0)
                reach = min(int(open_.max()) + guess.shape[1] + 1, g.longest)
            q = g.place(guess, q)
        last = min(first + window, reach)
        logits = g.score(first, last)
        holds, chosen = _judge(g, first, logits, q)
        g.fix(first, chosen, log_softmax(logits).gather(2, chosen[..., None])[..., 0], holds)
    return g.rows.cut(g.tokens, g.log_probs, g.steps)


def _check_draft(model: Autoregressive, draft: Any, longest: int) -> None:
    """Raise Refusal unless ``draft`` can guess for ``model``, behind ``longest`` tokens at most."""
    if not isinstance(draft, Model) and callable(draft):
        return
    what = "a DualStreamSAR, a ShiftedLM or a function of (tokens, lengths)"
    check_type(draft, DualStreamSAR | ShiftedLM, "draft", what)
    sides, most = ["source_vocab", "target_vocab"], draft.config.max_length
    if isinstance(draft, ShiftedLM):
        expect(most >= longest, "draft", f"a max_length of {longest} or more", most)
        sides = ["target_vocab"]
    else:
        what = "an EncoderDecoderAR, since the draft is a DualStreamSAR, which has to read x"
        check_type(model, EncoderDecoderAR, what=what)
    for side in sides:
        one, other = (getattr(m.config, side) for m in (model, draft))
        expect(one == other, "draft", f"{side} {one} as in model", other)


def _choose(g: Guesses, logits: Tensor) -> tuple[Tensor, Tensor | None]:
    """The most probable tokens (B, k); or draws, and what each was drawn from, (B, k, V)."""
    if g.temperature is None:
        return logits.argmax(-1), None
    q = (logits / g.temperature).softmax(-1)
    drawn = torch.multinomial(q.flatten(0, 1), 1, generator=g.generator)
    return drawn.view(q.shape[:2]), q


def _checked(g: Guesses, answer: Any) -> tuple[Tensor, Tensor | None]:
    """A function's guesses, (B, k), and what each was drawn from, (B, k, V), None if greedy."""
    B, V = len(g.tokens), g.rows.model.config.target_vocab
    guess, q = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    check_tokens(guess, "draft")
    expect(len(guess) == B, "draft", f"guesses for {B} rows", len(guess))
    check_range(guess, V, "draft")
    guess = guess.long()
    if g.temperature is None:
        return guess, None
    if q is None:
        return guess, F.one_hot(guess, V).float()  # drawn, but without a choice
    shape, got = (*guess.shape, V), tuple(q.shape) if isinstance(q, Tensor) else q
    expect(got == shape, "draft", f"probabilities of shape {shape}", got)
    sums = q.is_floating_point() and (q >= 0).all() and ((q.sum(-1) - 1).abs() < 1e-3).all()
    expect(sums, "draft", "probabilities that sum to 1", q)
    return guess, q


def _judge(g: Guesses, first: int, logits: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor]:
    """How many guesses from ``first`` on hold in each row before the first that does not, (B,); and
    all of them, the first that does not replaced by what the model says there, (B, n)."""
    n = logits.shape[1]
    at, guess = g.at[first : first + n], g.tokens[:, first : first + n]
    fixed = at < g.done[:, None]
    if q is None or g.temperature is None:  # both are, or neither
        other = logits.argmax(-1)  # (B, n)
        holds = (fixed | (guess == other)).cumprod(1).sum(1)
    else:
        keep, rest = acceptance((logits / g.temperature).softmax(-1), q[:, first : first + n])
        kept = torch.bernoulli(keep.gather(2, guess[..., None])[..., 0], generator=g.generator)
        holds = (fixed | kept.bool()).cumprod(1).sum(1)
        rest = rest[torch.arange(len(rest), device=rest.device), holds.clamp(max=n - 1)]  # (B, V)
        other = torch.multinomial(rest, 1, generator=g.generator)
    return holds, torch.where(at == first + holds[:, None], other, guess)
