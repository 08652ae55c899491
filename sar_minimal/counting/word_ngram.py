"""A dictionary and an n-gram together, by a beam over words."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..checks import Refusal, WrongType, check_whole
from ..shift import END, START, UNKNOWN
from .lattice import Lattice
from .lexicon import Lexicon
from .ngram import NGram


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
                raise WrongType(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
        if not 0 <= weight < float("inf"):
            raise Refusal(f"weight: expected a number >= 0, got {weight!r}")
        if width is not None:
            check_whole("width", width)
        highest = max(max(word) for entries in lexicon.read.values() for _, word in entries)
        if highest >= ngram.model.base:
            raise Refusal(
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
