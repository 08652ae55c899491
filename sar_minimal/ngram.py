"""What a neural model has to beat: n-grams and a word lattice, exact, in numpy.

``NGram`` is a hidden Markov model: the hanzi y are hidden, the syllables x are seen, and ::

    y* = argmax_y  prod_t p(y_t | y_{t-n+1..t-1}) p(x_t | y_t) * p(</s> | y_{T-n+2..T})

``Lexicon``, the word lattice of ``lexicon.py``, needs no corpus, only a dictionary: the best way to cut x into words. Both
are searched exactly (Viterbi), so an error of theirs is an error of the model, never of the search (section 5).
``WordNGram`` joins the two, by a beam.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .lexicon import Lattice, Lexicon
from .shift import END, START, UNKNOWN, check_whole


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
            raise ValueError(f"order: expected 1, 2 or 3, got {order!r}")
        if not len(ys) or not all(map(len, ys)):
            raise ValueError("ngram: expected at least one sentence and no empty one")
        highest = max(map(max, ys))
        self.order, self.base = order, highest + 1 if vocabulary is None else vocabulary
        if highest >= self.base or min(map(min, ys)) < UNKNOWN:
            raise ValueError(
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
            p = _look_up(level.contexts, level.left_over, h, 1.0) * p
            p = p + _look_up(level.grams, level.direct, h * self.base + token, 0.0)
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
            raise ValueError(f"log_prob: expected ids in {UNKNOWN}..{self.base - 1}")
        keys, row = self._grams(ys)
        p = self.prob(keys // self.base, keys % self.base)
        return np.bincount(row, np.log(p), minlength=len(ys))


def _look_up(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, default: float
) -> np.ndarray:
    at = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], default)


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
            raise ValueError("ngram: expected a split with at least one pair, got an empty one")
        for i, (x, y) in enumerate(zip(split.x, split.y, strict=True)):
            if len(x) != len(y):
                raise ValueError(
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
        elsewhere: a one-pass model's (``decoding.rescore``). Raises ValueError on ids that are no tokens
        of the vocabulary, shapes that differ, or scores that are not finite.
        """
        candidates, scores = np.asarray(candidates), np.asarray(scores, dtype=np.float64)
        if candidates.ndim != 2 or not candidates.size or candidates.shape != scores.shape:
            raise ValueError(
                f"candidates: expected shape (T, K) as of scores, got {candidates.shape} and {scores.shape}"
            )
        if candidates.min() < UNKNOWN or candidates.max() >= self.model.base:
            raise ValueError(
                f"candidates: expected ids in {UNKNOWN}..{self.model.base - 1}, got "
                f"{candidates.min()}..{candidates.max()}"
            )
        if not np.isfinite(scores).all():
            raise ValueError("scores: expected finite numbers")
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
                left = np.log(_look_up(level.contexts, level.left_over, keys, 1.0))  # (U, V)
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


