"""An n-gram as a converter of pinyin: a hidden Markov model, the hanzi y hidden, the syllables x seen.

``NGram`` finds, exactly (Viterbi), ::

    y* = argmax_y  prod_t p(y_t | y_{t-n+1..t-1}) p(x_t | y_t) * p(</s> | y_{T-n+2..T})

so an error of it is an error of the model, never of the search (section 5).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ..checks import Refusal
from ..shift import END, START, UNKNOWN
from .kneser_ney import KneserNey, look_up


class NGram:
    """The hidden Markov model above, fitted on a ``Split`` with len(x) == len(y) in each pair.

    order: 1 (the most frequent hanzi of each syllable), 2 or 3. The language model is ``KneserNey``, the
    emission p(x_t | y_t) the relative frequency of y_t's readings, so only a hanzi seen with a syllable is a
    candidate for it. A syllable that training never saw gives UNKNOWN, and decoding goes on.
    vocabulary: size of the target vocabulary (its largest id + 1 if not given).
    Raises ValueError on another order, an empty split, or a pair of unequal lengths.
    """

    def __init__(self, split, order: int, vocabulary: int | None = None):
        if not len(split):
            raise Refusal("ngram: expected a split with at least one pair, got an empty one")
        for i, (x, y) in enumerate(zip(split.x, split.y, strict=True)):
            if len(x) != len(y):
                raise Refusal(
                    f"ngram: pair {i} has {len(x)} source and {len(y)} target tokens; expected as many"
                )
        self.model = KneserNey(split.y, order, vocabulary)
        self.order, base = order, self.model.base
        x, y = (
            np.fromiter((i for row in rows for i in row), np.int64) for rows in (split.x, split.y)
        )
        readings, counts = np.unique(x * base + y, return_counts=True)
        emission = np.log(counts / np.bincount(y)[readings % base])
        syllables, first = np.unique(readings // base, return_index=True)
        self._candidates = {
            s: (hanzi, e)
            for s, hanzi, e in zip(
                syllables.tolist(),
                np.split(readings % base, first[1:]),
                np.split(emission, first[1:]),
                strict=True,
            )
        }
        nothing = np.zeros(1)  # START and END are read for certain, an unseen syllable as UNKNOWN
        self._start, self._end = (np.array([START]), nothing), (np.array([END]), nothing)
        self._unseen = (np.array([UNKNOWN]), nothing)
        self._pairs: dict = {}
        if order == 3:  # log p of every trigram seen, so that decoding only looks them up
            top = self.model.levels[2]
            self._seen = np.log(self.model.prob(top.grams // base, top.grams % base))

    def log_prob(self, ys: Sequence[Sequence[int]]) -> np.ndarray:
        """log p(y </s>) of each sentence under the language model alone, in nats: (N,)."""
        return self.model.log_prob(ys)

    def decode(self, xs: Iterable[Sequence[int]]) -> list[list[int]]:
        """The most probable hanzi of each sentence of syllables; as long as it."""
        return [
            self._search([(s, *self._candidates.get(s, self._unseen)) for s in map(int, x)])
            for x in xs
        ]

    def search(self, candidates: np.ndarray, scores: np.ndarray) -> list[int]:
        """The y that maximises log p(y </s>) + sum_t scores of y_t, exactly; its emissions stay out of it.

        candidates: (T, K) ids, those of one position distinct. scores: (T, K) log weights, in nats, from
        elsewhere: a one-pass model's (``rescoring.rescore``). Raises ValueError on ids that are no tokens
        of the vocabulary, shapes that differ, or scores that are not finite.
        """
        candidates, scores = np.asarray(candidates), np.asarray(scores, dtype=np.float64)
        if candidates.ndim != 2 or not candidates.size or candidates.shape != scores.shape:
            raise Refusal(
                f"candidates: expected shape (T, K) as of scores, got {candidates.shape} and {scores.shape}"
            )
        if candidates.min() < UNKNOWN or candidates.max() >= self.model.base:
            raise Refusal(
                f"candidates: expected ids in {UNKNOWN}..{self.model.base - 1}, got "
                f"{candidates.min()}..{candidates.max()}"
            )
        if not np.isfinite(scores).all():
            raise Refusal("scores: expected finite numbers")
        return self._search([(None, c, s) for c, s in zip(candidates, scores, strict=True)])

    def _search(self, columns: list[tuple]) -> list[int]:
        """columns: (name, hanzi, log weight) of each position; a name stands for all three, None for nothing."""
        step = self._viterbi_trigram if self.order == 3 else self._viterbi_bigram
        return step([*columns, ("end", *self._end)])

    def _pair(self, a: tuple, b: tuple) -> tuple[np.ndarray, np.ndarray, tuple | None]:
        """For neighbouring columns: log p_2(v | u) + emission of v, and the trigrams' contexts (u, v).

        Remembered under the names: there are few pairs of syllables, and each is met again and again.
        """
        key = (a[0], b[0])
        if None in key or key not in self._pairs:
            u, v = a[1][:, None], b[1][None, :]
            step = np.log(self.model.prob(u, v, 2)) + b[2]  # (U, V); at order 1, u is not looked at
            left, seen = None, None
            if self.order == 3:
                level, keys = self.model.levels[2], u * self.model.base + v
                left = np.log(look_up(level.contexts, level.left_over, keys, 1.0))  # (U, V)
                seen = np.nonzero(
                    left
                )  # the discount leaves less than 1 (log 0) where (u, v) was seen
            if None in key:
                return step, left, seen
            self._pairs[key] = (step, left, seen)
        return self._pairs[key]

    def _viterbi_bigram(self, columns: list[tuple]) -> list[int]:
        before, score, back = ("start", *self._start), np.zeros(1), []
        for column in columns:
            total = score[:, None] + self._pair(before, column)[0]  # (U, V)
            back.append(total.argmax(0))
            before, score = column, total.max(0)
        path, state = [], 0
        for column, pointer in zip(reversed(columns), reversed(back), strict=True):
            path.append(int(column[1][state]))
            state = pointer[state]
        return path[:0:-1]  # the first found is END

    def _viterbi_trigram(self, columns: list[tuple]) -> list[int]:
        """Viterbi over pairs (u, v), exact, without the cube over (u, v, w).

        For a trigram never seen, log p(w | u, v) = left_over(u, v) + p_2(w | v), in logs: the best u does not
        depend on w, and one maximum serves all w. The trigrams seen are few, and what they have in truth is
        never less than that, so putting them in by a second maximum makes the result exact.
        """
        base = self.model.base
        a = b = ("start", *self._start)
        score, back = np.zeros((1, 1)), []  # (U, V): the best path that ends in u, v
        for c in columns:
            _, left, (us, vs) = self._pair(a, b)
            step = self._pair(b, c)[0]  # (V, W)
            backed_off = score + left
            best = backed_off.argmax(0)  # (V,)
            total = backed_off[best, np.arange(len(best))][:, None] + step  # (V, W)
            pointer = np.repeat(best[:, None], total.shape[1], axis=1)
            grams = (a[1][us] * base + b[1][vs])[:, None] * base + c[1]  # (contexts seen, W)
            at = np.minimum(self.model.levels[2].grams.searchsorted(grams), len(self._seen) - 1)
            i, w = np.nonzero(self.model.levels[2].grams[at] == grams)
            u, v = us[i], vs[i]
            value = score[u, v] + self._seen[at[i, w]] + c[2][w]
            np.maximum.at(total, (v, w), value)
            wins = value == total[v, w]
            pointer[v[wins], w[wins]] = u[wins]
            back.append(pointer)
            a, b, score = b, c, total
        v, w, path = int(score[:, 0].argmax()), 0, []
        for column, pointer in zip(reversed(columns), reversed(back), strict=True):
            path.append(int(column[1][w]))
            v, w = int(pointer[v, w]), v
        return path[:0:-1]
