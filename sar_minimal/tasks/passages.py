"""A teacher's own text: read, cleaned, cut into runs of hanzi; what is left out is counted.

Only ``file:PATH`` goes through here. The newspaper, the dictionary and the textbook are cut as they
always were (``words.HANZI``): the book's figures rest on these very tokens.
"""

import errno
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Refusal
from .splits import Card
from .syllables import column, seen, shown
from .words import LONGEST, SHORTEST, word_model

# 〇, then the blocks: Extension A, the common one, compatibility, Extension B and on.
BLOCKS = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
HANZI = re.compile(f"[{BLOCKS}]+")
SPACES = re.compile(rf"(?<=[{BLOCKS}])\s+(?=[{BLOCKS}])")
UNSEEN = re.compile("[\u034f\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # they choose a glyph
# Kangxi radicals and compatibility characters stand for hanzi, in texts out of PDFs; those of the
# radicals' supplement do so too, but Unicode's normal forms do not know it.
COMPATIBLE = re.compile("[\u2e80-\u2fdf\uf900-\ufaff\U0002f800-\U0002fa1f]")
RADICALS = str.maketrans(
    "⺠⻁⻄⻅⻆⻉⻋⻓⻔⻘⻙⻚⻛⻜⻝⻢⻣⻤⻥⻦⻨⻩⻬⻮⻰",
    "民虎西见角贝车长门青韦页风飞食马骨鬼鱼鸟麦黄齐齿龙",
)
SHORT = f"in runs shorter than {SHORTEST}"
UNREAD = "in runs that pypinyin cannot read"
TWICE = "in runs that come twice"
BARE = "lines without a hanzi"


class Passage(NamedTuple):
    line: int
    run: str
    reading: str  # "" where the file has none


def clean(text: str) -> str:
    """``text`` as it looks: nothing unseen in it, hanzi as hanzi, no spaces between them.

    >>> clean("我们 家\u200b的⽼⻋")
    '我们家的老车'
    """
    text = seen(UNSEEN.sub("", text))
    text = COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return SPACES.sub("", text.translate(RADICALS))


@functools.cache
def _words() -> frozenset[str]:
    return frozenset(word_model().words)


def evenly_cut(run: str) -> list[str]:
    """A run in pieces of at most ``LONGEST`` hanzi, all about as long, cut between words.

    There is no punctuation in a run to cut at. Of five places the nearest to the even one is taken
    that no word of jieba's dictionary goes across.
    """
    if len(run) <= LONGEST:
        return [run]
    n, room = len(run) // (LONGEST - 4) + 1, (-2, -1, 0, 1, 2)
    even = [len(run) * k // n for k in range(1, n)]

    def cost(at: int, shift: int) -> tuple[bool, int]:
        p = at + shift
        ends = ((i, j) for i in range(p - 3, p) for j in range(p + 1, i + 5))
        return any(run[i:j] in _words() for i, j in ends), abs(shift)

    cuts = [at + min(room, key=functools.partial(cost, at)) for at in even]
    return [run[a:b] for a, b in pairwise([0, *cuts, len(run)])]


def passages(where: str, lines: Sequence[str]) -> tuple[list[Passage], Counter[str], list[int]]:
    """The runs of all lines; how many hanzi are left out, by reason; how many each line has.

    A line may have pinyin behind a tab, a syllable for each hanzi; ValueError names the line where
    it does not fit.
    """
    left, sizes = Counter[str](), []
    found: list[Passage] = []
    for number, line in enumerate(lines):
        text, _, pinyin = line.partition("\t")
        runs = HANZI.findall(clean(text))
        sizes.append(sum(map(len, runs)))
        own = f"{where}, line {number + 1}" if pinyin.strip() else ""
        rest = iter(_aligned(own, "".join(runs), pinyin) if own else ())
        for run in chain.from_iterable(map(evenly_cut, runs)):
            reading = " ".join(islice(rest, len(run)))
            if len(run) < SHORTEST:
                left[SHORT] += len(run)
            else:
                found.append(Passage(number, run, reading))
    return found, left, sizes


def _aligned(where: str, hanzi: str, pinyin: str) -> list[str]:
    """The syllables of a pinyin column, one for each hanzi."""
    syllables = column(where, pinyin)
    if len(syllables) != len(hanzi):
        one = f"{len(hanzi)} syllables, one for each hanzi of {shown(hanzi)}"
        raise Refusal(f"{where}: expected {one}, got {len(syllables)}: {shown(pinyin.strip())}")
    return syllables


def account(
    found: Sequence[Passage], kept: Collection[str], left: Counter[str], sizes: list[int]
) -> dict[str, Any]:
    """For a card: what became of each line and each hanzi. kept: the runs that became pairs."""
    used, met = set(), set()
    for line, run, _ in found:
        if run not in kept:
            left[UNREAD] += len(run)
        elif run in met:
            left[TWICE] += len(run)
        else:
            used.add(line)
            met.add(run)
    out = {f"hanzi left out, {why}": left[why] for why in (SHORT, TWICE, UNREAD)}
    lines = {"lines read": len(sizes), "lines used": len(used), BARE: sizes.count(0)}
    return lines | {"hanzi read": sum(sizes)} | out


def told(card: Card | None) -> str:
    """``account`` as a line to print: how much of a text is used; "" for a corpus without it."""
    if card is None or "lines read" not in card.counts:
        return ""
    counts, out = card.counts, "hanzi left out, "
    left = {k.removeprefix(out): n for k, n in counts.items() if k.startswith(out) and n}
    why = ", ".join(f"{n:,} {reason}" for reason, n in left.items())
    used = f"{counts['lines used']:,} of {counts['lines read']:,} lines used"
    used += f" ({counts[BARE]:,} without a hanzi)" * bool(counts[BARE])
    gone = f"{sum(left.values()):,} of {counts['hanzi read']:,} hanzi left out"
    return f"corpus: {used}, {gone}{why and f' ({why})'}\n"


def read_lines(path: Path, least: int) -> tuple[bytes, list[str]]:
    """A file as bytes and as lines. Raises ValueError where it cannot be read or is too little."""
    try:
        str(path).encode()
        path = path.expanduser()
        if path.exists() and not path.is_file():  # a pipe may never end
            raise OSError(errno.EINVAL, "expected a file, not a folder or a device")
        data = path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeEncodeError as error:
        raise Refusal(f"corpus: expected a path in UTF-8, got {str(path)!r}") from error
    except UnicodeDecodeError as error:
        where = f"byte {error.start}"
        raise Refusal(f"{path}: not UTF-8 ({where}); save it as UTF-8 and try again") from error
    except OSError as error:
        raise Refusal(f"{path}: cannot read it ({error.strerror})") from error
    except ValueError as error:  # a NUL in the path
        raise Refusal(f"{path}: cannot read it ({error})") from error
    except RuntimeError as error:  # of expanduser
        raise Refusal(f"{path}: there is no such home folder") from error
    if len(lines) <= least:
        few = f"{len(lines)} lines are too few to split into train, validation and test"
        raise Refusal(f"{path}: {few}; expected more than {least}")
    return data, lines
