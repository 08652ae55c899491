"""Text for chapter 9: docstrings to model, and instructions to follow.

``docstrings``: characters of the standard library's docstrings. A language model has no source, so x
is y, and only what reads y alone (``DecoderLM``, ``ShiftedLM``) has something to learn there.

``instructions``: x says in English or Chinese what to do with three letters, y is the answer. An
instruction is an order of the letters, then a change of each, so the instructions are a grid ::

               as they are   upper         number        next          mirror
    copy       seen          seen          seen          seen          English only
    reverse    seen          seen          never         English only  seen
    rotate     seen          never         English only  seen          seen
    first      seen          seen          seen          never         seen
    last       seen          seen          seen          seen          seen
    swap       never         never         never         never         never

and of each cell it is known which of its parts training has shown (sections 1.3 and 5).
"""

import functools
import platform
import random
import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import stable_hash
from .shift import check_whole
from .tasks import Card, Split, Vocab, measure

SPACE = "␣"  # a vocabulary has no white space in it
CHARACTERS = SPACE + "".join(c for c in map(chr, range(33, 127)) if not c.isupper())
TRIPLE_QUOTED = re.compile(r'^([^\n]*?)"""(.*?)"""', re.DOTALL | re.MULTILINE)

# ---------------------------------------------------------------- docstrings


def characters(text: str) -> str:
    """``text`` as the task spells it: lower case, white space as one ``SPACE``, the rest of ASCII.

    >>> characters("  Return a\\n    Tuple…")
    'return␣a␣tuple'
    """
    return SPACE.join("".join(c for c in text.lower() if c.isascii()).split())


@functools.cache
def library_docstrings() -> tuple[tuple[str, str], ...]:
    """(module, docstring) pairs of the standard library, its tests and what was installed beside it left
    out, in the order of the files, each docstring once.

    A docstring is taken to be a triple-quoted string that opens a line: to parse the library with ``ast``
    takes twenty times as long and finds a tenth more.
    """
    folder, found = Path(sysconfig.get_path("stdlib")), {}
    for path in sorted(folder.rglob("*.py")):
        module, *inside = path.relative_to(folder).with_suffix("").parts
        if not {"site-packages", "dist-packages", "test", "tests", "idle_test"} & {module, *inside}:
            code = path.read_text(encoding="utf-8", errors="replace")
            for before, text in TRIPLE_QUOTED.findall(code):
                if not before.strip(" rRuU"):
                    found.setdefault(characters(text), module)  # a package counts as one module
    found.pop("", None)
    return tuple((module, text) for text, module in found.items())


def _docstrings(length=64):
    check_whole("length", length)
    vocab, pieces = Vocab(CHARACTERS), {}
    for module, text in library_docstrings():
        for first in range(0, len(text) - length + 1, length):  # what is left over is left out
            pieces.setdefault(text[first : first + length], module)
    rows = ([], [], [])
    for piece in sorted(pieces, key=stable_hash):  # so the first n are a sample of them all
        share = stable_hash(pieces[piece]) % 10
        rows[max(0, share - 7)].append(vocab.encode(piece))
    splits = [Split(y, y) for y in rows]
    modules = set(pieces.values())
    card = Card(
        name="docstrings",
        source=f"Docstrings of the standard library of Python {platform.python_version()}, read where it is "
        f"installed, in lower case, ASCII only, white space as {SPACE}, cut into pieces of {length} characters. x is y.",
        licence="PSF License (version 2) for the text; nothing of it is committed.",
        counts=measure(splits) | {"modules": len(modules)},
        split="By top-level module: a stable hash of its name puts it into train (8 of 10), validation or test. "
        "Docstrings that occur twice are kept once, and so are pieces.",
        flaws=(
            "The text differs with the version of Python and with what a distribution leaves out: numbers "
            "measured on it hold as inequalities only.",
            "Modules differ much in size, so the splits are not 8 : 1 : 1 in pieces.",
            "Pieces begin and end inside words, and what a docstring has left over is lost.",
            "Phrases that modules share (return, if the, optional) are in all splits.",
        ),
    )
    return vocab, vocab, splits, card


# ---------------------------------------------------------------- instructions

