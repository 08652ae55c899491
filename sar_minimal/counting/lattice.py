"""A graph of words: every way to cut syllables into words, summed exactly.

A sentence x of T syllables is a graph, the word lattice. Its nodes are the places between
syllables, its arcs the words that read as the syllables they span, each with a log weight. A path
from 0 to T is one way to cut x into words, so it says both the hanzi y and their segmentation s.
With q(w) a word's frequency and rho the chance to stop after one, ::

    p(y, s | x)  =  prod_{w in s} (1 - rho) q(w) / Z(x)        Z(x): the same, summed over all paths

which is a hidden Markov model over words. The best path is Viterbi's, Z and p(y_t | x) are those of
the forward-backward recursion (Rabiner 1989). The two answer different questions: a text y may have
several segmentations, and what is most probable at each t need not be as a whole (section 5).
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

from ..checks import check_whole

Word = tuple[int, ...]  # its tokens
Arc = tuple[int, float, Word]  # the node it leads to, log weight in nats, the word


class Text(NamedTuple):
    """A text of a lattice, its probability, and what every text not yet listed has at most."""

    tokens: list[int]
    probability: float
    at_most: float


@dataclass(frozen=True, eq=False)
class Lattice:
    """A graph of words: ``arcs[i]`` leave node i, for a later one each; the last node has none.

    All paths from node 0 to the last spell texts of one length T. The weight of a path is the
    product of its arcs', and p(path) its share of the sum over all paths. A node and a word say
    which node is next. In the examples below, weights are written as they are, not as logs::

        0 --- 4 (.3) --- 1 --- 5 (1) --- 2        the text 4 5 has two segmentations, .3 + .4
        0 ------------ 4 5 (.4) -------- 2
        0 ------------ 6 7 (.3) -------- 2

    >>> log = math.log
    >>> lattice = Lattice([[(1, log(.3), (4,)), (2, log(.4), (4, 5)), (2, log(.3), (6, 7))],
    ...                    [(2, 0., (5,))], []])
    >>> [(text.tokens, round(text.probability, 9)) for text in lattice.texts()]
    [([4, 5], 0.7), ([6, 7], 0.3)]
    """

    arcs: list[list[Arc]]

    def _backward(self, add: Callable[[list[float]], float]) -> list[float]:
        """Of each node: what ``add`` makes of the log weights of all paths from it to the end."""
        sums = [-math.inf] * (len(self.arcs) - 1) + [0.0]
        for i in reversed(range(len(sums) - 1)):
            sums[i] = add([weight + sums[j] for j, weight, _ in self.arcs[i]])
        return sums

    @cached_property
    def chain(self) -> list[dict[Word, tuple[int, float]]]:
        """The arcs of each node by their words, with p(arc | the path is at the node), 0 left out.

        That is exp(weight) Z_j / Z_i, where Z_i sums all paths from node i to the end: the paths
        are a Markov chain.
        """
        Z = self._backward(_log_sum)  # in logs
        return [
            {
                word: (j, p)
                for j, weight, word in arcs
                if z > -math.inf and (p := math.exp(weight + Z[j] - z))
            }
            for z, arcs in zip(Z, self.arcs, strict=True)
        ]

    @cached_property
    def spelled(self) -> list[int]:
        """How many tokens have been spelled at each node."""
        spelled = [0] * len(self.arcs)
        for i, arcs in enumerate(self.arcs):
            for j, _, word in arcs:
                spelled[j] = spelled[i] + len(word)
        return spelled

    def paths(self) -> Iterator[tuple[float, list[Word]]]:
        """(log weight, words) of every path, the heaviest first: A*, what is left known exactly."""
        best, tie = self._backward(lambda terms: max(terms, default=-math.inf)), count()
        heap: list[tuple[float, int, int, float, tuple[Word, ...]]] = [(0.0, next(tie), 0, 0.0, ())]
        while heap:
            _, _, i, weight, words = heapq.heappop(heap)
            if i == len(self.arcs) - 1:
                yield weight, list(words)
            for j, w, word in self.arcs[i]:
                if best[j] > -math.inf:
                    total = weight + w
                    entry = (-total - best[j], next(tie), j, total, (*words, word))
                    heapq.heappush(heap, entry)

    def best(self) -> list[int]:
        """The text of the heaviest path: Viterbi."""
        return [token for word in next(self.paths())[1] for token in word]

    def marginals(self) -> list[dict[int, float]]:
        """p(y_t = v | x) of each t and every token v that a path has there: forward-backward."""
        p_at: list[dict[int, float]] = [{} for _ in range(self.spelled[-1])]
        reached = [1.0] + [0.0] * (len(self.arcs) - 1)
        for i, steps in enumerate(self.chain):
            for word, (j, p) in steps.items():
                reached[j] += reached[i] * p
                for t, token in enumerate(word, self.spelled[i]):
                    p_at[t][token] = p_at[t].get(token, 0.0) + reached[i] * p
        return p_at

    def probability(self, y: Sequence[int]) -> float:
        """p(y | x): the paths that spell y, summed; 0 where none does."""
        alpha = {0: 1.0}
        for t in range(len(y)):
            alpha = self._grow(alpha, tuple(y[: t + 1]))
        return alpha.get(len(self.arcs) - 1, 0.0)

    def texts(self, limit: int = 20_000) -> Iterator[Text]:
        """Texts by p(y | x), the most probable first, each with all of its segmentations summed.

        An A* search (Hart, Nilsson & Raphael 1968) over beginnings y_1..t. alpha_i is the summed
        probability of the paths that spell y_1..i and stand at node i. No text that goes on from
        there has more than sum_i alpha_i u_i, where u_i takes the best word of *each length* that
        begins with y_i+1..t, times B_j of the node j behind it, and B_i is u_i where nothing is
        spelled yet. The segmentations of one text take words of different lengths at a node, so
        this is never too little; as one of them has nearly all of the sum, it is seldom much too
        large, and the search stays short. In the example of the class::

            y      alpha           at most
            4      {0: 1, 1: .3}   1 u_0 + .3 u_1 = .4 + .3     4 5 may follow from 0, 5 from 1
            6      {0: 1}          1 u_0 = .3
            4 5    {2: .7}         .7                           at the end: the first text

        limit: after so many beginnings it gives up: it lists the text of the heaviest path, if that
        was not listed before, whose ``at_most`` tells how far from the best it can be, and ends.
        """
        check_whole("limit", limit)
        ahead, follow = self._ahead
        end, spelled, tie, listed = len(self.arcs) - 1, self.spelled, count(), set()
        heap: list[tuple[float, int, Word, dict[int, float]]] = [(-1.0, next(tie), (), {0: 1.0})]
        for beginnings in count():
            if not heap:
                return
            bound, _, y, alpha = heapq.heappop(heap)
            if end in alpha:
                listed.add(y)
                yield Text(list(y), -bound, -bound)
                continue
            if beginnings >= limit:
                best = self.best()
                if tuple(best) not in listed:
                    yield Text(best, self.probability(best), -bound)
                return
            for token in set().union(*(follow[i][y[spelled[i] :]] for i in alpha)):
                longer = (*y, token)
                grown = self._grow(alpha, longer)
                bound = sum(a * ahead[i][longer[spelled[i] :]] for i, a in grown.items())
                heapq.heappush(heap, (-bound, next(tie), longer, grown))

    def entropy(self) -> float:
        """H(y | x) in nats, over the texts, each with all of its segmentations summed: exact.

        H(y | x) = sum_t E[-log p(y_t | y_<t, x)], over beginnings as in ``texts``. Those that have
        the same future are one state: where a word may have ended, with what weight (to 12 digits),
        and what has been spelled since. So states are summed over, of which there are few.
        """
        H, spelled = 0.0, self.spelled
        begun: list[dict[Word, float]] = [{} for _ in self.arcs]  # p of the words that begin so
        begun[-1][()] = 1.0
        for shares, words in zip(begun, self.chain, strict=True):
            for word, (_, p) in words.items():
                for n in range(len(word)):
                    shares[word[:n]] = shares.get(word[:n], 0.0) + p
        states: dict[Any, tuple[float, Word, dict[int, float]]] = {0: (1.0, (), {0: 1.0})}
        for _ in range(spelled[-1]):
            before, states = states.values(), {}
            for share, y, alpha in before:
                for token in set().union(*(self._ahead[1][i][y[spelled[i] :]] for i in alpha)):
                    longer = (*y, token)
                    grown = self._grow(alpha, longer)
                    rest = {i: longer[spelled[i] :] for i in grown}
                    if p := sum(a * begun[i][rest[i]] for i, a in grown.items()):
                        H -= share * p * math.log(p)
                        grown = {i: a / p for i, a in grown.items()}
                        key = frozenset((i, rest[i], round(a, 12)) for i, a in grown.items())
                        states[key] = (states.get(key, (0.0,))[0] + share * p, longer, grown)
        return H

    def _grow(self, alpha: dict[int, float], y: Word) -> dict[int, float]:
        """alpha of y from that of y without its last token: where a word ends or may yet go on."""
        grown: dict[int, float] = {}
        for i, a in alpha.items():
            part = y[self.spelled[i] :]
            if part in self.chain[i]:
                j, p = self.chain[i][part]
                grown[j] = grown.get(j, 0.0) + a * p
            if part in self._ahead[0][i]:
                grown[i] = a
        return grown

    @cached_property
    def _ahead(self) -> tuple[list[dict[Word, float]], list[dict[Word, set[int]]]]:
        """Of each node and beginning of a word from it: the bound u, the tokens that may follow.

        In the example, at node 0: u is .7 of (), .4 of 4, .3 of 6; and 4 or 6, 5, 7 may follow.
        """
        ahead: list[dict[Word, float]] = [{} for _ in self.arcs]
        follow: list[dict[Word, set[int]]] = [{} for _ in self.arcs]
        ahead[-1][()] = 1.0
        for i in reversed(range(len(self.arcs) - 1)):
            most: dict[tuple[Word, int], float] = {}  # of the words that begin so, with that length
            for word, (j, p) in self.chain[i].items():
                for n in range(len(word)):
                    key = (word[:n], len(word))
                    most[key] = max(most.get(key, 0.0), p * ahead[j][()])
                    follow[i].setdefault(word[:n], set()).add(word[n])
            for (part, _), value in most.items():
                ahead[i][part] = ahead[i].get(part, 0.0) + value
        return ahead, follow


def _log_sum(terms: list[float]) -> float:
    """log of the sum of exp(terms), the largest taken out first; -inf of nothing."""
    most = max(terms, default=-math.inf)
    return most + math.log(sum(math.exp(t - most) for t in terms)) if most > -math.inf else most
