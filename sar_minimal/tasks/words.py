"""A dictionary as a model of text, and the ``words`` corpus of pinyin, which it draws.

The model is words, their readings, and how likely each is to come next: what a word lattice knows, too
(``counting/lexicon.py``).
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..checks import Refusal, check_whole
from ..data import Card, Split, Vocab
from ..files import cached, package_folder, versions
from .splits import measure

SHORTEST, LONGEST = 4, 32  # hanzi in a pair
HANZI = re.compile(r"[\u4e00-\u9fff]+")
SPELLED = re.compile("[a-z]+")


def syllable(text: str) -> str:
    """A syllable as the vocabularies spell it: lower case, no tone, v for u-umlaut.

    >>> [syllable(s) for s in ("Lǜ", "lu:4", "lüe", "hao3")]
    ['lv', 'lv', 'lve', 'hao']
    """
    text = unicodedata.normalize("NFD", text.lower()).replace("u\u0308", "v").replace("u:", "v")
    return "".join(c for c in text if not unicodedata.combining(c)).rstrip("012345")


def readings_of(runs: Sequence[str]) -> list[list[str] | None]:
    """pypinyin's toneless reading of each run as a whole; None where it is not one syllable a hanzi."""
    package_folder("pypinyin")
    from pypinyin import lazy_pinyin

    readings = []
    for run in tqdm(runs, desc="readings by pypinyin", delay=2, leave=False, disable=None):
        reading = lazy_pinyin(run)
        good = len(reading) == len(run) and all(map(SPELLED.fullmatch, reading))
        readings.append(reading if good else None)
    return readings


class WordModel(NamedTuple):
    """Words, their readings (a syllable a hanzi), and q(w), the chance of each to be drawn next."""

    words: tuple[str, ...]
    readings: tuple[tuple[str, ...], ...]
    probabilities: np.ndarray  # (W,), sums to 1
    coverage: float  # share of the dictionary's counts that the kept words have


LEAST_COUNT = 5  # rarer words triple the dictionary and are 0.8 % of its counts


@functools.cache
def word_model(lexicon: int | None = None, rare: bool = False) -> WordModel:
    """The unigram word model that draws the ``words`` corpus: jieba's dictionary, read by pypinyin.

    lexicon: only the so many most frequent words, 100 or more; None for all. ValueError when there
    are fewer. rare: keep rare words and rare hanzi too, for the conversion of real text.

    Kept are words of hanzi of GB2312's level 1 (the 3,755 common ones) that were counted at least
    ``LEAST_COUNT`` times and are read with one syllable a hanzi; q(w) is the count's share. The reading
    is the word's in isolation, so a sentence is read word by word and a homograph such as 的 has one
    reading as a word of its own and may have others inside words.
    """
    path = package_folder("jieba") / "dict.txt"
    least = 1 if rare else LEAST_COUNT

    def build() -> dict:
        words, counts, total = [], [], 0
        for line in path.read_text(encoding="utf-8").splitlines():
            word, count, _ = line.split(" ")
            if HANZI.fullmatch(word):
                total += int(count)
                if int(count) >= least and len(word) <= LONGEST and (rare or _is_common(word)):
                    words.append(word)
                    counts.append(int(count))
        kept = [
            (w, " ".join(r), n)
            for w, r, n in zip(words, readings_of(words), counts, strict=True)
            if r
        ]
        words, readings, counts = map(list, zip(*kept, strict=True))
        return {"words": words, "readings": readings, "counts": counts, "total": total}

    key = f"{versions('jieba', 'pypinyin')}, counts >= {least}"
    model = cached("words", key, build)
    counts = np.array(model["counts"], dtype=np.float64)
    keep = range(len(counts))
    if lexicon is not None:
        check_whole("lexicon", lexicon, least=100)  # fewer make too few sentences
        if lexicon > len(counts):
            raise Refusal(f"lexicon: the dictionary has {len(counts)} words, got {lexicon}")
        keep = np.sort(np.argsort(-counts, kind="stable")[:lexicon])
    words = tuple(model["words"][i] for i in keep)
    readings = tuple(tuple(model["readings"][i].split()) for i in keep)
    counts = counts[keep]
    q = counts / counts.sum()
    q.flags.writeable = False  # it is shared by all who ask
    return WordModel(words, readings, q, counts.sum() / model["total"])


def _is_common(word: str) -> bool:
    """All hanzi of ``word`` are in GB2312's level 1: lead bytes 0xB0 to 0xD7."""
    try:
        return all(b"\xb0" <= c.encode("gb2312")[:1] <= b"\xd7" for c in word)
    except UnicodeEncodeError:
        return False


# ---------------------------------------------------------------- the corpus


