"""Decimal digits to hanzi, 205 to 二百零五: y is not as long as x."""

import random

import numpy as np

from ..checks import Refusal, check_whole
from ..data import Card, Split, Vocab
from ..files import package_folder, stable_hash, versions
from ..shift import END
from .splits import cut, measure


def make(digits=8, sizes=(20000, 1000, 1000), seed=0):
    check_whole("digits", digits)
    if digits > 8:  # from 9 on cn2an 0.5.24 leaves out 零 where the group of 万 is 0000
        raise Refusal(f"digits: expected at most 8, got {digits}")
    if sum(sizes) > 10**digits:
        raise Refusal(
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
    splits = [
        Split([source.encode(a) for a in xs], [[*target.encode(b), END] for b in ys])
        for xs, ys in zip(cut(x, sizes), cut(y, sizes), strict=True)
    ]
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
