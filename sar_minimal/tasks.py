"""Tasks: real and generated pairs (x, y) behind one interface, ``load_task(name)``.

====================  ==========================================  ==========================
task                  x -> y                                      what it is for
====================  ==========================================  ==========================
copy, reverse, sort   symbols -> the same, reversed, sorted       answers known exactly
homophone, coherence  sounds -> a language of ``theory.py``       entropies known exactly
numerals              decimal digits -> hanzi, 205 -> 二百零五    y is not as long as x
docstrings            characters, y is x                          text to model
instructions          what to do, letters -> the answer           parts known, pairs not
pinyin, words         toneless syllables -> hanzi, 1:1            a known model draws the text
pinyin, news          the same, newspaper and reviews             real text, split by block
pinyin, hsk           the same, textbook sentences                evaluation only
pinyin, file:PATH     the same, a teacher's own text              whatever you bring
====================  ==========================================  ==========================

The corpora of pinyin are in ``pinyin.py``, docstrings and instructions in ``texts.py``. ``python -m sar_minimal.tasks`` writes the data cards,
``data/*.md``, from the tasks as they load (sections 3.4 and 5).
"""

import difflib
import functools
import inspect
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files import MissingPackage, package_folder, stable_hash, versions, write_atomically
from .shift import END, IGNORE, PAD, UNKNOWN, check_whole
from .theory import CoherenceLanguage, HomophoneLanguage

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")  # in the order of PAD, START, END, UNKNOWN = 0..3
SPLITS = ("train", "validation", "test")
TEXTS = ("docstrings", "instructions")  # their makers are in texts.py


