"""Train, validation and test: which pair goes where, the same each time, and what is in each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Split, Vocab
from ..errors import expect
from ..shift import UNKNOWN
from .files import stable_hash

SPLITS = ("train", "validation", "test")
MOST_PAIRS, MOST_TOKENS = 10_000_000, 50_000_000  # they are all made at once, in memory
Sizes = tuple[int, int, int]  # how many pairs each of them has


@dataclass(frozen=True)
class Card:
    """What one should know about a task's data before trusting a number measured on it.

    counts: measured: for each split a dict of pairs, tokens (of y) and types; facts beside them.
    """

    name: str
    source: str
    licence: str
    counts: dict[str, Any]
    split: str
    flaws: tuple[str, ...]


# Vocabularies of x and y, three splits, and a card that has yet to count them (``measure``).
Made = tuple[Vocab, Vocab, Sequence[Split], Card]
Maker = Callable[..., Made]  # takes the task's options


def check_sizes(sizes: Any) -> Sizes:
    """Three sizes, one for each split. Raises ValueError."""
    sizes = tuple(sizes) if np.iterable(sizes) else (sizes,)
    fits = len(sizes) == 3 and all(type(n) is int and n >= 0 for n in sizes)
    expect(fits, "sizes", "(train, validation, test), three ints >= 0", sizes)
    expect(sum(sizes) <= MOST_PAIRS, "sizes", f"at most {MOST_PAIRS} pairs", sum(sizes))
    return sizes[0], sizes[1], sizes[2]


def check_tokens(sizes: Sizes, length: int) -> None:
    """Raise Refusal where so many pairs of that length would not fit into memory."""
    most, got = f"at most {MOST_TOKENS} tokens in all (pairs times length)", sum(sizes) * length
    expect(got <= MOST_TOKENS, "sizes", most, got)


def measure(splits: Sequence[Split]) -> dict[str, Any]:
    """For a card: pairs of each split, tokens of y, and how many different ones x and y have."""
    return {
        name: {
            "pairs": len(split),
            "tokens": sum(map(len, split.y)),
            "source types": len(set[int]().union(*split.x) - {UNKNOWN}),
            "target types": len(set[int]().union(*split.y) - {UNKNOWN}),
        }
        for name, split in zip(SPLITS, splits, strict=True)
    }


# 8 : 1 : 1 by a stable hash, so that a key is in the same split on every machine. Two ways:


def tenth(key: str) -> int:
    """The split of one key, whatever others there are: 0 train (8 of 10), 1 validation, 2 test."""
    return max(0, stable_hash(key) % 10 - 7)


def ranked(keys: Sequence[str]) -> list[int]:
    """The split of each of different keys by its rank: exactly a tenth is test, one validation."""
    rank = {key: i for i, key in enumerate(sorted(keys, key=stable_hash))}
    return [max(0, 2 - rank[key] // max(1, len(keys) // 10)) for key in keys]


def by_blocks(lines: int, block: int, label: str) -> list[int]:
    """The split of each of so many lines, ``block`` lines together, by the rank of the blocks."""
    split_of = ranked([f"{label} {b}" for b in range(-(-lines // block))])
    return [split_of[i // block] for i in range(lines)]
