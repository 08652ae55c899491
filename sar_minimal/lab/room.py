"""Do the verdicts travel? How far each bound lies from what was measured, over seeds and machines.

Another processor adds the same numbers in another order, and a network ends elsewhere. So a bound
needs room: at least ``ROOM`` standard deviations of what it bounds, over the seeds and over the
numeric environments in which ``make spread`` runs the chapters.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .claims import LEDGER, Claim, bound_of, ledger, meets
from .evidence import in_full, measured_here

ROOM = 3.0
ROUNDING = 1e-6  # what differs by less is the same number


class Spread(NamedTuple):
    """mean, deviation: of ``number`` values. room: how many standard deviations the mean lies
    within the bound; infinite where nothing varies."""

    mean: float
    deviation: float
    number: int
    room: float

    def __str__(self) -> str:
        varies = f" +- {self.deviation:.2g}" if self.deviation else ""
        return f"{self.mean:.4g}{varies} (n = {self.number})"


def spreads(row: Claim, name: str, stem: str, size: str = "fast") -> list[Spread]:
    """Of a measurement of one chapter, over seeds and numeric environments: one spread; or, where
    its values are not one for each seed, one for each place in the list, since they are of
    different conditions."""
    others = (r for records in row.elsewhere.values() for r in records)
    everywhere = [r for r in (*row.measured, *others, *row.full) if r.size == size]
    records = [r for r in everywhere if r.chapter == stem and name in r.values]
    lists = [r.values[name] for r in records]
    groups = [list(place) for place in zip(*lists, strict=False)]
    if all(r.seeds and len(r.values[name]) == len(r.seeds) for r in records):
        groups = [[v for values in lists for v in values]]
    return [_spread(values, row.supports[name]) for values in groups]


def _spread(values: Sequence[float], condition: str) -> Spread:
    sign, bound = bound_of(condition, "condition")
    mean = statistics.fmean(values)
    if max(values) - min(values) < ROUNDING * max(1.0, abs(mean)):
        met = all(meets(v, condition) for v in values)
        return Spread(mean, 0.0, len(values), math.inf if met else -math.inf)
    within = -abs(mean - bound) if sign == "==" else bound - mean if "<" in sign else mean - bound
    deviation = statistics.stdev(values)
    return Spread(mean, deviation, len(values), within / deviation)


def rooms(row: Claim) -> dict[tuple[str, str], float]:
    """The least room of each measurement, by chapter and name."""
    return {
        (r.chapter, name): min(s.room for s in spreads(row, name, r.chapter, r.size))
        for r in row.measured
        for name in row.supports
        if name in r.values
    }


class Compared(NamedTuple):
    """A measurement on this machine beside the book's; met: it is as the claim asks."""

    claim: str
    name: str
    asked: str
    book: str
    here: str
    met: bool
    near: bool

    @property
    def verdict(self) -> str:
        words = ("NOT MET", "not met, though as near as the book's own", "met, but further off")
        return "as in the book" if self.near and self.met else words[2 * self.met + self.near]


def compared(ids: Sequence[str], full: str = "", path: Path = LEDGER) -> Iterator[Compared]:
    """Run the chapters of these claims (of all, where none is given), and put each measurement
    beside the book's: near is within ``ROOM`` deviations of the mean. full: at full size, kept in
    the folder of that name below ``data/measured``, and not run again where it is there."""
    rows = [c for c in ledger(path).values() if not ids or c.id in ids]
    for stem in sorted({r.chapter for c in rows for r in c.measured}):
        here = in_full(stem, full, path) if full else measured_here(stem, path)
        for row in rows:
            for name, asked in row.supports.items() if row.id in here else ():
                yield _beside(row, name, asked, here[row.id].values[name], stem)


def _beside(row: Claim, name: str, asked: str, here: Sequence[float], stem: str) -> Compared:
    known = spreads(row, name, stem)
    each = known * len(here) if len(known) == 1 else known
    pairs = zip(here, each, strict=False)
    near = all(abs(v - s.mean) <= ROOM * s.deviation + ROUNDING for v, s in pairs)
    met = all(meets(v, asked) for v in here)
    some, more = ", ".join(f"{v:.4g}" for v in here[:5]), ", ..." * (len(here) > 5)
    book = "; ".join(dict.fromkeys(map(str, known)))
    return Compared(row.id, name, asked, book, some + more, met, near)
