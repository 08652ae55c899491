"""What a dictionary alone knows about pinyin: every way to cut syllables into words, summed exactly.

A sentence x of T syllables is a graph, the word lattice. Its nodes are the places between syllables, its arcs
the words that read as the syllables they span, each with a log weight. A path from 0 to T is one way to cut x
into words, so it says both the hanzi y and their segmentation s. With q(w) a word's frequency and rho the chance
to stop after one, ::

    p(y, s | x)  =  prod_{w in s} (1 - rho) q(w) / Z(x)        Z(x): the same product, summed over all paths

which is a hidden Markov model over words. The best path is Viterbi's, Z and p(y_t | x) are those of the
forward-backward recursion (Rabiner 1989). The two answer different questions: a text y may have several
segmentations, and what is most probable at each t need not be most probable as a whole (section 5).

``Lexicon`` holds the words and draws the graph. ``Lattice`` is the graph and answers the questions; the graph
that ``ngram.WordNGram`` searches, where a language model weighs the words too, is one of the same kind.
``bayes_limit`` says what no decoder can beat where the lexicon is the model that drew the text.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np

from .shift import UNKNOWN, check_whole

Arc = tuple[int, float, tuple[int, ...]]  # the node it leads to, log weight in nats, the word


class Text(NamedTuple):
    """A text of a lattice, its probability, and what every text not yet listed has at most."""

    tokens: list[int]
    probability: float
    at_most: float


@dataclass(frozen=True, eq=False)
class Lattice:
    """A graph of words: ``arcs[i]`` leave node i, for a later one each; the last node has none.

    All paths from node 0 to the last spell texts of one length T. The weight of a path is the product of its
    arcs', and p(path) its share of the sum over all paths. A node and a word say which node is next.
    """

    arcs: list[list[Arc]]

    @cached_property
    def log_totals(self) -> list[float]:
        """log of the summed weight of all paths from each node to the end: the backward recursion."""
        totals = [-math.inf] * (len(self.arcs) - 1) + [0.0]
        for i in reversed(range(len(self.arcs) - 1)):
            terms = [weight + totals[j] for j, weight, _ in self.arcs[i]]
            if (most := max(terms, default=-math.inf)) > -math.inf:
                totals[i] = most + math.log(sum(math.exp(t - most) for t in terms))
        return totals

    @cached_property
    def steps(self) -> list[list[tuple[int, float, tuple[int, ...]]]]:
        """The arcs with p(arc | the path is at node i) in place of weights, 0 left out.

        With Z_i the sum of all paths from i, that is exp(weight) Z_j / Z_i: the paths become a Markov chain.
        """
        Z = self.log_totals
        steps = [
            [(j, math.exp(weight + Z[j] - z), word) for j, weight, word in arcs if z > -math.inf]
            for z, arcs in zip(Z, self.arcs, strict=True)
        ]
        return [[step for step in row if step[1]] for row in steps]

    def paths(self) -> Iterator[tuple[float, list[tuple[int, ...]]]]:
        """(log weight, words) of every path, the heaviest first: A* with what is left known exactly."""
        best = [-math.inf] * (len(self.arcs) - 1) + [0.0]
        for i in reversed(range(len(self.arcs) - 1)):
            best[i] = max((w + best[j] for j, w, _ in self.arcs[i]), default=-math.inf)
        tie = count()
        heap = [(-best[0], next(tie), 0, 0.0, None)]
        while heap:
            _, _, i, weight, words = heapq.heappop(heap)
            if i == len(self.arcs) - 1:
                yield weight, _unrolled(words)
            for j, w, word in self.arcs[i]:
                if best[j] > -math.inf:
                    total = weight + w
                    heapq.heappush(heap, (-total - best[j], next(tie), j, total, (words, word)))

    def best(self) -> list[int]:
        """The text of the heaviest path: Viterbi."""
        return [token for word in next(self.paths())[1] for token in word]

    @cached_property
    def places(self) -> list[int]:
        """How many tokens have been spelled at each node."""
        places = [0] * len(self.arcs)
        for i, arcs in enumerate(self.arcs):
            for j, _, word in arcs:
                places[j] = places[i] + len(word)
        return places

    def marginals(self) -> list[dict[int, float]]:
        """p(y_t = v | x) for each t, of every token v that some path has there: forward-backward."""
        found = [{} for _ in range(self.places[-1])]
        reached = [1.0] + [0.0] * (len(self.arcs) - 1)
        for i, steps in enumerate(self.steps):
            for j, p, word in steps:
                reached[j] += reached[i] * p
                for t, token in enumerate(word, self.places[i]):
                    found[t][token] = found[t].get(token, 0.0) + reached[i] * p
        return found

    def probability(self, y: Sequence[int]) -> float:
        """p(y | x): the paths that spell y, summed; 0 where none does."""
        y, alpha = tuple(y), {0: 1.0}
        for t in range(len(y)):
            alpha = self._grow(alpha, y[: t + 1])
        return alpha.get(len(self.arcs) - 1, 0.0)

    def texts(self, limit: int = 20_000) -> Iterator[Text]:
        """Texts by p(y | x), the most probable first, each with all of its segmentations summed.

        An A* search (Hart, Nilsson & Raphael 1968) over beginnings y_1..t. alpha_i is the summed probability of
        the paths that spell y_1..i and stand at node i. No text that goes on from there has more than
        sum_i alpha_i u_i, where u_i takes the best word of *each length* that begins with y_i+1..t, times B_j of
        the node j behind it, and B_i is u_i where nothing is spelled yet. The segmentations of one text take
        words of different lengths at a node, so this is never too little; as one of them has nearly all of the
        sum, it is seldom much too large, and the search stays short.

        limit: after so many beginnings it gives up: it lists the text of the heaviest path, if that was not
        listed before, whose ``at_most`` tells how far from the best it can be, and ends.
        """
        check_whole("limit", limit)
        ahead, follow = self._ahead
        end, places, tie, listed = len(self.arcs) - 1, self.places, count(), set()
        heap = [(-1.0, next(tie), (), {0: 1.0})]
        for steps in count():
            if not heap:
                return
            bound, _, y, alpha = heapq.heappop(heap)
            if end in alpha:
                listed.add(y)
                yield Text(list(y), -bound, -bound)
                continue
            if steps >= limit:
                y = self.best()
                if tuple(y) not in listed:
                    yield Text(y, self.probability(y), -bound)
                return
            for token in set().union(*(follow[i][y[places[i] :]] for i in alpha)):
                longer = (*y, token)
                grown = self._grow(alpha, longer)
                bound = sum(a * ahead[i][longer[places[i] :]] for i, a in grown.items())
                heapq.heappush(heap, (-bound, next(tie), longer, grown))

    def _grow(self, alpha: dict[int, float], y: tuple[int, ...]) -> dict[int, float]:
        """alpha of y from that of y without its last token: nodes where y ends, or a word may yet go on."""
        grown: dict[int, float] = {}
        for i, a in alpha.items():
            part = y[self.places[i] :]
            if part in self._whole[i]:
                j, p = self._whole[i][part]
                grown[j] = grown.get(j, 0.0) + a * p
            if part in self._ahead[0][i]:
                grown[i] = a
        return grown

    @cached_property
    def _whole(self) -> list[dict[tuple[int, ...], tuple[int, float]]]:
        return [{word: (j, p) for j, p, word in steps} for steps in self.steps]

    @cached_property
    def _ahead(self) -> tuple[list[dict], list[dict]]:
        """For each node and each beginning of a word from it: the bound u, and the tokens that may follow."""
        ahead, follow = ([{} for _ in self.arcs] for _ in range(2))
        ahead[-1][()] = 1.0
        for i in reversed(range(len(self.arcs) - 1)):
            most: dict[tuple, float] = {}  # of the words that begin so and have that length
            for j, p, word in self.steps[i]:
                for n in range(len(word)):
                    key = (word[:n], len(word))
                    most[key] = max(most.get(key, 0.0), p * ahead[j][()])
                    follow[i].setdefault(word[:n], set()).add(word[n])
            for (part, _), value in most.items():
                ahead[i][part] = ahead[i].get(part, 0.0) + value
        return ahead, follow


def _unrolled(words) -> list[tuple[int, ...]]:
    """(((None, a), b), c) -> [a, b, c]: a path shares its beginning with the others."""
    found = []
    while words is not None:
        words, word = words
        found.append(word)
    return found[::-1]


class Lexicon:
    """Words by how they are read: draws the lattice of a sentence of syllables.

    words: token ids of each; readings: syllable ids, one a token; log_probs: (W,) log weight of each, in nats.
    On the ``words`` corpus with log_probs = log((1 - rho) q(w)), what its lattices say is what the model that
    drew the text knows: ``decode`` is the maximum a posteriori segmentation, ``lattice(x).marginals()`` p(y_t | x).

    rescue: a token that reads so inside words but is no word alone may stand alone at a price: log share of the
    syllable's weight - rescue, in nats. A syllable that no word has gives UNKNOWN for the rescue. The default is
    a price that is only paid where nothing else goes; real text wants one near that of a rare word.
    Raises ValueError when there is no word, when words, readings and log_probs do not match, on a word that is
    there twice with one reading, and on weights that are not finite.
    """

    RESCUE = 1e4

    def __init__(
        self,
        words: Sequence[Sequence[int]],
        readings: Sequence[Sequence[int]],
        log_probs: Sequence[float],
        rescue: float = RESCUE,
    ):
        if not len(words) or not len(words) == len(readings) == len(log_probs):
            raise ValueError(
                f"lexicon: expected as many words, readings and log_probs, at least one, got {len(words)}, "
                f"{len(readings)} and {len(log_probs)}"
            )
        log_probs = np.asarray(log_probs, dtype=np.float64)
        if not np.isfinite(log_probs).all():
            raise ValueError("log_probs: expected finite numbers")
        if not 0 <= rescue < math.inf:
            raise ValueError(f"rescue: expected a price in nats, >= 0, got {rescue!r}")
        self.rescue, top = float(rescue), float(log_probs.max())
        self.read: dict[tuple, list[tuple[float, tuple]]] = {}  # every prefix of a reading is in it
        inside: dict[int, dict[int, float]] = {}
        for word, reading, weight in zip(words, readings, log_probs.tolist(), strict=True):
            if not len(word) or len(word) != len(reading):
                raise ValueError(
                    f"lexicon: word {tuple(word)} has the reading {tuple(reading)}; expected one a token"
                )
            key = tuple(reading)
            for n in range(1, len(key)):
                self.read.setdefault(key[:n], [])
            self.read.setdefault(key, []).append((weight, tuple(word)))
            for token, syllable in zip(word, reading, strict=True):
                share = inside.setdefault(syllable, {})
                share[token] = share.get(token, 0.0) + math.exp(max(weight - top, -700.0))
        for syllable, share in inside.items():
            alone, total = self.read.setdefault((syllable,), []), sum(share.values())
            listed = {word for _, word in alone}
            alone += [
                (math.log(share[token] / total) - self.rescue, (token,))
                for token in share
                if (token,) not in listed
            ]
        for key, entries in self.read.items():
            if len({word for _, word in entries}) < len(entries):
                raise ValueError(f"lexicon: a word with the reading {key} is there twice")
            entries.sort(key=lambda entry: -entry[0])

    @classmethod
    def from_model(
        cls, model, source, target, stop: float = 1 / 8, rescue: float = RESCUE
    ) -> "Lexicon":
        """From ``pinyin.word_model()`` and a task's vocabularies; words that these cannot spell are left out."""
        known = [
            (target.encode(word), source.encode(reading), q)
            for word, reading, q in zip(
                model.words, model.readings, model.probabilities, strict=True
            )
            if all(map(target.__contains__, word)) and all(map(source.__contains__, reading))
        ]
        if not known:
            raise ValueError("lexicon: the vocabularies can spell none of the model's words")
        words, readings, q = zip(*known, strict=True)
        return cls(words, readings, np.log1p(-stop) + np.log(q), rescue)

    def spans(self, x: tuple[int, ...], i: int) -> Iterator[tuple[int, list[tuple[float, tuple]]]]:
        """(j, [(log weight, word), ...] the heaviest first) for each reading x_i..x_j-1 that words have."""
        if i == len(x):
            return
        yield i + 1, self.read.get(x[i : i + 1]) or [(-self.rescue, (UNKNOWN,))]
        for j in range(i + 2, len(x) + 1):
            entries = self.read.get(x[i:j])
            if entries is None:
                return
            if entries:
                yield j, entries

    def lattice(self, x: Sequence[int], most: int | None = None) -> Lattice:
        """The words that read x: node i is the place behind i syllables. most: so many of a reading, the heaviest."""
        x = tuple(map(int, x))
        arcs = [
            [(j, *entry) for j, entries in self.spans(x, i) for entry in entries[:most]]
            for i in range(len(x))
        ]
        return Lattice([*arcs, []])

    def decode(self, xs: Iterable[Sequence[int]]) -> list[list[int]]:
        """The hanzi of the most probable segmentation of each sentence of syllables; as long as it."""
        return [self.lattice(x, most=1).best() for x in xs]


