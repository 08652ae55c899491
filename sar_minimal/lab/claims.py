"""The ledger: every claim of the document that a chapter tests, and what a measurement must show.

``data/claims.toml`` has one table per claim, with one formal line, and what bears on it: inequalities,
such as ``"largest difference" = "<= 1e-6"``, and sources, each for or against. From these the
verdict follows by one rule (``Claim.follows``), while all the inequalities are met. A chapter
measures and calls ``claim`` (``ledger.py``), which fails the run when one is not.

People write that file, no program does. What was measured stands in ``data/measured``: a chapter's
by ``make run-nb``, that of other numeric environments in folders below it by ``make spread``.
"""

import html
import json
import math
import operator
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import Refusal, expect

T = TypeVar("T")
LEDGER = Path(__file__).parents[2] / "data" / "claims.toml"
COLOURS = {
    "holds": "#0072B2",
    "conditional": "#E69F00",
    "fails": "#D55E00",
    "ill-posed": "#7A5195",
    "open": "#777777",  # no chapter has settled it yet
}
SIDES = ("true", "false", "undefined", "sound")  # of a claim's formal line
SIGNS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}
SIGNS |= {"<": operator.lt, ">": operator.gt}


class ClaimFailed(AssertionError):
    """A measurement no longer supports the verdict that the ledger records."""


@dataclass(frozen=True)
class Record:
    """What one chapter measured when it last ran; ``values`` has those of each measurement.

    size: "fast" or "full" (SAR_FULL=1). commit: a + says that the package had changes beside it.
    code: at full size, a digest of the code that the values depend on (``evidence.code_of``).
    """

    chapter: str
    date: str
    size: str
    seeds: Sequence[int]
    device: str
    commit: str
    values: Mapping[str, Sequence[float]]
    code: str = ""


@dataclass(frozen=True)
class Claim:
    """One row of the ledger. Raises ValueError, naming the claim, when it is not a whole one.

    place: where the document says it, such as "2, paragraph 5, sentence 1", or "ours". terms: its own
    words, with pinyin and meaning. chapters: the notebooks that call ``claim`` for it, or, of an
    open claim, that are to settle it. effect: the smallest effect that would matter, set before
    looking. seeds: with how many a chapter has to measure, at least; 0 where nothing is trained or
    drawn.

    The evidence, each by name with the inequality that it must meet: true, where the formal line
    comes out true; false, where it comes out false; undefined, that the sentence says nothing
    definite as it stands, so that the formal line completes it; sound, on which no verdict rests,
    but the trust in the others (what was learned, a ruler, that a difference would have been seen).
    sources: by key of ``data/references.toml``, "true: ..." or "false: ...", what it says.
    """

    id: str
    place: Sequence[str]
    claim: str
    formal: str
    verdict: str
    experiment: str
    chapters: Sequence[str] = ()
    terms: Sequence[str] = ()
    because: str = ""
    effect: str = ""
    seeds: int = 0
    true: Mapping[str, str] = field(default_factory=dict)
    false: Mapping[str, str] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    sound: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    measured: Sequence[Record] = ()
    elsewhere: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    full: Sequence[Record] = ()

    def __post_init__(self) -> None:
        expect(self.verdict in COLOURS, self.id, f"a verdict of {', '.join(COLOURS)}", self.verdict)
        for name in ("chapters", "place"):
            value = getattr(self, name)
            several = (value or (self.sources and name != "place")) and not isinstance(value, str)
            expect(several, f"{self.id}: {name}", "a list of one or more", value)
        whole = type(self.seeds) is int and self.seeds >= 0
        expect(whole, f"{self.id}: seeds", "a whole number >= 0", self.seeds)
        if self.is_open and (self.because or self.supports):
            expected = "expected neither because nor evidence before there is a verdict"
            raise Refusal(f"{self.id} is open: {expected}")
        if not (self.is_open or self.because):
            raise Refusal(f"{self.id}: because: expected a reason for '{self.verdict}', got none")
        for name, condition in self.supports.items():
            bound_of(condition, f"{self.id}: {name}")
        sided = all(text.startswith(("true: ", "false: ")) for text in self.sources.values())
        expect(sided, f"{self.id}: sources", "'true: ...' or 'false: ...'", self.sources)
        once = sum(len(getattr(self, side)) for side in SIDES) == len(self.supports)
        expect(once, f"{self.id}: evidence", "each name once", list(self.supports))
        follows = self.follows()
        expect(follows == self.verdict, f"{self.id}: verdict", f"{follows!r} by rule", self.verdict)

    def follows(self) -> str:
        """The verdict by rule: "holds" where the formal line comes out true only, "fails" where it
        comes out false only, "conditional" where both; "ill-posed" where the sentence had to be
        completed; "open" where nothing bears on it."""
        if self.undefined:
            return "ill-posed"
        said = [text.partition(":")[0] for text in self.sources.values()]
        true, false = (bool(getattr(self, s)) or s in said for s in ("true", "false"))
        return ("open", "fails", "holds", "conditional")[2 * true + false]

    @property
    def supports(self) -> dict[str, str]:
        """The name of each measurement, and the inequality that it must meet."""
        return {name: asked for side in SIDES for name, asked in getattr(self, side).items()}

    @property
    def is_open(self) -> bool:
        return self.verdict == "open"

    @property
    def section(self) -> str:
        """The sections of the document that make the claim, such as "1.3, 3.3"; "ours" of our own."""
        return ", ".join(dict.fromkeys(place.partition(",")[0] for place in self.place))

    @property
    def where(self) -> str:
        """The place in the document, in words."""
        return "ours" if self.section == "ours" else f"section {'; '.join(self.place)}"

    def side(self, name: str) -> str:
        """On which side of the formal line a measurement stands; "" where it is not asked for."""
        return next((side for side in SIDES if name in getattr(self, side)), "")

    def asked(self, name: str) -> str:
        """Of a measurement; "nothing" where the ledger does not ask for it any more."""
        return self.supports.get(name, "nothing")

    def lines(self, measured: Mapping[str, Sequence[float]]) -> list[str]:
        """One line a measurement: its smallest and largest value, and what was asked of it."""
        return [f"{n}: {spread(v)} (asked: {self.asked(n)})" for n, v in measured.items()]


