"""Copy, reverse, sort: symbols to the same ones, reversed or sorted, so that every answer is known."""

import random

from ..checks import Refusal, check_whole
from ..data import Card, Split, Vocab
from ..files import stable_hash
from .splits import cut, measure

GENERATED = {"copy": list, "reverse": lambda row: row[::-1], "sort": sorted}


def make(kind, symbols=16, min_length=4, max_length=12, sizes=(20000, 1000, 1000), seed=0):
    for option, value in (
        ("symbols", symbols),
        ("min_length", min_length),
        ("max_length", max_length),
    ):
        check_whole(option, value)
    if max_length < min_length:
        raise Refusal(f"max_length: expected at least min_length = {min_length}, got {max_length}")
    room = [symbols**length for length in range(min_length, max_length + 1)]
    if sum(sizes) > sum(room):
        raise Refusal(
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
    splits = [Split(x, [answer(row) for row in x]) for x in cut(rows, sizes)]
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
