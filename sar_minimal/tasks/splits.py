"""Cut into train, validation and test, the same way each time, and count what is in each."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

from ..checks import Refusal
from ..data import Split
from ..files import stable_hash
from ..shift import UNKNOWN

SPLITS = ("train", "validation", "test")


def check_sizes(sizes) -> tuple[int, int, int]:
    """Three sizes, one for each split. Raises ValueError."""
    try:
        sizes = tuple(sizes)
    except TypeError:
        sizes = (sizes,)
    if len(sizes) != 3 or any(
        isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in sizes
    ):
        raise Refusal(f"sizes: expected (train, validation, test), three ints >= 0, got {sizes!r}")
    return sizes


def cut(rows: Sequence, sizes: Sequence[int]) -> list[Sequence]:
    """One piece of ``rows`` after the other, of these sizes.

    >>> cut("abcdef", (3, 1, 2))
    ['abc', 'd', 'ef']
    """
    ends = list(accumulate(sizes, initial=0))
    return [rows[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def tenth(text: str) -> int:
    """A split for ``text``, by its stable hash: 0 (train) for 8 of 10, 1 (validation), 2 (test)."""
    return max(0, stable_hash(text) % 10 - 7)


def ranked(keys: Sequence[str]) -> list[int]:
    """A split for each key, 80/10/10 by rank of its stable hash: 0 train, 1 validation, 2 test."""
    tenth = max(1, len(keys) // 10)
    order = sorted(range(len(keys)), key=lambda i: stable_hash(keys[i]))
    splits = [0] * len(keys)
    for rank, i in enumerate(order[: 2 * tenth]):
        splits[i] = 2 if rank < tenth else 1
    return splits


def measure(splits: Sequence[Split]) -> dict:
    """What a card says of each split: pairs, tokens of y, and how many different ones x and y have."""
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
