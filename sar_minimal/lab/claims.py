"""The ledger: every claim of the document that a chapter tests, and what a measurement must show.

``data/claims.toml`` has one table per claim. Its ``supports`` are inequalities, such as
``"largest difference" = "<= 1e-6"``; the recorded verdict follows only while all of them hold. A
chapter measures and calls ``claim`` (``ledger.py``), which fails the run when they do not. Under ``make run-nb``
what was measured is then written into the ledger (``records.py``) and onto its page (``report.py``).
"""

import html
import math
import operator
import tomllib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..checks import Refusal

LEDGER = Path(__file__).parents[2] / "data" / "claims.toml"
COLOURS = {
    "holds": "#0072B2",
    "conditional": "#E69F00",
    "fails": "#D55E00",
    "ill-posed": "#7A5195",
    "open": "#777777",  # no chapter has settled it yet
}
SIGNS = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


class ClaimFailed(AssertionError):
    """A measurement no longer supports the verdict that the ledger records."""


@dataclass(frozen=True)
class Record:
    """What one chapter measured when it last ran; ``values`` maps a measurement's name to its values.

    size: "fast" or "full" (SAR_FULL=1). commit: a + says that the package had changes beside it.
    """

    chapter: str
    date: str
    size: str
    seeds: Sequence[int]
    device: str
    commit: str
    values: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Claim:
    """One row of the ledger. Raises ValueError, naming the claim, when it is not a whole one.

    chapters: the notebooks that call ``claim`` for it, or, of an open claim, that are to settle it.
    seeds: with how many a chapter has to measure, at least; 0 where nothing is trained or drawn.
    supports: the name of each measurement, and the inequality that it must meet.
    """

    id: str
    section: str
    claim: str
    formal: str
    verdict: str
    chapters: Sequence[str]
    experiment: str
    because: str = ""
    seeds: int = 0
    supports: Mapping[str, str] = field(default_factory=dict)
    measured: Sequence[Record] = ()

    def __post_init__(self):
        for wrong, message in (
            (
                self.verdict not in COLOURS,
                f": expected a verdict of {', '.join(COLOURS)}, got {self.verdict!r}",
            ),
            (
                isinstance(self.chapters, str) or not self.chapters,
                f": chapters: expected a list of one or more, got {self.chapters!r}",
            ),
            (
                type(self.seeds) is not int or self.seeds < 0,
                f": seeds: expected a whole number >= 0, got {self.seeds!r}",
            ),
            (
                self.is_open and (self.because or self.supports),
                " is open: expected neither because nor supports before there is a verdict",
            ),
            (
                not self.is_open and not self.because,
                f": because: expected a reason for '{self.verdict}', got none",
            ),
            (
                not self.is_open and not self.supports,
                ": expected at least one measurement that supports the verdict, got none",
            ),
        ):
            if wrong:
                raise Refusal(self.id + message)
        for name, condition in self.supports.items():
            try:
                _read(condition)
            except ValueError as error:
                raise Refusal(f"{self.id}: {name}: {error}") from error

    @property
    def is_open(self) -> bool:
        return self.verdict == "open"

    @property
    def where(self) -> str:
        """The section of the document that makes the claim, in words."""
        return "ours" if self.section == "ours" else f"section {self.section}"


def ledger(path: Path = LEDGER) -> dict[str, Claim]:
    """All claims by id. Raises ValueError, naming the claim, when the file is not a ledger."""
    rows = {}
    for row in tomllib.loads(path.read_text(encoding="utf-8"))["claim"]:
        try:
            claim = Claim(**row | {"measured": tuple(Record(**r) for r in row.get("measured", ()))})
        except TypeError as error:
            raise Refusal(
                f"{path.name}, {row.get('id', 'a claim without an id')}: {error}"
            ) from error
        if claim.id in rows:
            raise Refusal(f"{path.name}: {claim.id} is there twice")
        rows[claim.id] = claim
    return rows


def _read(condition: str) -> tuple[str, float]:
    sign, _, bound = condition.partition(" ")
    if sign in SIGNS:
        with suppress(ValueError):
            return sign, float(bound)
    raise Refusal(f"expected a condition such as '<= 1e-6', got {condition!r}")


def meets(value: float, condition: str) -> bool:
    sign, bound = _read(condition)
    return SIGNS[sign](value, bound)


