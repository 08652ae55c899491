"""A dictionary and an n-gram together, by a beam over words."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np

from ..checks import check_whole
from ..errors import WrongType, expect
from ..shift import END, START, UNKNOWN
from .ids import check_ids
from .lattice import Arc, Lattice, Word
from .lexicon import Entry, Lexicon
from .ngram import NGram

Pair = tuple[int, int]  # the last two hanzi, all that the language model looks back at
LogP = Callable[[int, int, int], float]  # of u, v, w: log p(w | u, v)
Spans = list[tuple[int, list[Entry]]]  # where they end, and the words that reach there


class WordNGram:
    """A dictionary and a language model together: the hanzi of the best path of words, by a beam.

    For a text y and a segmentation s of it into words of the lexicon, in nats, ::

        score(y, s | x)  =  weight * log p(y </s>)  +  sum_{w in s} log((1 - rho) q(w))

    with p the n-gram's language model and the second term the lexicon's weights. Converters that
    people type with have n-grams of words (libime's is a trigram); here words have frequencies
    only, and the context is that of the hanzi. Weight 0 is the lexicon alone.

    The search goes over x once. Hypotheses that stand behind the same syllable with the same last
    two hanzi have the same future, and become one node of a ``Lattice``::

        (START, START) --- 你 --- (START, 你) --- 好 ----.        behind syllable 2 they are one,
              '----------------- 你好 -------------- (你, 好)     and it is reached twice

    At each place the ``width`` best nodes are kept (None: all, and the search is exact). lexicon,
    ngram: of one task. Raises TypeError on other objects, ValueError on a weight that is negative
    or not finite, a width < 1, or a lexicon with tokens that ngram does not know.
    """

    REACH = 10.0  # nats behind the best at its place: with a width, no word further is looked at

    def __init__(self, lexicon: Lexicon, ngram: NGram, weight: float = 1.0, width: int | None = 8):
        for name, value, kind in (("lexicon", lexicon, Lexicon), ("ngram", ngram, NGram)):
            if not isinstance(value, kind):
                raise WrongType(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
        expect(0 <= weight < float("inf"), "weight", "a number >= 0", weight)
        if width is not None:
            check_whole("width", width)
        most = ngram.model.base - 1
        highest = max(max(word) for entries in lexicon.read.values() for _, word in entries)
        expect(highest <= most, "lexicon", f"tokens in {UNKNOWN}..{most} as in ngram", highest)
        self.lexicon, self.ngram, self.weight, self.width = lexicon, ngram, weight, width
        self._log_p = ngram.model.log_p
        self._inner: dict[Word, list[Entry]] = {}

    def decode(self, xs: Iterable[Sequence[int]]) -> list[list[int]]:
        """The hanzi of the best path found for each sentence of syllables; as long as it."""
        return [self.lattice(x).best() for x in xs]

    def lattice(self, x: Sequence[int]) -> Lattice:
        """The nodes that the beam kept and the words between them, weighted as above.

        Its ``marginals`` are p(y_t | x) under p(y, s | x) proportional to exp(score), exact where
        width is None, its ``texts`` the best conversions with their probabilities.
        """
        check_ids([x], "x")
        x = tuple(map(int, x))
        arcs: list[list[Arc]] = []
        scores: list[float] = []  # of each node, its best
        leader = [-np.inf] * (len(x) + 1)  # the best score behind each syllable so far
        # What arrives behind each syllable, by the last two hanzi: (score, origin, word).
        beam: list[dict[Pair, list[tuple[float, int, Word]]]] = [{} for _ in leader]
        beam[0][START, START] = []
        # Many nodes stand behind the same hanzi, so log p of a word's second hanzi is remembered.
        second = cache(lambda u, v, w: self.weight * self._log_p(u, v, (w,))[0])
        for i, states in enumerate(beam):
            spans = [(j, self._known(x[i:j], entries)) for j, entries in self.lexicon.spans(x, i)]
            best = [(max(arrivals, default=(0.0,))[0], pair) for pair, arrivals in states.items()]
            for score, pair in sorted(best, key=lambda node: -node[0])[: self.width]:
                node = len(arcs)
                arcs.append([])
                scores.append(score)
                for total, origin, word in states[pair]:
                    arcs[origin].append((node, total - scores[origin], word))
                for j, state, total, word in self._onward(score, pair, spans, leader, second):
                    beam[j].setdefault(state, []).append((total, node, word))
        return Lattice(arcs)

    def _onward(
        self, score: float, pair: Pair, spans: Spans, leader: list[float], second: LogP
    ) -> Iterator[tuple[int, Pair, float, Word]]:
        """The words that go on from a node: where to, the last two hanzi there, score, the word.

        ``leader`` is kept up. second: weight * log p of a word's second hanzi.
        """
        (u, v), log_p, weight, end = pair, self._log_p, self.weight, len(leader) - 1
        # log p is never above 0, so what a word can still reach is known before it is looked up.
        out_of_reach = np.inf if self.width is None else self.REACH
        opening = {word[0] for _, entries in spans for _, word in entries}
        first = dict(zip(opening, log_p(u, v, opening), strict=True))
        for j, entries in spans:
            for given, word in entries:
                if score + given < leader[j] - out_of_reach:
                    continue
                w = word[0]
                total, state = score + given + weight * first[w], (v, w)
                if len(word) > 1:
                    state = (word[-2], word[-1])
                    total += second(v, w, word[1])
                if j == end:  # </s> comes, and nothing after it: one node
                    total += weight * log_p(*state, (END,))[0]
                    state = (END, END)
                if total > leader[j]:
                    leader[j] = total
                yield j, state, total, word

    def _known(self, key: Word, entries: list[Entry]) -> list[Entry]:
        """The entries of a reading, with log p of each word's third hanzi and on.

        That depends on nothing before the word, so it is remembered.
        """
        if len(key) > 2 and key not in self._inner:
            for given, word in entries:
                triples = zip(word, word[1:], word[2:], strict=False)
                inner = sum(self._log_p(u, v, (w,))[0] for u, v, w in triples)
                self._inner.setdefault(key, []).append((given + self.weight * inner, word))
        return self._inner.get(key, entries)
