"""Does what was measured still hold? How far each bound lies from it, over seeds and machines, and
whether its code has changed since.

Another processor adds the same numbers in another order, and a network ends elsewhere. So a bound
needs room: at least ``ROOM`` standard deviations of what it bounds, over the seeds and over the
numeric environments in which ``make spread`` runs the chapters.
"""

import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .claims import LEDGER, Claim, bound_of, meets

PACKAGE = Path(__file__).parents[1]
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


def code_of(stem: str, path: Path = LEDGER) -> str:
    """A digest of what a chapter's measurements depend on: its cells, all outside the lab, and what
    of the lab it measures with, directly or not. Empty lines and comments do not count."""
    text = (path.parents[1] / "chapters" / f"{stem}.ipynb").read_text("utf-8")
    sources = (c["source"] for c in json.loads(text)["cells"] if c["cell_type"] == "code")
    cells = "\n".join(map("".join, sources))
    code = {file: file.read_text("utf-8") for file in sorted(PACKAGE.rglob("*.py"))}
    lab = {file.stem: text for file, text in code.items() if file.parent.name == "lab"}
    named = [n for n in re.findall(r"\blab(?:\.| import )(\w+)", cells) if n in lab]
    used = {"plots", "ledger"}  # which measure nothing
    while named:
        if (name := named.pop()) not in used:
            used.add(name)
            named += re.findall(r"from \.(\w+) import", lab[name])
    used -= {"plots", "ledger"}
    texts = (text for f, text in code.items() if f.parent.name != "lab" or f.stem in used)
    lines = (line.strip() for line in "\n".join((cells, *texts)).splitlines())
    counted = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(counted.encode()).hexdigest()[:12]


def older(claims: Iterable[Claim], path: Path = LEDGER) -> set[str]:
    """The chapters whose evidence at full size is older than the code that it depends on."""
    records = {(r.chapter, r.code) for c in claims for r in c.full}
    return {stem for stem, code in records if code != code_of(stem, path)}
