"""Does what was measured still hold? How far each bound lies from it, over seeds and machines, and
whether its code has changed since.

Another processor adds the same numbers in another order, and a network ends elsewhere. So a bound
needs room: at least ``ROOM`` standard deviations of what it bounds, over the seeds and over the
numeric environments in which ``make spread`` runs the chapters.
"""

import ast
import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

from .claims import LEDGER, Claim, bound_of, meets

PACKAGE = Path(__file__).parents[1]
UNMEASURED = {"sar_minimal.lab.plots", "sar_minimal.lab.ledger"}
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
    """A digest of what a chapter's measurements depend on: its cells and what of the package they
    import, directly or not, but to draw and to record. Empty lines and comments do not count."""
    text = (path.parents[1] / "chapters" / f"{stem}.ipynb").read_text("utf-8")
    sources = (c["source"] for c in json.loads(text)["cells"] if c["cell_type"] == "code")
    texts = {"": "\n".join(map("".join, sources))}
    open_ = set(imports(texts[""], ""))
    while open_:
        name = open_.pop()
        file = PACKAGE.parent / name.replace(".", "/")
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        if name not in texts and name not in UNMEASURED and file.exists():
            texts[name] = file.read_text("utf-8")
            here = name if file.stem == "__init__" else name.rpartition(".")[0]
            open_ |= {name.rpartition(".")[0], *imports(texts[name], here)}
    lines = (line.strip() for name in sorted(texts) for line in texts[name].splitlines())
    counted = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(counted.encode()).hexdigest()[:12]


@cache
def imports(text: str, package: str) -> frozenset[str]:
    """The modules that a text inside ``package`` imports, and names that may be modules."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(name for name in found if name.split(".")[0] == PACKAGE.name)


def outdated(claims: Iterable[Claim], path: Path = LEDGER) -> set[tuple[str, str]]:
    """Chapter and code of each record at full size that is older than what it depends on."""
    records = {(r.chapter, r.code) for c in claims for r in c.full}
    return {(stem, code) for stem, code in records if code != code_of(stem, path)}


def older(claims: Iterable[Claim], path: Path = LEDGER) -> set[str]:
    """The chapters that have such a record."""
    return {stem for stem, _ in outdated(claims, path)}