class WordNGram:
    """A dictionary and a language model together: the hanzi of the best path of words, by beam search.

    For a text y and a segmentation s of it into words of the lexicon, in nats, ::

        score(y, s | x)  =  weight * log p(y </s>)  +  sum_{w in s} log((1 - rho) q(w))

    with p the n-gram's language model and the second term the lexicon's weights. Word n-grams are how pinyin is
    converted in practice (libpinyin and libime score with a bigram of words); here the words have frequencies
    only, and the context is that of the hanzi. Weight 0 is the lexicon alone.

    The search goes over x once. Hypotheses that stand behind the same syllable with the same last two hanzi have
    the same future, and become one node of a ``Lattice``. At each place the ``width`` best nodes are kept (None:
    all, and the search is exact). lexicon, ngram: of one task. Raises TypeError on other objects, ValueError on
    a weight that is negative or not finite, a width < 1, or a lexicon with tokens that ngram does not know.
    """

    REACH = 10.0  # nats behind the best at its place: with a width, a word that is further is not looked at

    def __init__(self, lexicon: Lexicon, ngram: NGram, weight: float = 1.0, width: int | None = 8):
        for name, value, kind in (("lexicon", lexicon, Lexicon), ("ngram", ngram, NGram)):
            if not isinstance(value, kind):
                raise TypeError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight: expected a number >= 0, got {weight!r}")
        if width is not None:
            check_whole("width", width)
        highest = max(max(word) for entries in lexicon.read.values() for _, word in entries)
        if highest >= ngram.model.base:
            raise ValueError(
                f"lexicon: expected tokens in {UNKNOWN}..{ngram.model.base - 1} as in ngram, got {highest}"
            )
        self.lexicon, self.ngram, self.weight, self.width = lexicon, ngram, weight, width
        self._inner: dict[tuple, list[tuple[float, tuple]]] = {}

    def lattice(self, x: Sequence[int]) -> Lattice:
        """The nodes that the beam kept and the words between them, weighted as above.

        Its ``marginals`` are p(y_t | x) under p(y, s | x) proportional to exp(score), exact where width is None,
        its ``texts`` the best conversions with their probabilities.
        """
        x, T, weight, log_p = tuple(map(int, x)), len(x), self.weight, self.ngram.model.log_p
        arcs, scores = [], []
        # At each place, by the last two hanzi: (score, node it comes from, word) of all that reach it.
        beam: list[dict] = [{} for _ in range(T + 1)]
        beam[0][START, START] = [(0.0, None, ())]
        # log p is never above 0, so what a word can still reach is known before it is looked up.
        out_of_reach = np.inf if self.width is None else self.REACH
        leader, second = [-np.inf] * (T + 1), {}
        for i, states in enumerate(beam):
            spans = [(j, self._known(x[i:j], entries)) for j, entries in self.lexicon.spans(x, i)]
            opening = {word[0] for _, entries in spans for _, word in entries}
            best = sorted(states.items(), key=lambda state: -max(state[1])[0])
            for (u, v), reached in best[: self.width]:
                node, score = len(arcs), max(reached)[0]
                arcs.append([])
                scores.append(score)
                for total, origin, word in reached:
                    if origin is not None:
                        arcs[origin].append((node, total - scores[origin], word))
                first = dict(zip(opening, log_p(u, v, opening), strict=True))
                for j, entries in spans:
                    onto = beam[j]
                    for given, word in entries:
                        if score + given < leader[j] - out_of_reach:
                            continue
                        w = word[0]
                        total, state = score + given + weight * first[w], (v, w)
                        if len(word) > 1:
                            state, pair = word[-2:], (v, *word[:2])
                            if pair not in second:  # many hypotheses stand behind the same hanzi
                                second[pair] = weight * log_p(v, w, word[1:2])[0]
                            total += second[pair]
                        if j == T:  # </s> comes, and nothing after it: one node
                            total += weight * log_p(*state, (END,))[0]
                            state = (END, END)
                        if total > leader[j]:
                            leader[j] = total
                        if state in onto:
                            onto[state].append((total, node, word))
                        else:
                            onto[state] = [(total, node, word)]
        return Lattice(arcs)

    def _known(self, key: tuple, entries: list[tuple[float, tuple]]) -> list[tuple[float, tuple]]:
        """The entries of a reading, with what the language model says of each word's third hanzi and on.

        That depends on nothing before the word, so it is remembered.
        """
        if len(key) < 3:
            return entries
        if key not in self._inner:
            log_p = self.ngram.model.log_p
            self._inner[key] = [
                (
                    given
                    + self.weight
                    * sum(
                        log_p(u, v, (w,))[0]
                        for u, v, w in zip(word, word[1:], word[2:], strict=False)
                    ),
                    word,
                )
                for given, word in entries
            ]
        return self._inner[key]

    def decode(self, xs: Iterable[Sequence[int]]) -> list[list[int]]:
        """The hanzi of the best path found for each sentence of syllables; as long as it."""
        return [self.lattice(x).best() for x in xs]
