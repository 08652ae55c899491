"""An n-gram language model, interpolated Kneser-Ney, counted in numpy."""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import Refusal, expect
from ..shift import END, START, UNKNOWN
from .ids import check_ids

Table = dict[int, float]  # of n-grams or contexts, packed as below: a log probability


class _Level(NamedTuple):
    """One order of Kneser-Ney: n-grams packed into int64 keys, the last token the lowest digit."""

    grams: np.ndarray  # (G,) sorted keys of the n-grams seen
    direct: np.ndarray  # (G,) discounted relative frequency of each
    contexts: np.ndarray  # (C,) sorted keys of their first n - 1 tokens
    left_over: np.ndarray  # (C,) the mass that the discount leaves to the order below


class KneserNey:
    """An interpolated Kneser-Ney language model over ``order`` tokens (Chen & Goodman 1999).

    With h the n - 1 tokens before w, and h' the same without the first of them, ::

        p_n(w | h) = max(c(h w) - D, 0) / c(h)  +  D N(h .) / c(h) * p_{n-1}(w | h')

    and p_{n-1} where h was never seen; below p_1 stands the uniform distribution. At the highest
    order c counts occurrences. Below it counts *different tokens to the left*, because the lower
    order speaks only where the higher one has not seen the pair: how freely a token follows, not
    how often it is there. (An n-gram that opens a sentence has nothing to its left, so it keeps its
    occurrences.) N(h .) is the number of different tokens after h. D = n_1 / (n_1 + 2 n_2) from the
    numbers of n-grams counted once and twice (Ney, Essen & Kneser 1994), kept within 0.05..0.95
    where they are too few to say.

    A sentence is read with order - 1 START before it and ends with END. Events: END, UNKNOWN and
    all ids behind it, up to ``vocabulary`` - 1 (None: the highest in ``ys``); their probabilities
    sum to 1 in every context. Raises ValueError on another order, on an empty sentence or none, on
    ids that are no event, and on more ids than n-grams of that order can be numbered with.
    """

    def __init__(self, ys: Sequence[Sequence[int]], order: int, vocabulary: int | None = None):
        expect(order in (1, 2, 3) and order is not True, "order", "1, 2 or 3", order)
        if not len(ys) or not all(map(len, ys)):
            raise Refusal("ngram: expected at least one sentence and no empty one")
        check_ids(ys, "ngram")
        low, high = min(map(min, ys)), max(map(max, ys))
        self.order, self.base = order, high + 1 if vocabulary is None else vocabulary
        if high >= self.base or low < UNKNOWN:
            raise Refusal(f"ngram: expected ids in {UNKNOWN}..{self.base - 1}, got {low}..{high}")
        most = int(2 ** (63 / order)) - 1  # else n-grams have no number of 63 bits
        expect(self.base <= most, "vocabulary", f"at most {most} at order {order}", self.base)
        grams, counts = np.unique(self._grams(ys)[0], return_counts=True)
        self.levels: list[_Level] = []
        for n in range(order, 0, -1):
            self.levels.insert(0, self._level(grams, counts))
            lower = grams % self.base ** (n - 1)
            opens = lower // self.base ** max(n - 2, 0) == START
            grams, where = np.unique(lower, return_inverse=True)
            counts = np.bincount(where, np.where(opens, counts, 1)).astype(np.int64)

    def _grams(self, ys: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """The key of the n-gram that ends at each token and each END, and whose sentence it is."""
        pad = [START] * (self.order - 1)
        flat = np.fromiter((i for y in ys for i in (*pad, *y, END)), np.int64)
        row = np.repeat(np.arange(len(ys)), np.fromiter(map(len, ys), np.int64) + self.order)
        keys = flat.copy()
        for k in range(1, self.order):
            keys[k:] += flat[:-k] * self.base**k
        events = flat != START
        return keys[events], row[events]

    def _level(self, grams: np.ndarray, counts: np.ndarray) -> _Level:
        """An order of the model from its n-grams (sorted keys) and their counts, both (G,)."""
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        D = float(np.clip(once / max(once + 2 * twice, 1), 0.05, 0.95))
        h = grams // self.base
        contexts, first, types = np.unique(h, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        direct = (counts - D) / np.repeat(totals, types)  # every count is at least 1 > D
        return _Level(grams, direct, contexts, D * types / totals)

    def prob(self, context: np.ndarray, token: np.ndarray, order: int | None = None) -> np.ndarray:
        """p(token | context), elementwise (broadcast); a context is the key of order - 1 tokens."""
        p = np.array(1 / (self.base - UNKNOWN + 1))  # uniform: END, UNKNOWN and all that follow it
        for n, level in enumerate(self.levels[:order]):
            h = context % self.base**n
            p = look_up(level.contexts, level.left_over, h, 1.0) * p
            p = p + look_up(level.grams, level.direct, h * self.base + token, 0.0)
        return p

    @functools.cached_property
    def _tables(self) -> tuple[list[float], Table, Table, Table, Table]:
        """For ``log_p``: p of each token, of pairs and triples seen, and what is left to others."""
        single = np.log(self.prob(np.array(0), np.arange(self.base), 1)).tolist()
        tables: list[Table] = []
        for n, level in enumerate(self.levels[1:], 2):
            p = self.prob(level.grams // self.base, level.grams % self.base, n)
            for keys, values in ((level.grams, p), (level.contexts, level.left_over)):
                tables.append(dict(zip(keys.tolist(), np.log(values).tolist(), strict=True)))
        pairs, pair_left, triples, triple_left = [*tables, {}, {}, {}, {}][:4]
        return single, pairs, pair_left, triples, triple_left

    def log_p(self, u: int, v: int, tokens: Iterable[int]) -> list[float]:
        """log p(w | u, v) in nats of each w in ``tokens``: ``prob``, quick for a search in Python.

        Of u and v only what the order reaches is looked at. Nothing is checked.
        """
        single, pairs, pair_left, triples, triple_left = self._tables
        h, log_p = u * self.base + v, []
        left_2, left_3 = pair_left.get(v, 0.0), triple_left.get(h, 0.0)
        seen = h in triple_left
        for w in tokens:
            p = triples.get(h * self.base + w) if seen else None
            if p is None:
                p = pairs.get(v * self.base + w)
                p = left_3 + (left_2 + single[w] if p is None else p)
            log_p.append(p)
        return log_p

    def log_prob(self, ys: Sequence[Sequence[int]]) -> np.ndarray:
        """log p(y </s>) of each sentence, in nats: (N,). Ids that are no event raise ValueError."""
        if not len(ys):
            return np.zeros(0)
        check_ids(ys, "log_prob")
        if any(not UNKNOWN <= i < self.base for y in ys for i in y):
            raise Refusal(f"log_prob: expected ids in {UNKNOWN}..{self.base - 1}")
        keys, row = self._grams(ys)
        p = self.prob(keys // self.base, keys % self.base)
        return np.bincount(row, np.log(p), minlength=len(ys))


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, default: float) -> np.ndarray:
    """The value of each wanted key, ``default`` where it is not among the sorted ``keys``."""
    nearest = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
    return np.where(keys[nearest] == wanted, values[nearest], default)
