"""A dictionary as a model of text, and the ``words`` corpus of pinyin, which it draws. What the
model knows, a word lattice knows, too (``counting/lexicon.py``)."""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..checks import check_whole
from ..data import Split, Vocab
from ..errors import Refusal, expect
from .files import cached, package_folder, versions
from .splits import Card, Made, Sizes

SHORTEST, LONGEST = 4, 32  # hanzi in a pair
HANZI = re.compile(r"[\u4e00-\u9fff]+")
SPELLED = re.compile("[a-z]+")
SIZES = (60_000, 1000, 2000)
Ids = list[list[int]]  # of the tokens of each word
# The 3,755 common hanzi, GB2312's level 1: two bytes each, the first of them 0xB0 to 0xD7.
COMMON = {
    bytes(pair).decode("gb2312", "ignore") for pair in product(range(0xB0, 0xD8), range(0xA1, 0xFF))
}
DRAWN, PATIENCE = 4096, 50  # sentences at a time; times until it is asked whether it will end
LEAST_COUNT = 5  # rarer words triple the dictionary and are 0.8 % of its counts


def readings_of(runs: Sequence[str]) -> list[list[str] | None]:
    """pypinyin's toneless reading of each run as a whole; None if not one syllable a hanzi."""
    package_folder("pypinyin")  # says how to install it
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


@functools.cache
def word_model(lexicon: int | None = None, rare: bool = False) -> WordModel:
    """The unigram word model that draws the ``words`` corpus: jieba's dictionary, read by pypinyin.

    lexicon: only the so many most frequent words, 100 or more; None for all. ValueError when there
    are fewer. rare: keep rare words and rare hanzi too, for the conversion of real text.

    Kept are words of ``COMMON`` hanzi that were counted at least ``LEAST_COUNT`` times and are read
    with one syllable a hanzi; q(w) is the count's share. The reading is the word's in isolation, so
    a sentence is read word by word and a homograph such as 的 has one reading as a word of its own
    and may have others inside words.
    """
    path, least = package_folder("jieba") / "dict.txt", 1 if rare else LEAST_COUNT
    key = f"{versions('jieba', 'pypinyin')}, counts >= {least}"
    model = cached("words", key, lambda: _dictionary(path, least, rare))
    counts = np.array(model["counts"], dtype=np.float64)
    keep = np.arange(len(counts))
    if lexicon is not None:
        check_whole("lexicon", lexicon, least=100)  # fewer make too few sentences
        if lexicon > len(counts):
            raise Refusal(f"lexicon: the dictionary has {len(counts)} words, got {lexicon}")
        keep = np.sort(np.argsort(-counts, kind="stable")[:lexicon])
    words = tuple(model["words"][i] for i in keep)
    readings = tuple(tuple(model["readings"][i].split()) for i in keep)
    total = counts[keep].sum()
    q = counts[keep] / total
    q.flags.writeable = False  # it is shared by all who ask
    return WordModel(words, readings, q, total / model["total"])


def _dictionary(path: Path, least: int, rare: bool) -> dict[str, Any]:
    """The words kept of jieba's file, their readings and counts, and the sum of all counts."""
    counts, total = {}, 0
    for line in path.read_text(encoding="utf-8").splitlines():
        word, count, _ = line.split(" ")
        if HANZI.fullmatch(word):
            total += int(count)
            if int(count) >= least and len(word) <= LONGEST and (rare or COMMON.issuperset(word)):
                counts[word] = int(count)
    read = {w: r for w, r in zip(counts, readings_of(list(counts)), strict=True) if r}
    return {
        "words": list(read),
        "readings": [" ".join(reading) for reading in read.values()],
        "counts": [counts[word] for word in read],
        "total": total,
    }