LETTERS = "abcdefgh"
ORDERS = {
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
LANGUAGES = ("en", "zh")
NEW_SKILL = "swap"  # the others are known; of these, what training leaves out:
NEW_PAIRS = (("reverse", "number"), ("rotate", "upper"), ("first", "next"))
ENGLISH_ONLY = (("copy", "mirror"), ("reverse", "next"), ("rotate", "number"))
STATUS = ("seen", "language", "pair", "skill")
LENGTH = 3  # of every question and answer


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
        if self.language == "en":
            return (self.order, "then", self.change) if self.change else (self.order,)
        order, change = ORDERS[self.order][0], CHANGES[self.change][0]
        return ("先", order, "再", change) if change else (order,)

    def __call__(self, letters: str, working: bool = False) -> str:
        """The answer; behind the letters in their new order, before they are changed, if ``working``."""
        change = dict(zip(LETTERS, CHANGES[self.change][1], strict=True))
        ordered = ORDERS[self.order][1](letters)
        return ordered * working + "".join(map(change.__getitem__, ordered))

    @property
    def status(self) -> str:
        """What training shows of it: "seen", or new in its "language", as a "pair", or as a "skill"."""
        pair = (self.order, self.change)
        if self.order == NEW_SKILL:
            return "skill"
        if pair in NEW_PAIRS:
            return "pair"
        return "language" if pair in ENGLISH_ONLY and self.language == "zh" else "seen"


INSTRUCTIONS = tuple(
    Instruction(order, change, language)
    for order in ORDERS
    for change in CHANGES
    for language in LANGUAGES
)
SYMBOLS = "".join(sorted({c for _, letters in CHANGES.values() for c in letters}))
TARGET = Vocab(SYMBOLS)
SOURCE = Vocab((*SYMBOLS, ":", "=", ";", *sorted({w for do in INSTRUCTIONS for w in do.words})))


def ask(
    do: Instruction,
    letters: Sequence[str],
    words: Sequence[str] | None = None,
    working: bool = False,
) -> tuple[list[int], list[int]]:
    """One pair, x and y, ids: the first of ``letters`` is the question, the others are worked examples.

    words: what stands in the place of the instruction, None for its own. working: as in ``Instruction``.

    >>> x, y = ask(Instruction("reverse", "", "en"), ["abc", "hga"])
    >>> " ".join(SOURCE.decode(x)), "".join(TARGET.decode(y))
    ('a b c : reverse ; h g a = a g h', 'cba')
    """
    question, *shots = letters
    examples = "".join(f";{s}={do(s, working)}" for s in shots)
    words = do.words if words is None else words
    return SOURCE.encode((*question, ":", *words, *examples)), TARGET.encode(do(question, working))


def draw_letters(random_: random.Random) -> str:
    return "".join(random_.choices(LETTERS, k=LENGTH))


def _instructions(shots=0, working=False, shuffled=False, sizes=(20_000, 500, 3200), seed=0):
    check_whole("shots", shots, least=0)
    for name, flag in (("working", working), ("shuffled", shuffled)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name}: expected True or False, got {flag!r}")
    seen = [do for do in INSTRUCTIONS if do.status == "seen"]
    splits = []
    for which, size in enumerate(sizes):
        random_, x, y = random.Random(f"{seed} {which}"), [], []
        for row in range(size):
            do = INSTRUCTIONS[row % len(INSTRUCTIONS)] if which == 2 else random_.choice(seen)
            letters = [_question(random_, which), *(draw_letters(random_) for _ in range(shots))]
            words = random_.choice(seen).words if shuffled and which < 2 else None
            for side, ids in zip((x, y), ask(do, letters, words, working), strict=True):
                side.append(ids)
        splits.append(Split(x, y))
    status = [do.status for do in INSTRUCTIONS]
    card = Card(
        name="instructions",
        source=f"Generated: {len(INSTRUCTIONS)} instructions, English and Chinese alike, on {LENGTH} of the letters "
        f"{LETTERS}, seed {seed}; {shots} worked examples after each question. A word is a token.",
        licence="Ours.",
        counts=measure(splits) | {f"instructions, {s}": status.count(s) for s in STATUS},
        split="Train and validation hold the seen instructions only; test asks each instruction in turn, row i "
        "the one of number i modulo their number. No question is in two splits: a stable hash of it decides.",
        flaws=(
            "The language is two templates and a dozen words: what is measured is whether known parts are "
            "put together, not whether language is understood.",
            "Some answers agree by chance (aab copied and aab swapped), so a wrong instruction is sometimes "
            "answered rightly.",
            f"There are {len(LETTERS) ** LENGTH} questions only, so training meets each again and again.",
            *(["The instructions of train and validation are another row's."] * shuffled),
        ),
    )
    return SOURCE, TARGET, splits, card


def _question(random_: random.Random, which: int) -> str:
    """Letters that belong to split ``which``: 8 of 10 to train, one each to validation and test."""
    while True:
        letters = draw_letters(random_)
        if max(0, stable_hash(letters) % 10 - 7) == which:
            return letters


MAKERS = {"docstrings": _docstrings, "instructions": _instructions}
