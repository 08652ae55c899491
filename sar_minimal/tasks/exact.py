"""Generated pairs of which all is known: symbols in another order, numerals, and texts drawn from
the languages of ``languages.py``."""

import random
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import TypeVar

import torch

from ..checks import check_whole
from ..data import SPECIALS, Split, Task, Vocab
from ..errors import Refusal, expect
from ..languages import CoherenceLanguage, HomophoneLanguage
from ..shift import END
from .files import package_folder, stable_hash, versions
from .splits import Card, Made, Sizes, check_tokens

# Sizes beyond these are slips: the task would not be made today, or not fit into memory.
MOST_SYMBOLS, MOST_LENGTH, MOST_HANZI = 100_000, 512, 4096
T = TypeVar("T")
Answer = Callable[[list[int]], list[int]]
ANSWERS: dict[str, Answer] = {"copy": list, "reverse": lambda row: row[::-1], "sort": sorted}


def cut(x: list[list[int]], y: list[list[int]], sizes: Sizes) -> list[Split]:
    """Pairs in the order given, so many to train, the next to validation, the next to test.

    >>> cut([[4], [5], [6], [7]], [[4], [5], [6], [7]], (2, 1, 1))[1]
    Split(x=[[6]], y=[[6]])
    """
    return [Split(x[a:b], y[a:b]) for a, b in pairwise(accumulate(sizes, initial=0))]


