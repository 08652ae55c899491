"""Decimal digits to hanzi, 205 to 二百零五: y is not as long as x."""

import random

from ..checks import Refusal, check_whole
from ..data import Card, Vocab
from ..shift import END
from .files import package_folder, versions
from .splits import Made, Sizes, cut, distinct, evenly, measure

FLAWS = (
    "Lengths are even, not natural, except where a short length runs out of numbers.",
    "Zeros are made, not natural: each digit after the first is 0 with probability 0.55, so that "
    "the length of the numeral does not follow from that of the number. A length of which more "
    "than half of all numbers are in (1 to 3 digits, unless chosen otherwise) has its own zeros.",
    "No numeral says a hanzi twice in a row: a CTC model never needs a blank between two equal "
    "tokens.",
    "One way to write each number (十一 alone but 一百一十一; 二, not 两), so any other is counted "
    "wrong.",
)


def make(digits: int = 8, sizes: Sizes = (20000, 1000, 1000), seed: int = 0) -> Made:
    """Numbers of 1 to ``digits`` digits as cn2an writes them; for the options see ``load_task``."""
    check_whole("digits", digits)
    if digits > 8:  # from 9 on cn2an 0.5.24 leaves out 零 where the group of 万 is 0000
        raise Refusal(f"digits: expected at most 8, got {digits}")
    if sum(sizes) > 10**digits:
        asked = f"{sum(sizes)} distinct numbers asked for"
        raise Refusal(f"sizes: {asked}, but {digits} digits make only 10^{digits}")
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
    counts, gained = measure(splits), [len(b) - len(a) for a, b in zip(x, y, strict=True)]
    if x:
        for which, share in (("more", [g > 0 for g in gained]), ("fewer", [g < 0 for g in gained])):
            counts[f"numerals with {which} hanzi than digits"] = f"{sum(share) / len(x):.1%}"
    card = Card(
        name="numerals",
        source=f"Generated: numbers of 1 to {digits} digits, seed {seed}, written by "
        f"{versions('cn2an')}. x is the digits, y the numeral and </s>.",
        licence="cn2an MIT, the numbers ours.",
        counts=counts,
        split="All numbers are distinct; they are put in order of a stable hash and cut.",
        flaws=FLAWS,
    )
    return source, target, splits, card
