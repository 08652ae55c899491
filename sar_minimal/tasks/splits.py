"""Cut into train, validation and test, the same way each time, and count what is in each."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

from ..checks import Refusal
from ..data import Card, Split, Vocab
from ..shift import UNKNOWN
from .files import stable_hash

Sizes = tuple[int, int, int]  # how many pairs train, validation and test have
T = TypeVar("T")


class Splits(NamedTuple):
    """The three that each task has."""

    train: Split
    validation: Split
    test: Split


Made = tuple[Vocab, Vocab, Splits, Card]  # of a task: vocabularies of x and y, pairs, card
Maker = Callable[..., Made]  # takes the task's options


def check_sizes(sizes: Any) -> Sizes:
    """Three sizes, one for each split. Raises ValueError."""
    try:
        sizes = tuple(sizes)
    except TypeError:
        sizes = (sizes,)
    if len(sizes) == 3 and all(type(n) is int and n >= 0 for n in sizes):
        return sizes[0], sizes[1], sizes[2]
    raise Refusal(f"sizes: expected (train, validation, test), three ints >= 0, got {sizes!r}")


def cut(x: list[list[int]], y: list[list[int]], sizes: Sizes) -> Splits:
    """Pairs in the order given, so many to train, the next to validation, the next to test.

    >>> cut([[4], [5], [6], [7]], [[4], [5], [6], [7]], (2, 1, 1)).validation
    Split(x=[[6]], y=[[6]])
    """
    ends = list(accumulate(sizes, initial=0))
    return Splits(*(Split(x[a:b], y[a:b]) for a, b in zip(ends, ends[1:], strict=False)))


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


def measure(splits: Splits) -> dict[str, Any]:
    """For a card: pairs of each split, tokens of y, and how many different ones x and y have."""
    return {
        name: {
            "pairs": len(split),
            "tokens": sum(map(len, split.y)),
            "source types": len({i for row in split.x for i in row} - {UNKNOWN}),
            "target types": len({i for row in split.y for i in row} - {UNKNOWN}),
        }
        for name, split in splits._asdict().items()
    }
