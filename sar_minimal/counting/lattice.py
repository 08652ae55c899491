"""A graph of words: every way to cut syllables into words, summed exactly.

A sentence x of T syllables is a graph, the word lattice. Its nodes are the places between syllables, its arcs
the words that read as the syllables they span, each with a log weight. A path from 0 to T is one way to cut x
into words, so it says both the hanzi y and their segmentation s. With q(w) a word's frequency and rho the chance
to stop after one, ::

    p(y, s | x)  =  prod_{w in s} (1 - rho) q(w) / Z(x)        Z(x): the same product, summed over all paths

which is a hidden Markov model over words. The best path is Viterbi's, Z and p(y_t | x) are those of the
forward-backward recursion (Rabiner 1989). The two answer different questions: a text y may have several
segmentations, and what is most probable at each t need not be most probable as a whole (section 5).

``Lattice`` is the graph and answers the questions. ``lexicon.Lexicon`` draws it from a dictionary; the graph
that ``word_ngram.WordNGram`` searches, where a language model weighs the words too, is one of the same kind.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import NamedTuple

from ..checks import check_whole

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
