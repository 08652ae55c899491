"""What a dictionary alone, no corpus, knows about pinyin: the lattice of its words, and the limit
that it sets where the text was drawn from it."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..data import Split, Vocab
from ..errors import Refusal, expect
from ..shift import UNKNOWN
from .ids import check_ids
from .lattice import Lattice, Word

Ids = Sequence[Sequence[int]]
Entry = tuple[float, Word]  # log weight in nats, the word
# ``tasks.words.WordModel``
Model = tuple[Sequence[str], Sequence[Sequence[str]], np.ndarray, float]


class Lexicon:
    """Words by how they are read: draws the lattice of a sentence of syllables.

    words: token ids of each; readings: syllable ids, one a token; log_probs: (W,) log weight of
    each, in nats. On the ``words`` corpus, with log_probs = log((1 - rho) q(w)), its lattices know
    what the model that drew the text knows: ``decode`` is the maximum a posteriori segmentation,
    ``lattice(x).marginals()`` p(y_t | x).

    rescue: a token that reads so inside words but is no word alone may stand alone at a price: log
    share of the syllable's weight - rescue, in nats. A syllable that no word has gives UNKNOWN for
    the rescue. The default is only paid where nothing else goes; real text wants a price near that
    of a rare word.
    Raises ValueError when there is no word, when words, readings and log_probs do not match, on a
    word that is there twice with one reading, and on weights that are not finite.
    """

    RESCUE = 1e4

    def __init__(
        self, words: Ids, readings: Ids, log_probs: Sequence[float], rescue: float = RESCUE
    ):
        sizes = len(words), len(readings), len(log_probs)
        if not len(words) or len(set(sizes)) > 1:
            expected = "expected as many words, readings and log_probs, at least one"
            raise Refusal("lexicon: {}, got {}, {} and {}".format(expected, *sizes))
        for name, rows in (("words", words), ("readings", readings)):
            check_ids(rows, name)
            least = min((i for row in rows for i in row), default=0)
            expect(least >= 0, name, "ids >= 0", least)
        weights = np.asarray(log_probs, dtype=np.float64)
        if not np.isfinite(weights).all():
            raise Refusal("log_probs: expected finite numbers")
        expect(0 <= rescue < math.inf, "rescue", "a price in nats, >= 0", rescue)
        self.rescue, top = float(rescue), float(weights.max())
        self.read: dict[Word, list[Entry]] = {}  # by reading; every prefix of one is in it
        # Of a syllable: the tokens that words read so, and their weight.
        inside: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for word, reading, weight in zip(words, readings, weights.tolist(), strict=True):
            key, value = tuple(reading), tuple(word)
            if not value or len(value) != len(key):
                raise Refusal(f"lexicon: word {value} has the reading {key}; expected one a token")
            for n in range(1, len(key)):
                self.read.setdefault(key[:n], [])
            self.read.setdefault(key, []).append((weight, value))
            for token, syllable in zip(value, key, strict=True):
                inside[syllable][token] += math.exp(max(weight - top, -700.0))
        for syllable, share in inside.items():
            alone, total = self.read.setdefault((syllable,), []), sum(share.values())
            listed = {word[0] for _, word in alone}
            for token, weight in share.items():
                if token not in listed:
                    alone.append((math.log(weight / total) - self.rescue, (token,)))
        for key, entries in self.read.items():
            if len({word for _, word in entries}) < len(entries):
                raise Refusal(f"lexicon: a word with the reading {key} is there twice")
            entries.sort(key=lambda entry: -entry[0])

    @classmethod
    def from_model(
        cls, model: Model, source: Vocab, target: Vocab, stop: float = 1 / 8, rescue: float = RESCUE
    ) -> "Lexicon":
        """From ``tasks.words.word_model()`` and a task's vocabularies.

        Words that these cannot spell are left out; ValueError where none is left. stop: rho.
        """
        expect(0 <= stop < 1, "stop", "a probability, 0 <= stop < 1", stop)
        known = [
            (target.encode(word), source.encode(reading), q)
            for word, reading, q in zip(*model[:3], strict=True)
            if all(map(target.__contains__, word)) and all(map(source.__contains__, reading))
        ]
        if not known:
            raise Refusal("lexicon: the vocabularies can spell none of the model's words")
        words, readings, q = zip(*known, strict=True)
        return cls(words, readings, np.log1p(-stop) + np.log(q), rescue)

    def spans(self, x: Word, i: int) -> Iterator[tuple[int, list[Entry]]]:
        """(j, the entries of x_i..x_j-1, the heaviest first) for each j where some word ends."""
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
        """The words that read x: node i is the place behind i syllables.

        most: so many words of a reading, the heaviest; None for all.
        """
        check_ids([x], "x")
        x = tuple(map(int, x))
        arcs = [
            [(j, *entry) for j, entries in self.spans(x, i) for entry in entries[:most]]
            for i in range(len(x))
        ]
        return Lattice([*arcs, []])

    def decode(self, xs: Iterable[Sequence[int]]) -> list[list[int]]:
        """The hanzi of the most probable segmentation of each sentence; as long as it."""
        return [self.lattice(x, most=1).best() for x in xs]


@dataclass(frozen=True, eq=False)
class BayesLimit:
    """What no decoder can beat, and what the best ones got, of each of N sentences.

    ``characters``, ``sentences`` and ``one_pass`` are the hits expected given x, over all y that
    the model might have drawn; the right ones count the y that it did draw.
    """

    lengths: np.ndarray  # (N,) T
    characters: np.ndarray  # (N,) sum_t max_v p(y_t = v | x)
    sentences: np.ndarray  # (N,) max_y p(y | x), or that of the text found
    sentences_at_most: np.ndarray  # (N,) the same where the search ended, else an upper bound
    one_pass: np.ndarray  # (N,) p(y | x) of the text that has argmax p(y_t | x) at each t
    right_characters: np.ndarray  # (N,) how many of the drawn y_t the best for characters has
    right_sentences: np.ndarray  # (N,) whether the best for sentences is the drawn y


def bayes_limit(lexicon: Lexicon, split: Split, limit: int = 20_000) -> BayesLimit:
    """The Bayes limit of a split whose text the lexicon's words drew (the ``words`` corpus).

    No decoder is expected to get more characters right than the argmax of p(y_t | x), nor more
    sentences than the argmax of p(y | x), as x has nothing else to say about y. Expected over y, so
    free of the luck of the draw of y, though not of x's. limit: of ``Lattice.texts``; where it is
    met the sentence's expected accuracy is known between two numbers. Raises ValueError on an empty
    split or a pair of unequal lengths.
    """
    if not len(split):
        raise Refusal("bayes_limit: expected at least one pair, got an empty split")
    rows = []
    for i, (x, y) in enumerate(zip(split.x, split.y, strict=True)):
        if len(x) != len(y):
            tokens = f"{len(x)} source and {len(y)} target tokens"
            raise Refusal(f"bayes_limit: pair {i} has {tokens}; expected as many")
        lattice = lexicon.lattice(x)
        marginals, text = lattice.marginals(), next(lattice.texts(limit))
        likely = [max(p, key=p.__getitem__) for p in marginals]
        expected = sum(p[v] for p, v in zip(marginals, likely, strict=True))
        right = sum(a == b for a, b in zip(likely, y, strict=True))
        sentences = text.probability, text.at_most, lattice.probability(likely)
        rows.append((len(x), expected, *sentences, right, text.tokens == list(y)))
    return BayesLimit(*map(np.array, zip(*rows, strict=True)))
