"""The ledger: every claim of the document that a chapter tests, and what a measurement must show.

``data/claims.toml`` has one table per claim. Its ``supports`` are inequalities, such as
``"largest difference" = "<= 1e-6"``; the recorded verdict follows only while all of them hold. A
chapter measures and calls ``claim``, which fails the run when they do not.
"""

import html
import math
import operator
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LEDGER = Path(__file__).parents[1] / "data" / "claims.toml"
COLOURS = {"holds": "#0072B2", "conditional": "#E69F00", "fails": "#D55E00", "ill-posed": "#7A5195"}
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
class Claim:
    """One row of the ledger; ``supports`` maps the name of a measurement to the inequality it must meet."""

    id: str
    section: str
    claim: str
    formal: str
    verdict: str
    because: str
    chapter: str
    experiment: str
    supports: Mapping[str, str]

    def __post_init__(self):
        if self.verdict not in COLOURS:
            raise ValueError(
                f"{self.id}: expected a verdict of {', '.join(COLOURS)}, got {self.verdict!r}"
            )
        if not self.supports:
            raise ValueError(
                f"{self.id}: expected at least one measurement that supports the verdict, got none"
            )
        for condition in self.supports.values():
            _read(condition)


def ledger(path: Path = LEDGER) -> dict[str, Claim]:
    """All claims by id. Raises ValueError, naming the claim, when the file is not a ledger."""
    rows = {}
    for row in tomllib.loads(path.read_text(encoding="utf-8"))["claim"]:
        try:
            claim = Claim(**row)
        except TypeError as error:
            raise ValueError(
                f"{path.name}, {row.get('id', 'a claim without an id')}: {error}"
            ) from error
        if claim.id in rows:
            raise ValueError(f"{path.name}: {claim.id} is there twice")
        rows[claim.id] = claim
    return rows


def _read(condition: str) -> tuple[str, float]:
    sign, _, bound = condition.partition(" ")
    if sign in SIGNS:
        with suppress(ValueError):
            return sign, float(bound)
    raise ValueError(f"expected a condition such as '<= 1e-6', got {condition!r}")


@dataclass(frozen=True)
class Verdict:
    """A claim with the measurements that support it; Jupyter draws it as a card."""

    claim: Claim
    measured: Mapping[str, Sequence[float]]

    def lines(self) -> list[str]:
        """One line a measurement: its smallest and largest value, and what was asked of it."""
        lines = []
        for name, values in self.measured.items():
            low, high = min(values), max(values)
            spread = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g} over {len(values)}"
            lines.append(f"{name}: {spread} (asked: {self.claim.supports[name]})")
        return lines

    def __repr__(self) -> str:
        c = self.claim
        return "\n".join(
            [
                f"{c.id} (section {c.section}) {c.claim}",
                f"  {c.verdict}: {c.because}",
                *(f"  {line}" for line in self.lines()),
            ]
        )

    def _repr_html_(self) -> str:
        c, colour = self.claim, COLOURS[self.claim.verdict]
        measured = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines())
        return (
            f'<div style="border-left:6px solid {colour};padding:.3em 1em;margin:.5em 0">'
            f"<b>{c.id}</b>, section {html.escape(c.section)}: <i>{html.escape(c.claim)}</i><br>"
            f'<b style="color:{colour}">{c.verdict}</b>: {html.escape(c.because)}'
            f'<ul style="margin:.3em 0">{measured}</ul></div>'
        )


def claim(id: str, measured: float | Mapping, path: Path = LEDGER) -> Verdict:
    """Hold measurements against the ledger; returns the verdict, for a cell to show.

    measured: name to a number, or to a list of them, one per seed, all of which must meet the
    condition; a bare number where the ledger asks for one measurement only.
    Raises KeyError for a claim the ledger does not have, ValueError when the names are not the
    ledger's or a value is not finite, ClaimFailed when a condition is not met.
    """
    rows = ledger(path)
    if id not in rows:
        raise KeyError(f"{id}: the ledger has {', '.join(rows)}")
    asked = rows[id].supports
    if not isinstance(measured, Mapping):
        measured = {next(iter(asked)): measured}
    if set(measured) != set(asked):
        raise ValueError(f"{id}: expected measurements of {sorted(asked)}, got {sorted(measured)}")
    values = {
        name: [float(v) for v in (m if isinstance(m, Sequence) else [m])]
        for name, m in measured.items()
    }
    for name, numbers in values.items():
        if not numbers or not all(map(math.isfinite, numbers)):
            raise ValueError(f"{id}: {name}: expected finite numbers, got {numbers}")
        sign, bound = _read(asked[name])
        if not all(SIGNS[sign](v, bound) for v in numbers):
            raise ClaimFailed(
                f"{id} is recorded as '{rows[id].verdict}', which needs {name} {asked[name]}; measured {numbers}"
            )
    return Verdict(rows[id], values)