def evenly(
    room: Mapping[int, int], draw: Callable[[int, int], list[T]], total: int, seed: int
) -> list[T]:
    """``total`` things, as even over the lengths as the short ones have room for, in stable order.

    room: how many there are of each length, the fewest first. draw(length, n): n different ones.

    >>> "".join(sorted(evenly({1: 1, 2: 3, 3: 99}, lambda length, n: n * [str(length)], 9, seed=0)))
    '122233333'
    """
    drawn: list[T] = []
    for i, (length, most) in enumerate(room.items()):
        drawn += draw(length, min(most, -(-(total - len(drawn)) // (len(room) - i))))
    return sorted(drawn, key=lambda thing: stable_hash(f"{seed} {thing}"))


def distinct(n: int, draw: Callable[[], T]) -> list[T]:
    """Draw until there are ``n`` different things; they come in the order drawn."""
    drawn: dict[T, None] = {}  # a dict keeps its order, a set does not
    while len(drawn) < n:
        drawn[draw()] = None
    return list(drawn)


def ordered(
    kind: str,
    symbols: int = 16,
    min_length: int = 4,
    max_length: int = 12,
    sizes: Sizes = (20_000, 1000, 1000),
    seed: int = 0,
) -> Made:
    """Sequences and what ``ANSWERS[kind]`` makes of them; for the options see ``load_task``."""
    check_whole("symbols", symbols, most=MOST_SYMBOLS)
    check_whole("min_length", min_length, most=MOST_LENGTH)
    check_whole("max_length", max_length, most=MOST_LENGTH)
    least = f"at least min_length = {min_length}"
    expect(max_length >= min_length, "max_length", least, max_length)
    check_tokens(sizes, max_length)
    room = {length: symbols**length for length in range(min_length, max_length + 1)}
    if sum(sizes) > (most := sum(room.values())):
        but = f"{symbols} symbols and lengths {min_length}..{max_length} make only {most}"
        raise Refusal(f"sizes: {sum(sizes)} distinct sequences asked for, but {but}")
    rng = random.Random(seed)

    def draw(length: int, n: int) -> list[list[int]]:
        """A sequence is a number to the base ``symbols``, the lowest digit first."""
        rows = []
        for number in distinct(n, lambda: rng.randrange(room[length])):
            row = []
            for _ in range(length):
                number, digit = divmod(number, symbols)
                row.append(len(SPECIALS) + digit)
            rows.append(row)
        return rows

    x = evenly(room, draw, sum(sizes), seed)
    vocab = Vocab(tuple(map(str, range(symbols))))
    card = Card(
        name=kind,
        source=f"Generated: {symbols} symbols, lengths {min_length} to {max_length}, seed {seed}.",
        licence="Ours.",
        counts={},
        split="All sequences are distinct; they are put in order of a stable hash and cut.",
        flaws=(
            "Lengths are even, not natural, except where a short length runs out of sequences.",
        ),
    )
    return vocab, vocab, cut(x, list(map(ANSWERS[kind], x)), sizes), card


def numerals(digits: int = 8, sizes: Sizes = (20_000, 1000, 1000), seed: int = 0) -> Made:
    """Numbers of 1 to ``digits`` digits as cn2an writes them; for the options see ``load_task``."""
    # From 9 on cn2an 0.5.24 leaves out 零 where the group of 万 is 0000.
    check_whole("digits", digits, most=8)
    if sum(sizes) > 10**digits:
        but = f"{digits} digits make only 10^{digits}"
        raise Refusal(f"sizes: {sum(sizes)} distinct numbers asked for, but {but}")
    package_folder("cn2an")  # says how to install it
    import cn2an

    rng, room = random.Random(seed), {n: 9 * 10 ** (n - 1) + (n == 1) for n in range(1, digits + 1)}

    def number(n: int) -> str:
        """n digits, the first no zero, where more than one; of the others half are made zeros."""
        digits = [rng.randrange(n > 1, 10)]
        digits += [rng.randrange(10) if rng.random() < 0.5 else 0 for _ in range(n - 1)]
        return "".join(map(str, digits))

    def draw(n: int, take: int) -> list[str]:
        """Different ones; where most of all are asked for, without that many zeros."""
        if 2 * take > room[n]:  # ``distinct`` would look long for the last numbers without a zero
            return [str(i) for i in rng.sample(range(10**n - room[n], 10**n), take)]
        return distinct(take, lambda: number(n))

    x = evenly(room, draw, sum(sizes), seed)
    y = [cn2an.an2cn(number) for number in x]
    source, target = Vocab(tuple("0123456789")), Vocab(tuple("零一二三四五六七八九十百千万"))
    splits = cut(list(map(source.encode, x)), [[*target.encode(b), END] for b in y], sizes)
    counts, gained = {}, [len(b) - len(a) for a, b in zip(x, y, strict=True)]
    for which, share in (("more", [g > 0 for g in gained]), ("fewer", [g < 0 for g in gained])):
        if share:
            counts[f"numerals with {which} hanzi than digits"] = f"{sum(share) / len(share):.1%}"
    card = Card(
        name="numerals",
        source=f"Generated: numbers of 1 to {digits} digits, seed {seed}, written by "
        f"{versions('cn2an')}. x is the digits, y the numeral and </s>.",
        licence="cn2an MIT, the numbers ours.",
        counts=counts,
        split="All numbers are distinct; they are put in order of a stable hash and cut.",
        flaws=(
            "Lengths are even, not natural, except where a short length runs out of numbers.",
            "Zeros are made, not natural: each digit after the first is 0 with probability 0.55, "
            "so that the length of the numeral does not follow from that of the number. A length "
            "of which more than half of all numbers are in (1 to 3 digits, unless chosen "
            "otherwise) has its own zeros.",
            "No numeral says a hanzi twice in a row: a CTC model never needs a blank between two "
            "equal tokens.",
            "One way to write each number (十一 alone but 一百一十一; 二, not 两), so any other is "
            "counted wrong.",
        ),
    )
    return source, target, splits, card


def homophone(
    hanzi: int = 9,
    syllables: int = 3,
    sharpness: float = 2.0,
    language: int = 0,
    length: int = 6,
    sizes: Sizes = (200_000, 5000, 5000),
    seed: int = 0,
) -> Made:
    """Sounds and hanzi of a random ``HomophoneLanguage``; for the options see ``load_task``."""
    check_whole("language", language, least=0, most=2**63 - 1)
    sharp = isinstance(sharpness, int | float) and sharpness > 1000  # else see below
    expect(not sharp, "sharpness", "at most 1000", sharpness)
    check_whole("hanzi", hanzi, most=MOST_HANZI)
    check_whole("syllables", syllables, most=MOST_HANZI)
    exact = HomophoneLanguage.random(hanzi, syllables, sharpness, seed=language)
    sounds = f"{hanzi} hanzi, {syllables} syllables, sharpness {sharpness}"
    return _drawn("homophone", exact, f"{sounds}, drawn from seed {language}", length, sizes, seed)


def coherence(
    words: int = 4,
    dialects: int = 2,
    tell: float = 0.0,
    length: int = 6,
    sizes: Sizes = (200_000, 5000, 5000),
    seed: int = 0,
) -> Made:
    """Sounds and hanzi of a ``CoherenceLanguage``; for the options see ``load_task``."""
    check_whole("words", words, most=MOST_HANZI)
    check_whole("dialects", dialects, most=MOST_HANZI // words)
    exact = CoherenceLanguage(words, dialects, tell)
    about = f"{words} words in each of {dialects} dialects, a tell with probability {tell}"
    return _drawn("coherence", exact, about, length, sizes, seed)


def _drawn(
    name: str, language: HomophoneLanguage, about: str, length: int, sizes: Sizes, seed: int
) -> Made:
    """Texts drawn from a language, which the card tells ``about``."""
    check_whole("length", length, most=MOST_LENGTH)
    check_tokens(sizes, length)
    x, y = language.sample(sum(sizes), length, torch.Generator().manual_seed(seed))
    sounds = [chr(ord("a") + s) if s < 26 else f"s{s}." for s in range(language.syllables)]
    spelled, hanzi = [0] * len(sounds), []
    for s in language.syllable_of.tolist():  # the hanzi that sound like a are a1, a2, ...
        spelled[s] += 1
        hanzi.append(f"{sounds[s]}{spelled[s]}")
    card = Card(
        name=name,
        source=f"Generated: {about}; length {length}, sequences from seed {seed}.",
        licence="Ours.",
        counts={},
        split="Independent draws, cut in the order drawn.",
        flaws=(
            "A sequence may be in several splits: what is learned is the language, not a list.",
        ),
    )
    splits = cut((x + len(SPECIALS)).tolist(), (y + len(SPECIALS)).tolist(), sizes)
    return Vocab(tuple(sounds)), Vocab(tuple(hanzi)), splits, card


def language_of(task: Task) -> HomophoneLanguage:
    """The language that the sequences of a homophone or coherence task are drawn from.

    Its hanzi v is the task's token v + len(SPECIALS). Raises ValueError for any other task.
    """
    o = task.options
    if task.name == "homophone":
        return HomophoneLanguage.random(o["hanzi"], o["syllables"], o["sharpness"], o["language"])
    if task.name == "coherence":
        return CoherenceLanguage(o["words"], o["dialects"], o["tell"])
    raise Refusal(f"task: expected homophone or coherence, got {task.name}")