def make(
    sizes: Sizes = SIZES, seed: int = 0, stop: float = 1 / 8, lexicon: int | None = None
) -> Made:
    """Sentences of words drawn one by one: the next word is w with q(w), after each one may stop.

    p(y, its words) = q(w_1) (1 - rho) q(w_2) ... q(w_n) rho, given that the length is 4 to 32, with
    rho = ``stop``. The length is seen in x, so p(words | x) is proportional to prod (1 - rho) q(w)
    over the words that read x. For the options see ``load_task``.
    """
    fits = isinstance(stop, float) and 0.01 <= stop < 1
    expect(fits, "stop", "a probability, 0.01 <= stop < 1", stop)
    model = word_model(lexicon)
    source, target = vocabularies(model.words, model.readings)
    ids = [list(map(source.encode, model.readings)), list(map(target.encode, model.words))]
    taken: set[tuple[int, ...]] = set()

    def draw(which: int) -> Split:
        """What no split drawn before has."""
        draws = _draw(np.random.default_rng([seed, which]), model.probabilities, stop, *ids)
        kept: list[tuple[list[int], list[int]]] = []
        for turn, pairs in enumerate(draws, 1) if sizes[which] else ():
            kept += islice((p for p in pairs if tuple(p[1]) not in taken), sizes[which] - len(kept))
            if len(kept) == sizes[which]:
                break
            if turn % PATIENCE == 0 and len(kept) < 4 * turn:
                new = f"{len(kept)} new sentences of {SHORTEST} to {LONGEST} hanzi"
                few = f"{len(model.words)} words make {new} in {turn * DRAWN:,} draws"
                raise Refusal(f"stop: {few}; expected a smaller stop or more words, got {stop}")
        taken.update(tuple(y) for _, y in kept)
        return Split([x for x, _ in kept], [y for _, y in kept])

    # Test first, as the model draws it: Bayes limits hold for it as it stands. Then what is left.
    test, validation, train = draw(2), draw(1), draw(0)
    texts = [["".join(map(chr, y)) for y in split.y] for split in (test, train)]
    card = Card(
        name="pinyin-words",
        source="Words of jieba's dict.txt drawn by frequency, read by pypinyin "
        f"({versions('jieba', 'pypinyin')}); stop {stop:g}, seed {seed}. Kept: words of GB2312 "
        f"level 1 hanzi with a count of {LEAST_COUNT} or more"
        + ("." if lexicon is None else f", and of these the {lexicon} most frequent."),
        licence="jieba MIT, pypinyin MIT. Only the dictionary's words and counts are used.",
        counts={
            "dictionary words kept": len(model.words),
            "share of the dictionary's counts in them": f"{model.coverage:.4f}",
            "source vocabulary": len(source),
            "target vocabulary": len(target),
            "distinct sentences in train": len(set(texts[1])),
            "test sentences inside a training sentence": share_inside(*texts),
        },
        split="Test is drawn first and kept as drawn; validation leaves out what is in test, train "
        "what is in either.",
        flaws=(
            "Not language: words are independent, so no context beyond the word helps, and none is "
            "to be learned.",
            "The counts are the dictionary's own, from an old newspaper-like corpus, some of them "
            "smoothed by hand.",
            "A word has the one reading that pypinyin gives it in isolation, right or wrong.",
            "Sentences that occur twice within one split are kept, as the model draws them.",
        ),
    )
    return source, target, (train, validation, test), card


def _draw(
    rng: np.random.Generator, q: np.ndarray, stop: float, x_ids: Ids, y_ids: Ids
) -> Iterator[Iterator[tuple[list[int], list[int]]]]:
    """Pairs without end, from sentences of words, of which ``DRAWN`` are drawn at once. ::

        n      2   1 3            words in each, geometric
        ends   2   3 6            n, summed
        words  a b c d e f        each where a number in 0..1 falls in the running sum of q
               a b|c|d e f        cut at the ends

    By inversion, as numpy promises only of ``random`` that its numbers stay the same.
    """
    running = q.cumsum()
    while True:
        n = 1 + np.floor(np.log1p(-rng.random(DRAWN)) / np.log1p(-stop)).astype(np.int64)
        ends = n.cumsum()
        words = running.searchsorted(rng.random(ends[-1]) * running[-1], side="right")
        ys = ((s, [i for w in s for i in y_ids[w]]) for s in np.split(words, ends[:-1]))
        yield (
            ([i for w in sentence for i in x_ids[w]], y)
            for sentence, y in ys
            if SHORTEST <= len(y) <= LONGEST
        )


def vocabularies(texts: Iterable[str], readings: Iterable[Sequence[str]]) -> tuple[Vocab, Vocab]:
    """Of the syllables and of the hanzi, in order."""
    syllables, hanzi = (sorted({t for row in rows for t in row}) for rows in (readings, texts))
    return Vocab(tuple(syllables)), Vocab(tuple(hanzi))


def share_inside(test: Sequence[str], train: Sequence[str]) -> str:
    """Share of test sequences that are part of a training sequence: what could be looked up."""
    if not test:
        return "none to look for"
    text, n = "\uffff".join(train), SHORTEST
    # No run is shorter than n: all the text is searched only where all n-grams of a run are known.
    known = {text[i : i + n] for i in range(len(text) - n + 1)}
    likely = [run for run in test if all(run[i : i + n] in known for i in range(len(run) - n + 1))]
    return f"{sum(run in text for run in likely) / len(test):.4f}"