def make(sizes=(60000, 1000, 2000), seed=0, stop=1 / 8, lexicon=None):
    """Sentences of words drawn one by one: the next word is w with q(w), after each one may stop.

    p(y, its words) = q(w_1) (1 - rho) q(w_2) ... q(w_n) rho, given that the length is 4 to 32 hanzi. The
    length is seen in x, so p(words | x) is proportional to prod (1 - rho) q(w) over the words that read x.
    """
    if isinstance(stop, bool) or not isinstance(stop, (int, float)) or not 0.01 <= stop < 1:
        raise Refusal(f"stop: expected a probability, 0.01 <= stop < 1, got {stop!r}")
    model = word_model(lexicon)
    source, target = vocabularies(model.readings, model.words)
    x_ids = [source.encode(reading) for reading in model.readings]
    y_ids = [target.encode(word) for word in model.words]
    word_length = np.fromiter(map(len, model.words), np.int64)
    cumulative = model.probabilities.cumsum()

    def draw(size: int, stream: int, taken: set) -> Split:
        rng, x, y = np.random.default_rng([seed, stream]), [], []
        while len(y) < size:
            # Sentences of n words, n geometric; by inversion, as numpy promises only ``random`` to stay
            words = 1 + np.floor(np.log1p(-rng.random(4096)) / np.log1p(-stop)).astype(np.int64)
            ends = words.cumsum()
            drawn = cumulative.searchsorted(rng.random(ends[-1]) * cumulative[-1], side="right")
            lengths = np.add.reduceat(word_length[drawn], ends - words)
            for sentence, length in zip(np.split(drawn, ends[:-1]), lengths, strict=True):
                if SHORTEST <= length <= LONGEST and len(y) < size:
                    hanzi = [i for w in sentence for i in y_ids[w]]
                    if tuple(hanzi) not in taken:
                        x.append([i for w in sentence for i in x_ids[w]])
                        y.append(hanzi)
        return Split(x, y)

    # Test first, as the model draws it: Bayes limits hold for it as it stands. Then what is left.
    test = draw(sizes[2], 2, set())
    taken = set(map(tuple, test.y))
    validation = draw(sizes[1], 1, taken)
    train = draw(sizes[0], 0, taken | set(map(tuple, validation.y)))
    splits = (train, validation, test)
    counts = measure(splits) | {
        "dictionary words kept": len(model.words),
        "share of the dictionary's counts in them": f"{model.coverage:.4f}",
        "source vocabulary": len(source),
        "target vocabulary": len(target),
        "distinct sentences in train": len(set(map(tuple, train.y))),
        "test sentences inside a training sentence": share_inside(test.y, train.y),
    }
    card = Card(
        name="pinyin-words",
        source=f"Words of jieba's dict.txt drawn by frequency, read by pypinyin ({versions('jieba', 'pypinyin')}); "
        f"stop {stop:g}, seed {seed}. Kept: words of GB2312 level 1 hanzi with a count of {LEAST_COUNT} or more"
        + ("." if lexicon is None else f", and of these the {lexicon} most frequent."),
        licence="jieba MIT, pypinyin MIT. Only the dictionary's words and counts are used.",
        counts=counts,
        split="Test is drawn first and kept as drawn; validation leaves out what is in test, train what is in either.",
        flaws=(
            "Not language: words are independent, so no context beyond the word helps, and none is to be learned.",
            "The counts are the dictionary's own, from an old newspaper-like corpus, some of them smoothed by hand.",
            "A word has the one reading that pypinyin gives it in isolation, right or wrong.",
            "Sentences that occur twice within one split are kept, as the model draws them.",
        ),
    )
    return source, target, splits, card


def vocabularies(readings: Iterable[Sequence[str]], texts: Iterable[str]) -> tuple[Vocab, Vocab]:
    """Of the syllables and of the hanzi, in order."""
    syllables = {s for reading in readings for s in reading}
    return Vocab(sorted(syllables)), Vocab(sorted({c for text in texts for c in text}))


def share_inside(test: Sequence, train: Sequence) -> str:
    """Share of test sequences that are part of a training sequence: what could be looked up."""
    if not test:
        return "none to look for"
    text = "\uffff".join(map(_as_text, train))
    n = SHORTEST  # no run is shorter: a search of all the text only where all its n-grams are known
    known = {text[i : i + n] for i in range(len(text) - n + 1)}
    inside = 0
    for row in map(_as_text, test):
        pieces = (row[i : i + n] for i in range(len(row) - n + 1))
        inside += all(map(known.__contains__, pieces)) and row in text
    return f"{inside / len(test):.4f}"


def _as_text(row: str | Sequence[int]) -> str:
    return row if isinstance(row, str) else "".join(map(chr, row))