def ledger(path: Path = LEDGER) -> dict[str, Claim]:
    """All claims by id, each with its records, in the order of the chapters. Raises ValueError,
    naming the claim or the file, when the ledger or a file beside it is not what it should be."""
    records: dict[str, list[Record]] = {}
    others: dict[str, dict[str, list[Record]]] = {}
    for file in sorted((path.parent / "measured").glob("*.json")):
        for id, record in measured_in(file).items():
            records.setdefault(id, []).append(record)
    for file in sorted((path.parent / "measured").glob("*/*.json")):
        for id, record in measured_in(file).items():
            others.setdefault(id, {}).setdefault(file.parent.name, []).append(record)

    def claim(row: dict[str, Any]) -> Claim:
        id = row.get("id", "")
        there = others.get(id, {})
        full = [r for name in sorted(there) if name.startswith("full") for r in there.pop(name)]
        return Claim(**row, measured=tuple(records.pop(id, ())), elsewhere=there, full=full)

    rows = rows_of(path, "claim", "id", claim)
    for id, (record, *_) in records.items():
        raise Refusal(f"{record.chapter}.json: a record of {id}, which {path.name} does not have")
    return rows


def rows_of(path: Path, table: str, key: str, make: Callable[[dict[str, Any]], T]) -> dict[str, T]:
    """What ``make`` makes of each [[table]] of a TOML file, by its ``key``. Raises Refusal, naming
    the file and the row, for what is no such file, a field too many or too few, or a row twice."""
    rows: dict[str, T] = {}
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))[table]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise Refusal(f"{path.name}: expected tables [[{table}]], in TOML ({error})") from error
    for row in written:
        try:
            made = make(row)
        except TypeError as error:
            name = row.get(key, f"a {table} without {'an' if key[0] in 'aeiou' else 'a'} {key}")
            raise Refusal(f"{path.name}, {name}: {error}") from error
        if row[key] in rows:
            raise Refusal(f"{path.name}: {row[key]} is there twice")
        rows[row[key]] = made
    return rows