@dataclass(frozen=True)
class Verdict:
    """A claim with the measurements that support it; Jupyter draws it as a card."""

    claim: Claim
    measured: Mapping[str, Sequence[float]]
    seeds: Sequence[int] = ()

    def lines(self) -> list[str]:
        """One line a measurement: its smallest and largest value, and what was asked of it."""
        return [
            f"{name}: {spread(values)} (asked: {self.claim.supports[name]})"
            for name, values in self.measured.items()
        ] + ([f"seeds: {', '.join(map(str, self.seeds))}"] if self.seeds else [])

    def __repr__(self) -> str:
        c = self.claim
        head = [f"{c.id} ({c.where}) {c.claim}", f"  {c.verdict}: {c.because}"]
        return "\n".join(head + [f"  {line}" for line in self.lines()])

    def _repr_html_(self) -> str:
        c, colour = self.claim, COLOURS[self.claim.verdict]
        measured = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines())
        return (
            f'<div style="border-left:6px solid {colour};padding:.3em 1em;margin:.5em 0">'
            f"<b>{c.id}</b>, {html.escape(c.where)}: <i>{html.escape(c.claim)}</i><br>"
            f'<b style="color:{colour}">{c.verdict}</b>: {html.escape(c.because)}'
            f'<ul style="margin:.3em 0">{measured}</ul></div>'
        )


def spread(values: Sequence[float]) -> str:
    """From the smallest value to the largest, and how many there are.

    >>> spread([0.5, 2.0, 1.0]), spread([0.0, 0.0]), spread([0.0])
    ('0.5 to 2 over 3', '0 over 2', '0')
    """
    low, high = (f"{v:.4g}" for v in (min(values), max(values)))
    number = f" over {len(values)}" if len(values) > 1 else ""
    return (low if low == high else f"{low} to {high}") + number


def hold(row: Claim, measured: float | Mapping, seeds: Sequence[int] = ()) -> Verdict:
    """``ledger.claim`` for one row: checks, and records nothing. Raises as it does."""
    if row.is_open:
        raise Refusal(f"{row.id} is open: the ledger has no verdict for a measurement to support")
    if not isinstance(measured, Mapping):
        measured = {next(iter(row.supports)): measured}
    if set(measured) != set(row.supports):
        raise Refusal(
            f"{row.id}: expected measurements of {sorted(row.supports)}, got {sorted(measured)}"
        )
    values = {}
    for name, condition in row.supports.items():
        given = measured[name]
        given = given.tolist() if hasattr(given, "tolist") else given  # of torch or numpy
        try:
            numbers = [float(v) for v in (given if isinstance(given, Sequence) else [given])]
        except (TypeError, ValueError) as error:
            raise Refusal(f"{row.id}: {name}: expected numbers, got {given!r}") from error
        if not numbers or not all(map(math.isfinite, numbers)):
            raise Refusal(f"{row.id}: {name}: expected finite numbers, got {numbers}")
        if not all(meets(v, condition) for v in numbers):
            raise ClaimFailed(
                f"{row.id} is recorded as '{row.verdict}', which needs {name} {condition}; measured {numbers}"
            )
        values[name] = numbers
    try:
        used = tuple(map(operator.index, seeds))
    except TypeError as error:
        raise Refusal(f"{row.id}: seeds: expected a list of them, got {seeds!r}") from error
    if len(set(used)) < max(row.seeds, len(used)):
        raise Refusal(
            f"{row.id}: seeds: expected {row.seeds or 'only'} different ones, got {list(used)}"
        )
    if row.seeds and max(map(len, values.values())) < len(used):
        raise Refusal(f"{row.id}: expected a value for each of the {len(used)} seeds, got fewer")
    return Verdict(row, values, used)


def complaints(row: Claim, written: Collection[str]) -> list[str]:
    """What is wrong with a claim's records; ``written``: the chapters that exist."""
    due = [] if row.is_open else sorted(set(row.chapters) & set(written))
    there = [r.chapter for r in row.measured]
    found = [] if there == due else [f"{row.id}: expected records of {due}, got {there}"]
    for r in row.measured:
        if r.size not in ("fast", "full"):
            found.append(f"{row.id}, {r.chapter}: expected a size of fast or full, got {r.size!r}")
        try:
            hold(row, r.values, r.seeds)
        except (ValueError, ClaimFailed) as error:
            found.append(f"record of {r.chapter}: {error}")
    return found