@dataclass(frozen=True, eq=False)
class BayesLimit:
    """What no decoder can beat, and what the best ones got, of each of N sentences.

    The best for characters takes the most probable token at each position, the best for sentences the most
    probable text. ``characters`` and ``sentences`` are the expected hits given x, over all y that the model
    might have drawn; the realised ones count the y that it did draw. Rates are properties of the whole.
    """

    lengths: np.ndarray  # (N,) T
    characters: np.ndarray  # (N,) sum_t max_v p(y_t = v | x)
    sentences: np.ndarray  # (N,) max_y p(y | x), or that of the text found
    sentences_at_most: np.ndarray  # (N,) the same where the search ended, else an upper bound
    right_characters: np.ndarray  # (N,) how many of the drawn y_t the best for characters has
    right_sentences: np.ndarray  # (N,) whether the best for sentences is the drawn y

    def rates(self) -> dict[str, float]:
        """Shares of all characters and all sentences: expected (the bound's two ends) and realised."""
        T = self.lengths.sum()
        return {
            "characters, expected": self.characters.sum() / T,
            "characters, realised": self.right_characters.sum() / T,
            "sentences, expected at least": self.sentences.mean(),
            "sentences, expected at most": self.sentences_at_most.mean(),
            "sentences, realised": self.right_sentences.mean(),
        }


