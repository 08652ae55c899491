"""Instructions to follow, for chapter 9.

x says in English or Chinese what to do with three letters, y is the answer. An instruction is an
order of the letters, then a change of each, so the instructions are a grid, and of each cell it is
known which of its parts training has shown (``GRID``; sections 1.3 and 5).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product, starmap

from ..checks import check_whole
from ..data import Split, Vocab
from ..errors import expect
from .splits import Card, Made, Sizes, check_tokens, tenth

LETTERS = "abcdefgh"
ORDERS: dict[str, tuple[str, Callable[[str], str]]] = {
    "copy": ("复制", lambda s: s),
    "reverse": ("反转", lambda s: s[::-1]),
    "rotate": ("轮换", lambda s: s[1:] + s[0]),
    "first": ("首字", lambda s: s[0] * len(s)),
    "last": ("末字", lambda s: s[-1] * len(s)),
    "swap": ("互换", lambda s: s[1] + s[0] + s[2:]),
}
CHANGES = {
    "": ("", LETTERS),
    "upper": ("大写", LETTERS.upper()),
    "number": ("编号", "12345678"),
    "next": ("后移", "bcdefghi"),
    "mirror": ("对换", LETTERS[::-1]),
}
STATUS = ("seen", "language", "pair", "skill")  # or new: in its language, as a pair, a skill
# What training shows of each order, with the changes from left to right.
GRID = """
copy     seen   seen   seen      seen      language
reverse  seen   seen   pair      language  seen
rotate   seen   pair   language  seen      seen
first    seen   seen   seen      pair      seen
last     seen   seen   seen      seen      seen
swap     skill  skill  skill     skill     skill
"""
SHOWN = {order: shown for order, *shown in map(str.split, GRID.strip().split("\n"))}
LENGTH = 3  # of every question and answer
MOST_SHOTS = 100  # 800 tokens, more than the models read


@dataclass(frozen=True)
class Instruction:
    """One cell of the grid, in one language. ``words`` is its text, calling it does what it says.

    >>> do = Instruction("reverse", "upper", "zh")
    >>> do.words, do("abc"), do("abc", working=True), do.status
    (('先', '反转', '再', '大写'), 'CBA', 'cbaCBA', 'seen')
    """

    order: str
    change: str
    language: str

    @property
    def words(self) -> tuple[str, ...]:
        """The instruction as it is asked, a word a token."""
        if self.language == "en":
            return (self.order, "then", self.change) if self.change else (self.order,)
        order, change = ORDERS[self.order][0], CHANGES[self.change][0]
        return ("先", order, "再", change) if change else (order,)

    def __call__(self, letters: str, working: bool = False) -> str:
        """The answer; if ``working``, behind the letters in their new order, not yet changed."""
        change = dict(zip(LETTERS, CHANGES[self.change][1], strict=True))
        ordered = ORDERS[self.order][1](letters)
        return ordered * working + "".join(map(change.__getitem__, ordered))

    @property
    def status(self) -> str:
        """What training shows of it, of ``STATUS``; "language" is a cell that is left out in zh."""
        shown = SHOWN[self.order][list(CHANGES).index(self.change)]
        return "seen" if shown == "language" and self.language == "en" else shown


INSTRUCTIONS = tuple(starmap(Instruction, product(ORDERS, CHANGES, ("en", "zh"))))
SYMBOLS = "".join(sorted({c for _, letters in CHANGES.values() for c in letters}))
TARGET = Vocab(tuple(SYMBOLS))
SOURCE = Vocab((*SYMBOLS, ":", "=", ";", *sorted({w for do in INSTRUCTIONS for w in do.words})))


def ask(
    do: Instruction, letters: list[str], words: Sequence[str] | None = None, working: bool = False
) -> tuple[list[int], list[int]]:
    """One pair: of ``letters`` the first is the question, the others worked examples.

    words: what stands where the instruction does, None for its own. working: as in ``Instruction``.

    >>> x, y = ask(Instruction("reverse", "", "en"), ["abc", "hga"])
    >>> " ".join(SOURCE.decode(x)), "".join(TARGET.decode(y))
    ('a b c : reverse ; h g a = a g h', 'cba')
    """
    question, *shots = letters
    examples = "".join(f";{s}={do(s, working)}" for s in shots)
    words = do.words if words is None else words
    return SOURCE.encode((*question, ":", *words, *examples)), TARGET.encode(do(question, working))


def draw_letters(random_: random.Random, which: int | None = None) -> str:
    """``LENGTH`` letters, drawn one by one. which: until it is a question of that split."""
    while True:
        letters = "".join(random_.choices(LETTERS, k=LENGTH))
        if which in (None, tenth(letters)):  # 8 of 10 in train, one each in validation and test
            return letters


def make(
    shots: int = 0,
    working: bool = False,
    shuffled: bool = False,
    sizes: Sizes = (20_000, 500, 3200),
    seed: int = 0,
) -> Made:
    """Prompts and answers, of the seen instructions and, in test, of all; see ``load_task``."""
    check_whole("shots", shots, least=0, most=MOST_SHOTS)
    check_tokens(sizes, 8 * (shots + 1))
    for name, flag in (("working", working), ("shuffled", shuffled)):
        expect(isinstance(flag, bool), name, "True or False", flag)
    seen = [do for do in INSTRUCTIONS if do.status == "seen"]

    def draw(which: int, size: int) -> Split:
        """Prompts of split number ``which``; only test, 2, asks what training has not shown."""
        random_, pairs = random.Random(f"{seed} {which}"), []
        for row in range(size):
            do = INSTRUCTIONS[row % len(INSTRUCTIONS)] if which == 2 else random_.choice(seen)
            letters = [draw_letters(random_, which), *(draw_letters(random_) for _ in range(shots))]
            words = random_.choice(seen).words if shuffled and which < 2 else None
            pairs.append(ask(do, letters, words, working))
        return Split([x for x, _ in pairs], [y for _, y in pairs])

    status = [do.status for do in INSTRUCTIONS]
    card = Card(
        name="instructions",
        source=f"Generated: {len(INSTRUCTIONS)} instructions, English and Chinese alike, on "
        f"{LENGTH} of the letters {LETTERS}, seed {seed}; {shots} worked examples after each "
        "question. A word is a token.",
        licence="Ours.",
        counts={f"instructions, {s}": status.count(s) for s in STATUS},
        split="Train and validation hold the seen instructions only; test asks each instruction in "
        "turn, row i the one of number i modulo their number. No question is in two splits: a "
        "stable hash of it decides.",
        flaws=(
            "The language is two templates and a dozen words: what is measured is whether known "
            "parts are put together, not whether language is understood.",
            "Some answers agree by chance (aab copied and aab swapped), so a wrong instruction is "
            "sometimes answered rightly.",
            f"There are {len(LETTERS) ** LENGTH} questions only, so training meets each again and "
            "again.",
            *["The instructions of train and validation are another row's."] * shuffled,
        ),
    )
    return SOURCE, TARGET, list(starmap(draw, enumerate(sizes))), card
