"""An n-gram language model, interpolated Kneser-Ney, counted in numpy."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..checks import Refusal
from ..shift import END, START, UNKNOWN


@dataclass(frozen=True)
class _Level:
    """One order of Kneser-Ney: n-grams packed into int64 keys, the last token in the lowest digit."""

    grams: np.ndarray  # (G,) sorted keys of the n-grams seen
    direct: np.ndarray  # (G,) discounted relative frequency of each
    contexts: np.ndarray  # (C,) sorted keys of their first n - 1 tokens
    left_over: np.ndarray  # (C,) the mass that the discount leaves to the order below
    bounds: np.ndarray  # (C + 1,) context c owns grams[bounds[c]:bounds[c + 1]]


class KneserNey:
    """An interpolated Kneser-Ney language model over ``order`` tokens (Kneser & Ney 1995).

    With h the n - 1 tokens before w, and h' the same without the first of them, ::

        p_n(w | h) = max(c(h w) - D, 0) / c(h)  +  D N(h .) / c(h) * p_{n-1}(w | h')

    and p_{n-1} where h was never seen; below p_1 stands the uniform distribution. At the highest order c
    counts occurrences. Below it counts *different tokens to the left*, because the lower order speaks only
    where the higher one has not seen the pair: how freely a token follows, not how often it is there. (An
    n-gram that opens a sentence has nothing to its left, so it keeps its occurrences.) N(h .) is the number
    of different tokens after h. D = n_1 / (n_1 + 2 n_2) from the numbers of n-grams counted once and twice
    (Ney, Essen & Kneser 1994), kept within 0.05..0.95 where they are too few to say.

    A sentence is read with order - 1 START before it and ends with END. Events: END, UNKNOWN and all ids from
    4 to ``vocabulary`` - 1; their probabilities sum to 1 in every context.
    """

    def __init__(self, ys: Sequence[Sequence[int]], order: int, vocabulary: int | None = None):
        if isinstance(order, bool) or order not in (1, 2, 3):
            raise Refusal(f"order: expected 1, 2 or 3, got {order!r}")
        if not len(ys) or not all(map(len, ys)):
            raise Refusal("ngram: expected at least one sentence and no empty one")
        highest = max(map(max, ys))
        self.order, self.base = order, highest + 1 if vocabulary is None else vocabulary
        if highest >= self.base or min(map(min, ys)) < UNKNOWN:
            raise Refusal(
                f"ngram: expected ids in {UNKNOWN}..{self.base - 1}, got {min(map(min, ys))}..{highest}"
            )
        grams, counts = np.unique(self._grams(ys)[0], return_counts=True)
        self.levels: list[_Level] = []
        for n in range(order, 0, -1):
            self.levels.insert(0, self._level(grams, counts))
            lower = grams % self.base ** (n - 1)
            opens = lower // self.base ** max(n - 2, 0) == START
            grams, where = np.unique(lower, return_inverse=True)
            counts = np.bincount(where, np.where(opens, counts, 1)).astype(np.int64)

    def _grams(self, ys: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """The key of the n-gram that ends at each token and at each END, and whose sentence it is."""
        pad = [START] * (self.order - 1)
        flat = np.fromiter((i for y in ys for i in (*pad, *y, END)), np.int64)
        row = np.repeat(np.arange(len(ys)), np.fromiter(map(len, ys), np.int64) + self.order)
        keys = flat.copy()
        for k in range(1, self.order):
            keys[k:] += flat[:-k] * self.base**k
        events = flat != START
        return keys[events], row[events]

    def _level(self, grams: np.ndarray, counts: np.ndarray) -> _Level:
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        D = float(np.clip(once / max(once + 2 * twice, 1), 0.05, 0.95))
        contexts, first, types = np.unique(
            grams // self.base, return_index=True, return_counts=True
        )
        totals = np.add.reduceat(counts, first)
        direct = (counts - D) / np.repeat(totals, types)  # every count is at least 1 > D
        return _Level(grams, direct, contexts, D * types / totals, np.append(first, len(grams)))

    def prob(self, context: np.ndarray, token: np.ndarray, order: int | None = None) -> np.ndarray:
        """p(token | context), elementwise; a context is the key of its order - 1 tokens (broadcast)."""
        p = 1 / (self.base - UNKNOWN + 1)  # END, UNKNOWN, 4 ..: uniform
        for n, level in enumerate(self.levels[:order]):
            h = context % self.base**n
            p = look_up(level.contexts, level.left_over, h, 1.0) * p
            p = p + look_up(level.grams, level.direct, h * self.base + token, 0.0)
        return p

    @functools.cached_property
    def _tables(self) -> tuple:
        """Log probabilities in dicts, for a search that asks for one at a time: see ``log_p``."""
        seen, left_over = [{}, {}, {}], [{}, {}, {}]
        for n, level in enumerate(self.levels):
            p = self.prob(level.grams // self.base, level.grams % self.base, n + 1)
            seen[n] = dict(zip(level.grams.tolist(), np.log(p).tolist(), strict=True))
            left = np.log(level.left_over).tolist()
            left_over[n] = dict(zip(level.contexts.tolist(), left, strict=True))
        every = np.log(self.prob(np.array(0), np.arange(self.base), 1)).tolist()
        return every, seen[1], left_over[1], seen[2], left_over[2]

    def log_p(self, u: int, v: int, tokens: Iterable[int]) -> list[float]:
        """log p(w | u, v) in nats of each w in ``tokens``, as ``prob`` has it: quick for a search in Python.

        Of u and v only what the order reaches is looked at. Nothing is checked.
        """
        single, pairs, pair_left, triples, triple_left = self._tables
        h, found = u * self.base + v, []
        left_2, left_3 = pair_left.get(v, 0.0), triple_left.get(h, 0.0)
        seen = h in triple_left
        for w in tokens:
            p = triples.get(h * self.base + w) if seen else None
            if p is None:
                p = pairs.get(v * self.base + w)
                p = left_3 + (left_2 + single[w] if p is None else p)
            found.append(p)
        return found

    def log_prob(self, ys: Sequence[Sequence[int]]) -> np.ndarray:
        """log p(y </s>) of each sentence, in nats: (N,). Ids outside the vocabulary raise ValueError."""
        if not len(ys):
            return np.zeros(0)
        if any(not UNKNOWN <= i < self.base for y in ys for i in y):
            raise Refusal(f"log_prob: expected ids in {UNKNOWN}..{self.base - 1}")
        keys, row = self._grams(ys)
        p = self.prob(keys // self.base, keys % self.base)
        return np.bincount(row, np.log(p), minlength=len(ys))


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, default: float) -> np.ndarray:
    """The value of each wanted key, ``default`` where it is not among the sorted ``keys``."""
    at = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], default)
