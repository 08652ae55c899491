"""An n-gram that converts pinyin: a hidden Markov model, the hanzi y hidden, the syllables x seen.

``NGram`` finds, exactly (Viterbi), ::

    y* = argmax_y  prod_t p(y_t | y_{t-n+1..t-1}) p(x_t | y_t) * p(</s> | y_{T-n+2..T})
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..data import Split
from ..errors import Refusal, expect
from ..shift import END, START, UNKNOWN
from .ids import check_ids
from .kneser_ney import KneserNey, look_up


class Column(NamedTuple):
    """The hanzi that may stand at one position, (V,), and their log weights, (V,)."""

    name: object  # stands for the other two, so pairs are remembered under it; None for nothing
    hanzi: np.ndarray
    weights: np.ndarray


class _Pair(NamedTuple):
    """Of neighbouring columns with U and V hanzi; the last two for trigrams only."""

    step: np.ndarray  # (U, V), log p_2(v | u) + the weight of v; at order 1, u is not looked at
    left: np.ndarray = np.zeros(())  # (U, V), log of what is left over behind u v for the unseen
    seen: tuple[np.ndarray, ...] = ()  # the u and the v of those that trigrams were seen to follow


class NGram:
    """The hidden Markov model above, fitted on a ``Split`` with len(x) == len(y) in each pair.

    order: 1 (the most frequent hanzi of each syllable), 2 or 3. The language model is a
    ``KneserNey``, the emission p(x_t | y_t) the relative frequency of y_t's readings, so only hanzi
    seen with a syllable are its ``candidates``. A syllable that training never saw gives UNKNOWN,
    and decoding goes on. vocabulary: size of the target's (None: its largest id + 1).
    Raises ValueError on another order, an empty split, or a pair of unequal lengths.
    """

    def __init__(self, split: Split, order: int, vocabulary: int | None = None):
        if not len(split):
            raise Refusal("ngram: expected a split with at least one pair, got an empty one")
        for i, (xs, ys) in enumerate(zip(split.x, split.y, strict=True)):
            if len(xs) != len(ys):
                tokens = f"{len(xs)} source and {len(ys)} target tokens"
                raise Refusal(f"ngram: pair {i} has {tokens}; expected as many")
        check_ids(split.x, "ngram")
        self.model = KneserNey(split.y, order, vocabulary)
        self.order, base = order, self.model.base
        most = 2**63 // base - 2
        low, high = min(map(min, split.x)), max(map(max, split.x))
        expect(0 <= low <= high <= most, "ngram", f"syllables in 0..{most}", (low, high))
        x, y = (np.array([i for row in rows for i in row], np.int64) for rows in (split.x, split.y))
        readings, counts = np.unique(x * base + y, return_counts=True)
        emission = np.log(counts / np.bincount(y)[readings % base])
        syllables, first = np.unique(readings // base, return_index=True)
        hanzi, weights = (np.split(row, first[1:]) for row in (readings % base, emission))
        names = syllables.tolist()
        self.candidates = dict(zip(names, map(Column, names, hanzi, weights), strict=True))
        self._start, self._end, self._unseen = (  # read for certain, and an unseen syllable
            Column(name, np.array([token]), np.zeros(1))
            for name, token in (("start", START), ("end", END), ("unseen", UNKNOWN))
        )
        self._pairs: dict[tuple[object, object], _Pair] = {}
        if order == 3:  # log p of every trigram seen, so that decoding only looks them up
            grams = self.model.levels[2].grams
            self._seen = np.log(self.model.prob(grams // base, grams % base))

    def log_prob(self, ys: Sequence[Sequence[int]]) -> np.ndarray:
        """log p(y </s>) of each sentence under the language model alone, in nats: (N,)."""
        return self.model.log_prob(ys)

    def decode(self, xs: Iterable[Sequence[int]]) -> list[list[int]]:
        """The most probable hanzi of each sentence of syllables; as long as it."""
        xs, known, unseen = list(xs), self.candidates, self._unseen
        check_ids(xs, "decode")
        return [self._viterbi([known.get(int(s), unseen) for s in x]) for x in xs]

    def search(self, candidates: np.ndarray, scores: np.ndarray) -> list[int]:
        """The y that maximises log p(y </s>) + sum_t scores of y_t, exactly; no emissions in it.

        candidates: (T, K) ids, those of one position distinct. scores: (T, K) log weights, in nats,
        as of a one-pass model (``rescoring.rescore``). Raises ValueError on ids that are no tokens
        of the vocabulary or there twice, shapes that differ, or scores that are not finite.
        """
        candidates, scores = np.asarray(candidates), np.asarray(scores)
        expect(scores.dtype.kind in "fiu", "scores", "real numbers", scores.dtype.name)
        expect(candidates.dtype.kind in "iu", "candidates", "whole numbers", candidates.dtype.name)
        scores = scores.astype(np.float64)
        if candidates.ndim != 2 or not candidates.size or candidates.shape != scores.shape:
            shapes = f"{candidates.shape} and {scores.shape}"
            raise Refusal(f"candidates: expected shape (T, K) as of scores, got {shapes}")
        low, high, most = candidates.min(), candidates.max(), self.model.base - 1
        if low < UNKNOWN or high > most:
            raise Refusal(f"candidates: expected ids in {UNKNOWN}..{most}, got {low}..{high}")
        ordered = np.sort(candidates)
        if (twice := ordered[np.nonzero(np.diff(ordered, axis=1) == 0)]).size:
            raise Refusal(f"candidates: expected different ids in each row, got {twice[0]} twice")
        if not np.isfinite(scores).all():
            raise Refusal("scores: expected finite numbers")
        return self._viterbi([Column(None, c, s) for c, s in zip(candidates, scores, strict=True)])

    def _pair(self, a: Column, b: Column) -> _Pair:
        """Remembered under the names: there are few pairs of syllables, met again and again."""
        key = (a.name, b.name)
        if key in self._pairs:
            return self._pairs[key]
        u, v = a.hanzi[:, None], b.hanzi
        pair = _Pair(np.log(self.model.prob(u, v, 2)) + b.weights)
        if self.order == 3:
            level, keys = self.model.levels[2], u * self.model.base + v
            left = np.log(look_up(level.contexts, level.left_over, keys, 1.0))
            # The discount leaves less than 1 (log 0) where (u, v) was seen.
            pair = _Pair(pair.step, left, np.nonzero(left))
        if None not in key:
            self._pairs[key] = pair
        return pair

    def _viterbi(self, columns: list[Column]) -> list[int]:
        """The best path, exact, over pairs (u, v), but without the cube over (u, v, w). ::

            a     b      c       best[u, v]: the score of the best path that ends in u v
            u1 -.
            u2 --- v1 --- w1     once for all w: the best u of v1, as if no trigram had been seen
            u3 -'     '-- w2     then (u3, v1, w2), which was: where it is better, it replaces it

        For a trigram never seen, log p(w | u, v) = left(u, v) + log p_2(w | v): the best u does not
        depend on w. The trigrams seen are few, and what they have in truth is never less than that,
        so putting them in by a second maximum makes the result exact. A bigram has none.
        """
        a = b = self._start
        best, back, columns = np.zeros((1, 1)), [], [*columns, self._end]
        for c in columns:
            backed_off = best + self._pair(a, b).left
            u_of_v = backed_off.argmax(0)  # (V,)
            total = backed_off.max(0)[:, None] + self._pair(b, c).step  # (V, W)
            pointer = np.broadcast_to(u_of_v[:, None], total.shape)  # (V, W): the u before each
            if self.order == 3:
                pointer = pointer.copy()
                u, v, w, log_p = self._trigrams(a, b, c)
                value = best[u, v] + log_p + c.weights[w]
                np.maximum.at(total, (v, w), value)
                wins = value == total[v, w]
                pointer[v[wins], w[wins]] = u[wins]
            back.append(pointer)
            a, b, best = b, c, total
        row, column, path = int(best[:, 0].argmax()), 0, []
        for c, pointer in zip(reversed(columns), reversed(back), strict=True):
            path.append(int(c.hanzi[column]))
            row, column = int(pointer[row, column]), row
        return path[:0:-1]  # the first in it is END

    def _trigrams(self, a: Column, b: Column, c: Column) -> tuple[np.ndarray, ...]:
        """Those of three columns that training has seen: rows u, v, w, and log p(w | u, v)."""
        (u, v), base, known = self._pair(a, b).seen, self.model.base, self.model.levels[2].grams
        grams = (a.hanzi[u] * base + b.hanzi[v])[:, None] * base + c.hanzi  # (contexts seen, W)
        nearest = np.minimum(known.searchsorted(grams), len(known) - 1)
        i, w = np.nonzero(known[nearest] == grams)
        return u[i], v[i], w, self._seen[nearest[i, w]]
