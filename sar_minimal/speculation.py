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
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from .algorithm1 import DualStreamSAR
from .autoregressive import Autoregressive, EncoderDecoderAR
from .blocks import Model, decoder, log_softmax
from .checks import Refusal, WrongType, check_range, check_tokens, check_whole, expect
from .data import Decoded
from .decoding import begin, cut, zeros
from .shift import PAD, past_end
from .shifted import ShiftedLM


@decoder
def jacobi(
    model: Autoregressive,
    x: Tensor,
    lengths=None,
    new=None,
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
    state, prompt, before, stop = begin(model, x, lengths, new, end_id)
    tokens, log_probs, at = _room(model, prompt, before, stop)
    longest, done, read, steps = len(at), before, 0, 0
    while (first := int(done.min())) < longest:
        last = min(first + window, longest)
        state.cache.used = read  # what lies behind was a guess
        logits = model.step(tokens[:, read : last - 1], state)[:, first - 1 - read :]
        steps += 1
        value, best = log_softmax(logits).max(-1)  # (B, last - first) each
        guess, given = tokens[:, first:last], at[first:last] < before[:, None]
        best = torch.where(given, guess, best)
        holds = (guess == best).cumprod(1).sum(1)  # (B,): how many before the first that changed
        tokens[:, first:last], log_probs[:, first:last] = best, value
        # The first that changed had a right past all the same, so what it changed to is right.
        done = torch.maximum(done, (first + holds + 1).clamp(max=last))
        done, stop = _settle(tokens, before, stop, done, end_id)
        read = int(done.min()) - 1
    return cut(model, tokens, log_probs, before, stop, steps)


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
    draft: DualStreamSAR | ShiftedLM | Callable,
    lengths=None,
    new=None,
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
    seen). Raises TypeError or ValueError on wrong input, also on a wrong answer of ``draft``.
    """
    check_whole("window", window)
    state, prompt, before, stop = begin(model, x, lengths, new, end_id)
    warm = temperature is None or (isinstance(temperature, Real) and temperature > 0)
    expect(warm, "temperature", "> 0, or None for greedy", temperature)
    ask = _asker(model, x, lengths, draft, temperature, generator)
    stands = isinstance(draft, DualStreamSAR)
    tokens, log_probs, at = _room(model, prompt, before, stop)
    longest, done, read, steps = len(at), before, 0, 0
    while (first := int(done.min())) < longest:
        if steps == 0 or not stands:
            own = torch.minimum(done, stop)  # of a row that has ended, its end
            seen = tokens.masked_fill(past_end(own, longest), PAD)[:, : int(own.max())]
            guess, q = ask(seen, own)
            # Behind the last guess comes one token more: its past is checked in the same pass.
            reach = int(done.masked_fill(done == longest, 0).max()) + guess.shape[1] + 1
            tokens, q = _place(guess, q, tokens, at, done)
            steps += 1
        last = min(first + window, longest) if stands else min(first + window, reach, longest)
        state.cache.used = read  # what lies behind was a guess, or comes again
        logits = model.step(tokens[:, read : last - 1], state)[:, first - 1 - read :]
        steps += 1
        guess, fixed = tokens[:, first:last], at[first:last] < done[:, None]  # (B, last - first)
        holds, other = _judge(logits, guess, fixed, q, first, temperature, generator)
        turned_down = at[first:last] == first + holds[:, None]
        chosen = torch.where(turned_down, other, guess)
        value = log_softmax(logits).gather(2, chosen[..., None])[..., 0]
        tokens[:, first:last], log_probs[:, first:last] = chosen, value
        done = torch.maximum(done, (first + holds + 1).clamp(max=last))
        done, stop = _settle(tokens, before, stop, done, end_id)
        read = int(done.min()) - 1
    return cut(model, tokens, log_probs, before, stop, steps)


def _room(model, prompt, before, stop):
    """Tokens and log-probabilities, (B, longest) each, and their positions, (longest,)."""
    at = torch.arange(int(stop.max()), device=prompt.device)
    tokens = F.pad(prompt.long(), (0, len(at) - prompt.shape[1]), value=PAD)
    tokens = tokens.masked_fill(past_end(before, len(at)), PAD)
    return tokens, zeros(tokens, model), at


def _settle(tokens, before, stop, done, end_id):
    """A row stops behind the first end token it has fixed; one that has stopped holds nobody up."""
    if end_id is not None:
        at = torch.arange(tokens.shape[1], device=tokens.device)
        ends = (tokens == end_id) & (at >= before[:, None]) & (at < done[:, None])
        stop = torch.minimum(stop, torch.where(ends, at + 1, len(at)).amin(1))
    return done.masked_fill(done >= stop, tokens.shape[1]), stop


def _asker(model, x, lengths, draft, temperature, generator):
    """A function of (tokens, lengths) that returns checked guesses (B, k) and what each was drawn
    from, (B, k, V), None if greedy."""
    V = model.config.target_vocab
    if isinstance(draft, DualStreamSAR | ShiftedLM):
        one_pass = isinstance(draft, DualStreamSAR)
        if one_pass and not isinstance(model, EncoderDecoderAR):
            no_source = f"but {type(model).__name__} has no source"
            raise WrongType(f"draft: a DualStreamSAR guesses y given x, {no_source}")
        for side in ("source_vocab", "target_vocab")[not one_pass :]:
            one, other = (getattr(m.config, side) for m in (model, draft))
            expect(one == other, "draft", f"{side} {one} as in model", other)

        def ask(tokens, own):
            logits = draft(x, lengths) if one_pass else draft.ahead(tokens, own)  # (B, k, V)
            if temperature is None:
                return logits.argmax(-1), None
            q = (logits / temperature).softmax(-1)
            drawn = torch.multinomial(q.flatten(0, 1), 1, generator=generator)
            return drawn.view(q.shape[:2]), q

        return ask
    if isinstance(draft, Model) or not callable(draft):
        expected = "a DualStreamSAR, a ShiftedLM or a function of (tokens, lengths)"
        raise WrongType(f"draft: expected {expected}, got {type(draft).__name__}")

    def ask(tokens, own):
        answer = draft(tokens, own)
        guess, q = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        check_tokens(guess, "draft")
        expect(len(guess) == len(tokens), "draft", f"guesses for {len(tokens)} rows", len(guess))
        check_range(guess, V, "draft")
        if temperature is None:
            return guess.long(), None
        if q is None:
            return guess.long(), F.one_hot(guess.long(), V).float()  # drawn, but without a choice
        if not isinstance(q, Tensor) or q.shape != (*guess.shape, V):
            got = tuple(q.shape) if isinstance(q, Tensor) else type(q).__name__
            raise Refusal(f"draft: expected probabilities of shape {(*guess.shape, V)}, got {got}")
        return guess.long(), q

    return ask


def _judge(logits, guess, fixed, q, first, temperature, generator):
    """How many guesses hold in each row before the first that does not, (B,), and what the model
    says there instead: (B, n) its choice at each position, or (B, 1) a draw at that one."""
    if temperature is None:
        best = logits.argmax(-1)
        return (fixed | (guess == best)).cumprod(1).sum(1), best
    n = guess.shape[1]
    keep, rest = acceptance((logits / temperature).softmax(-1), q[:, first : first + n])
    kept = torch.bernoulli(keep.gather(2, guess[..., None])[..., 0], generator=generator)
    holds = (fixed | kept.bool()).cumprod(1).sum(1)
    rest = rest[torch.arange(len(rest), device=rest.device), holds.clamp(max=n - 1)]  # (B, V)
    return holds, torch.multinomial(rest, 1, generator=generator)


def _place(guess, q, tokens, at, done):
    """Put row b's guesses at done[b] and after; q likewise, (B, longest, V), 0 elsewhere."""
    k = guess.shape[1]
    ahead = at - done[:, None]  # (B, longest)
    fresh, ahead = (ahead >= 0) & (ahead < k), ahead.clamp(0, k - 1)
    tokens = torch.where(fresh, guess.gather(1, ahead), tokens)
    if q is not None:
        q = q.gather(1, ahead[..., None].expand(-1, -1, q.shape[-1]))
        q = q.masked_fill(~fresh[..., None], 0.0)
    return tokens, q
