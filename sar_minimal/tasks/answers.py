"""Answers as a table: p(y | x) of every y that is possible for one x, and what there is to know of it.

One pass says each y_t by p(y_t | x) alone, step by step each by p(y_t | y_<t, x). How far these are
apart takes no training to know where the table is small (sections 2 and 4 of the document).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ..errors import expect

Question = Sequence[str]  # x
Choices = Sequence[Mapping[str, float]]  # p(y_t | x) of each place, independent
Texts = Mapping[tuple[str, ...], float]  # p(y | x) of each whole y that is possible


def any_of(*values: str) -> dict[str, float]:
    """Each as likely as the others."""
    return dict.fromkeys(values, 1 / len(values))


def any_text(texts: Sequence[Sequence[str]]) -> dict[tuple[str, ...], float]:
    """Each whole answer as likely as the others."""
    return dict.fromkeys(map(tuple, texts), 1 / len(texts))


def independent(places: Choices) -> dict[tuple[str, ...], float]:
    """Every way to choose at each place.

    >>> independent([{"a": 1.0}, {"b": 0.25, "c": 0.75}])
    {('a', 'b'): 0.25, ('a', 'c'): 0.75}
    """
    rows = (zip(*row, strict=True) for row in product(*(place.items() for place in places)))
    return {y: math.prod(p) for y, p in rows}


@dataclass(frozen=True)
class Known:
    """What there is to know of p(y | x), for one x. Nats a sequence.

    entropy: H(y | x). correlation: TC(y | x), what one pass loses. valid: how often a draw of the
    exact one-pass model is a y that is possible. rejections: how many of its tokens the exact
    autoregressive model turns down, in the mean (draft and verify).
    """

    entropy: float
    correlation: float
    valid: float
    rejections: float


def known(texts: Texts) -> Known:
    """Sums over all y. Raises Refusal where these are no probabilities, or of several lengths."""
    lengths = {len(y) for y in texts}
    expect(len(lengths) == 1, "texts", "answers of one length", sorted(lengths))
    total = math.fsum(texts.values())
    fits = min(texts.values()) >= 0 and abs(total - 1) < 1e-9
    expect(fits, "texts", "probabilities that sum to 1", total)
    T = lengths.pop()
    q: list[dict[str, float]] = [defaultdict(float) for _ in range(T)]  # p(y_t | x)
    prefix: dict[tuple[str, ...], float] = defaultdict(float)  # p(y_<=t | x)
    for y, p in texts.items():
        for t in range(T):
            q[t][y[t]] += p
            prefix[y[: t + 1]] += p
    H = sum(-p * math.log(p) for p in texts.values() if p)
    each = sum(-p * math.log(p) for marginal in q for p in marginal.values() if p)
    # Of the draft's y_t = v the verifier keeps min(1, p / q): in all, sum_v min(p, q) given y_<t.
    kept = sum(min(p, prefix.get(y[:-1], 1.0) * q[len(y) - 1][y[-1]]) for y, p in prefix.items())
    valid = sum(math.prod(q[t][y[t]] for t in range(T)) for y, p in texts.items() if p)
    return Known(H, each - H, valid, T - kept)