class UnknownToken(ValueError):
    """A token that the vocabulary does not hold; the message says which, where, and what is near."""


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

    def take(self, rows: Iterable[int]) -> "Split":
        """The pairs at these places, in this order."""
        rows = list(rows)
        return Split([self.x[i] for i in rows], [self.y[i] for i in rows])


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
    """Which pairs go into which batch: similar lengths of x together, pairs * longest <= ``tokens``.

    Every pair is in exactly one batch; "longest" counts x and y alike. Lengths of y are mixed: a model that
    predicts T would see one answer a batch otherwise, and learns that. With a seed, pairs of one length
    and the batches themselves are shuffled, the same way each time (a seed may be several ints, such as run and
    epoch); without, both are in order of length. ``len(batch_plan(...))`` is the number of steps of one pass:
    of this one, since another order may fill the batches otherwise.
    Raises ValueError when a single pair is longer than the budget.
    """
    check_whole("tokens", tokens)
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
    order = ties[np.argsort(S[ties], kind="stable")]
    plan, first, width = [], 0, 0
    for last, length in enumerate(longest[order].tolist()):
        width = max(width, length)
        if (last - first + 1) * width > tokens:
            plan.append(order[first:last])
            first, width = last, length
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
    check_whole("skip", skip, least=0)
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
    Options of homophone: hanzi, syllables, sharpness, language (its seed), length, sizes, seed; of coherence:
    words, dialects, tell, length, sizes, seed. ``language_of`` gives the language itself.
    Options of numerals: digits (the most), sizes, seed.
    Options of docstrings: length; of instructions: shots (at most, in the prompt), shuffled, sizes, seed.
    Options of pinyin: corpus = "words" (sizes, seed, stop, lexicon), "news", "hsk" (vocabulary_of) or "file:PATH".
    Raises ValueError naming what is wrong and what there is, MissingPackage with the line to install.
    """
    if name in GENERATED:
        make, chosen, fixed = _generated, {}, {"kind": name}
    elif name in LANGUAGES:
        make, chosen, fixed = LANGUAGES[name], {}, {}
    elif name == "numerals":
        make, chosen, fixed = _numerals, {}, {}
    elif name in TEXTS:
        from .texts import MAKERS

        make, chosen, fixed = MAKERS[name], {}, {}
    elif name == "pinyin":
        from .pinyin import CORPORA

        corpus = options.pop("corpus", "words")
        kind, _, path = str(corpus).partition(":")
        if kind not in CORPORA or (kind == "file") != bool(path):
            raise ValueError(f"corpus: expected words, news, hsk or file:PATH, got {corpus!r}")
        make, chosen, fixed = CORPORA[kind], {"corpus": corpus}, {"path": path} if path else {}
    else:
        raise ValueError(
            f"task: expected one of {', '.join([*GENERATED, *LANGUAGES, 'numerals', *TEXTS])}, pinyin, got {name!r}"
        )
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
        check_whole("seed", options["seed"], least=0)
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


def measure(splits: Sequence[Split]) -> dict:
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


# ---------------------------------------------------------------- copy, reverse, sort


GENERATED = {"copy": list, "reverse": lambda row: row[::-1], "sort": sorted}


def _generated(kind, symbols=16, min_length=4, max_length=12, sizes=(20000, 1000, 1000), seed=0):
    for option, value in (
        ("symbols", symbols),
        ("min_length", min_length),
        ("max_length", max_length),
    ):
        check_whole(option, value)
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
    answer = GENERATED[kind]
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
        counts=measure(splits),
        split="All sequences are distinct; they are put in order of a stable hash and cut.",
        flaws=(
            "Lengths are even, not natural, except where a short length runs out of sequences.",
        ),
    )
    return vocab, vocab, splits, card


# ---------------------------------------------------------------- the exact languages


def _homophone(
    hanzi=9, syllables=3, sharpness=2.0, language=0, length=6, sizes=(200_000, 5000, 5000), seed=0
):
    exact = HomophoneLanguage.random(hanzi, syllables, sharpness, seed=language)
    about = (
        f"{hanzi} hanzi, {syllables} syllables, sharpness {sharpness}, drawn from seed {language}"
    )
    return _sampled("homophone", exact, about, length, sizes, seed)


def _coherence(words=4, dialects=2, tell=0.0, length=6, sizes=(200_000, 5000, 5000), seed=0):
    exact = CoherenceLanguage(words, dialects, tell)
    about = f"{words} words in each of {dialects} dialects, a tell with probability {tell}"
    return _sampled("coherence", exact, about, length, sizes, seed)


LANGUAGES = {"homophone": _homophone, "coherence": _coherence}


def _sampled(name, language, about, length, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = language.sample(sum(sizes), length, generator)
    spelled, names = [0] * language.syllables, []
    for s in language.syllable_of.tolist():  # the hanzi that sound like a are a1, a2, ...
        spelled[s] += 1
        names.append(f"{_sound(s)}{spelled[s]}")
    x, y = (x + len(SPECIALS)).tolist(), (y + len(SPECIALS)).tolist()
    ends = np.cumsum((0, *sizes))
    splits = [Split(x[a:b], y[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
    card = Card(
        name=name,
        source=f"Generated: {about}; length {length}, sequences from seed {seed}.",
        licence="Ours.",
        counts=measure(splits),
        split="Independent draws, cut in the order drawn.",
        flaws=(
            "A sequence may be in several splits: what is learned is the language, not a list.",
        ),
    )
    return Vocab(map(_sound, range(language.syllables))), Vocab(names), splits, card


def _sound(s: int) -> str:
    return chr(ord("a") + s) if s < 26 else f"s{s}."


def language_of(task: Task) -> HomophoneLanguage:
    """The language that the sequences of a homophone or coherence task are drawn from.

    Its hanzi v is the task's token v + 4. Raises ValueError for any other task.
    """
    o = task.options
    if task.name == "homophone":
        return HomophoneLanguage.random(o["hanzi"], o["syllables"], o["sharpness"], o["language"])
    if task.name == "coherence":
        return CoherenceLanguage(o["words"], o["dialects"], o["tell"])
    raise ValueError(f"task: expected homophone or coherence, got {task.name}")


# ---------------------------------------------------------------- numerals


def _numerals(digits=8, sizes=(20000, 1000, 1000), seed=0):
    check_whole("digits", digits)
    if digits > 8:  # from 9 on cn2an 0.5.24 leaves out 零 where the group of 万 is 0000
        raise ValueError(f"digits: expected at most 8, got {digits}")
    if sum(sizes) > 10**digits:
        raise ValueError(
            f"sizes: {sum(sizes)} distinct numbers asked for, but {digits} digits make only 10^{digits}"
        )
    package_folder("cn2an")  # says how to install it
    import cn2an

    rng, x, left = random.Random(seed), [], sum(sizes)
    for n in range(1, digits + 1):  # as even over the lengths as the short ones have room for
        low = 10 ** (n - 1) if n > 1 else 0
        some, take = {}, min(10**n - low, -(-left // (digits - n + 1)))
        if 2 * take > 10**n - low:  # the loop would look long for the last numbers without a zero
            some = [str(number) for number in rng.sample(range(low, 10**n), take)]
        while len(some) < take:
            rest = (rng.randrange(10) if rng.random() < 0.5 else 0 for _ in range(n - 1))
            some["".join(map(str, (rng.randrange(n > 1, 10), *rest)))] = None
        x += some
        left -= take
    x.sort(key=lambda number: stable_hash(f"{seed} {number}"))
    y = [cn2an.an2cn(number) for number in x]
    source, target = Vocab("0123456789"), Vocab("零一二三四五六七八九十百千万")
    splits, first = [], 0
    for size in sizes:
        rows = range(first, first + size)
        splits.append(
            Split([source.encode(x[i]) for i in rows], [[*target.encode(y[i]), END] for i in rows])
        )
        first += size
    more = np.array([len(b) - len(a) for a, b in zip(x, y, strict=True)])
    facts = {
        f"numerals with {which} hanzi than digits": f"{share.mean():.1%}"
        for which, share in (("more", more > 0), ("fewer", more < 0))
        if x
    }
    card = Card(
        name="numerals",
        source=f"Generated: numbers of 1 to {digits} digits, seed {seed}, written by {versions('cn2an')}. "
        "x is the digits, y the numeral and </s>.",
        licence="cn2an MIT, the numbers ours.",
        counts=measure(splits) | facts,
        split="All numbers are distinct; they are put in order of a stable hash and cut.",
        flaws=(
            "Lengths are even, not natural, except where a short length runs out of numbers.",
            "Zeros are made, not natural: each digit after the first is 0 with probability 0.55, so that the length "
            "of the numeral does not follow from that of the number. A length of which more than half of all "
            "numbers are in (1 to 3 digits, unless chosen otherwise) has its own zeros.",
            "No numeral says a hanzi twice in a row: a CTC model never needs a blank between two equal tokens.",
            "One way to write each number (十一 alone but 一百一十一; 二, not 两), so any other is counted wrong.",
        ),
    )
    return source, target, splits, card


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
    for name in (
        *GENERATED,
        *LANGUAGES,
        "numerals",
        *TEXTS,
        "pinyin words",
        "pinyin news",
        "pinyin hsk",
    ):
        name, *corpus = name.split()
        try:
            card = load_task(name, **dict(zip(["corpus"], corpus, strict=False))).card
        except MissingPackage as error:
            print(f"no card for {name} {corpus[0]}: {error}")
            continue
        path = Path(__file__).parents[1] / "data" / f"{card.name}.md"
        write_atomically(path, card.to_markdown().encode())
        print(path)