def bayes_limit(lexicon: Lexicon, split, limit: int = 20_000) -> BayesLimit:
    """The Bayes limit of a split whose text the lexicon's words drew (the ``words`` corpus).

    No decoder is expected to get more characters right than the argmax of p(y_t | x), nor more sentences than
    the argmax of p(y | x), as x has nothing else to say about y. Expected over y, and so free of the luck of
    the draw of y, though not of x's. limit: of ``Lattice.texts``; where it is met the sentence's expected
    accuracy is known between two numbers. Raises ValueError on an empty split or a pair of unequal lengths.
    """
    if not len(split):
        raise ValueError("bayes_limit: expected at least one pair, got an empty split")
    rows = []
    for i, (x, y) in enumerate(zip(split.x, split.y, strict=True)):
        if len(x) != len(y):
            raise ValueError(
                f"bayes_limit: pair {i} has {len(x)} source and {len(y)} target tokens; expected as many"
            )
        lattice = lexicon.lattice(x)
        marginals = lattice.marginals()
        text = next(lattice.texts(limit))
        likely = [max(p, key=p.__getitem__) for p in marginals]
        expected = sum(p[v] for p, v in zip(marginals, likely, strict=True))
        right = sum(a == b for a, b in zip(likely, y, strict=True))
        rows.append((len(x), expected, text.probability, text.at_most, right, text.tokens == y))
    return BayesLimit(*map(np.array, zip(*rows, strict=True)))