def measured_in(file: Path) -> dict[str, Record]:
    """What a chapter has recorded, by the id of the claim; {} if there is no such file."""
    try:
        stored = json.loads(file.read_bytes()) if file.exists() else {}
        return {id: Record(file.stem, **fields) for id, fields in stored.items()}
    except (ValueError, TypeError, AttributeError) as error:
        wrong = f"not records of ours ({error}); delete it and run again"
        raise Refusal(f"{file.name}: {wrong}") from error


def stored(record: Record) -> dict[str, Any]:
    """A record as a file has it, which is named after the chapter."""
    return {k: v for k, v in asdict(record).items() if k != "chapter" and v != ""}


def bound_of(condition: str, name: str) -> tuple[str, float]:
    sign, _, bound = condition.partition(" ")
    if sign in SIGNS:
        with suppress(ValueError):
            return sign, float(bound)
    raise Refusal(f"{name}: expected a condition such as '<= 1e-6', got {condition!r}")


def meets(value: float, condition: str) -> bool:
    sign, bound = bound_of(condition, "condition")
    return SIGNS[sign](value, bound)


@dataclass(frozen=True)
class Verdict:
    """A claim with the measurements that support it; Jupyter draws it as a card."""

    claim: Claim
    measured: Mapping[str, Sequence[float]]
    seeds: Sequence[int] = ()

    def lines(self) -> list[str]:
        seeds = [f"seeds: {', '.join(map(str, self.seeds))}"] if self.seeds else []
        cited = [f"not measured; {key}: {says}" for key, says in self.claim.sources.items()]
        return self.claim.lines(self.measured) + seeds + cited

    def __repr__(self) -> str:
        c = self.claim
        head = [f"{c.id} ({c.where}) {c.claim}", f"  {c.verdict}: {c.because}"]
        return "\n".join(head + [f"  {line}" for line in self.lines()])

    def _repr_html_(self) -> str:
        c, colour = self.claim, COLOURS[self.claim.verdict]
        measured = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines())
        return (
            f'<div style="border-left:6px solid {colour};padding:.3em 1em;margin:.5em 0">'
            f"<b>{html.escape(c.id)}</b>, {html.escape(c.where)}: <i>{html.escape(c.claim)}</i><br>"
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
    verdict = gathered(row, measured, seeds)
    for name, condition in row.supports.items():
        if not all(meets(v, condition) for v in verdict.measured[name]):
            needs = f"is recorded as '{row.verdict}', which needs {name} {condition}"
            raise ClaimFailed(f"{row.id} {needs}; measured {verdict.measured[name]}")
    return verdict


def gathered(row: Claim, measured: float | Mapping, seeds: Sequence[int] = ()) -> Verdict:
    """The numbers that the ledger asks for, whether they meet it or not. Raises as ``claim`` does,
    but for ClaimFailed."""
    if row.is_open:
        raise Refusal(f"{row.id} is open: the ledger has no verdict for a measurement to support")
    if not isinstance(measured, Mapping):
        measured = {next(iter(row.supports), "a number"): measured}
    named = set(measured) == set(row.supports)
    expect(named, row.id, f"measurements of {sorted(row.supports)}", sorted(measured))
    values = {}
    for name in row.supports:
        given = measured[name]
        given = given.tolist() if hasattr(given, "tolist") else given  # of torch or numpy
        try:
            numbers = [float(v) for v in (given if isinstance(given, Sequence) else [given])]
        except (TypeError, ValueError) as error:
            raise Refusal(f"{row.id}: {name}: expected numbers, got {given!r}") from error
        finite = numbers and all(map(math.isfinite, numbers))
        expect(finite, f"{row.id}: {name}", "finite numbers", numbers)
        values[name] = numbers
    try:
        used = tuple(map(operator.index, seeds))
    except TypeError as error:
        raise Refusal(f"{row.id}: seeds: expected a list of them, got {seeds!r}") from error
    enough = len(set(used)) >= max(row.seeds, len(used))
    expect(enough, f"{row.id}: seeds", f"{row.seeds or 'only'} different ones", list(used))
    if row.seeds and max(map(len, values.values())) < len(used):
        raise Refusal(f"{row.id}: expected a value for each of the {len(used)} seeds, got fewer")
    return Verdict(row, values, used)
