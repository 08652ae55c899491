"""Copy, reverse, sort: symbols to the same ones, reversed or sorted: every answer is known."""

import random
from collections.abc import Callable

from ..checks import Refusal, check_whole
from ..data import SPECIALS, Card, Vocab
from .splits import Made, Sizes, cut, distinct, evenly, measure

Answer = Callable[[list[int]], list[int]]
ANSWERS: dict[str, Answer] = {"copy": list, "reverse": lambda row: row[::-1], "sort": sorted}


def make(
    kind: str,
    symbols: int = 16,
    min_length: int = 4,
    max_length: int = 12,
    sizes: Sizes = (20000, 1000, 1000),
    seed: int = 0,
) -> Made:
    """Sequences and what ``ANSWERS[kind]`` makes of them; for the options see ``load_task``."""
    check_whole("symbols", symbols)
    check_whole("min_length", min_length)
    check_whole("max_length", max_length)
    if max_length < min_length:
        raise Refusal(f"max_length: expected at least min_length = {min_length}, got {max_length}")
    room = {length: symbols**length for length in range(min_length, max_length + 1)}
    if sum(sizes) > (most := sum(room.values())):
        asked = f"{sum(sizes)} distinct sequences asked for"
        made = f"{symbols} symbols and lengths {min_length}..{max_length} make only {most}"
        raise Refusal(f"sizes: {asked}, but {made}")
    rng = random.Random(seed)

    def draw(length: int, n: int) -> list[list[int]]:
        """A sequence is a number to the base ``symbols``."""
        numbers = distinct(n, lambda: rng.randrange(room[length]))
        places = [symbols**k for k in range(length)]
        return [[len(SPECIALS) + i // place % symbols for place in places] for i in numbers]

    x = evenly(room, draw, sum(sizes), seed)
    splits = cut(x, list(map(ANSWERS[kind], x)), sizes)
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
    vocab = Vocab(tuple(map(str, range(symbols))))
    return vocab, vocab, splits, card
