"""Text to model, for chapter 9: characters of the standard library's docstrings.

A language model has no source, so x is y, and only what reads y alone (``DecoderLM``,
``ShiftedLM``) has something to learn there.
"""

import functools
import platform
import re
import sysconfig
from pathlib import Path

from ..checks import check_whole
from ..data import Split, Vocab
from .files import stable_hash
from .splits import Card, Made, tenth

SPACE = "␣"  # a vocabulary has no white space in it
CHARACTERS = SPACE + "".join(c for c in map(chr, range(33, 127)) if not c.isupper())
PRINTED = frozenset(CHARACTERS) - {SPACE}
TRIPLE_QUOTED = re.compile(r'^([^\n]*?)"""(.*?)"""', re.DOTALL | re.MULTILINE)
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


def characters(text: str) -> str:
    """``text`` as the task spells it: lower case, white space as one ``SPACE``, what prints in ASCII.

    >>> characters("  Return a\\n    Tuple…")
    'return␣a␣tuple'
    """
    kept = (c for c in text.lower() if c in PRINTED or c.isspace())
    return SPACE.join("".join(kept).split())


@functools.cache
def library_docstrings() -> tuple[tuple[str, str], ...]:
    """(module, docstring) pairs of the standard library, its tests and what was installed beside it
    left out, in the order of the files, each docstring once.

    A docstring is taken to be a triple-quoted string that opens a line: to parse the library with
    ``ast`` takes twenty times as long and finds a tenth more.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    module_of: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts):
            code = path.read_text(encoding="utf-8", errors="replace")
            for opening, text in TRIPLE_QUOTED.findall(code):
                if not opening.strip(" rRuU"):
                    module_of.setdefault(characters(text), parts[0])  # a package is one module
    module_of.pop("", None)
    return tuple((module, text) for text, module in module_of.items())


def make(length: int = 64) -> Made:
    """Pieces of ``length`` characters, x the same as y."""
    check_whole("length", length)
    module_of: dict[str, str] = {}
    for module, text in library_docstrings():
        for first in range(0, len(text) - length + 1, length):  # what is left over is left out
            module_of.setdefault(text[first : first + length], module)
    vocab, rows = Vocab(tuple(CHARACTERS)), tuple[list[list[int]], ...](([], [], []))
    for piece in sorted(module_of, key=stable_hash):  # so the first n are a sample of them all
        rows[tenth(module_of[piece])].append(vocab.encode(piece))
    card = Card(
        name="docstrings",
        source=f"Docstrings of the standard library of Python {platform.python_version()}, read "
        f"where it is installed, in lower case, ASCII only, white space as {SPACE}, cut into "
        f"pieces of {length} characters. x is y.",
        licence="PSF License (version 2) for the text; nothing of it is committed.",
        counts={"modules": len(set(module_of.values()))},
        split="By top-level module: a stable hash of its name puts it into train (8 of 10), "
        "validation or test. Docstrings that occur twice are kept once, and so are pieces.",
        flaws=(
            "The text differs with the version of Python and with what a distribution leaves out: "
            "numbers measured on it hold as inequalities only.",
            "Modules differ much in size, so the splits are not 8 : 1 : 1 in pieces.",
            "Pieces begin and end inside words, and what a docstring has left over is lost.",
            "Phrases that modules share (return, if the, optional) are in all splits.",
        ),
    )
    return vocab, vocab, [Split(y, y) for y in rows], card
