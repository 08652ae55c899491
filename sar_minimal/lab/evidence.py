"""The chapters as jobs: run one here, put it beside the book, keep what it measures at full size.

The book has two tiers of evidence. What is small runs whenever the chapters do. With ``SAR_FULL=1``
they train longer, with more seeds: ``make evidence`` runs each so, one after the other, and keeps
what it measures in ``data/measured/full``.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from ..errors import MissingPackage
from ..tasks.files import write_json
from .claims import LEDGER, Claim, Record, ledger, measured_in, meets, stored
from .room import ROOM, ROUNDING, code_of, spreads


def measured_here(stem: str, path: Path = LEDGER, full: bool = False) -> dict[str, Record]:
    """Run a chapter on this machine: what it measured, by claim, whatever came out. Takes as long
    as the chapter does. full: with ``SAR_FULL=1``. Raises MissingPackage where nbclient is not
    installed."""
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError as error:
        missing = 'nbclient is not installed: pip install "sar-minimal[book]"'
        raise MissingPackage(missing, name="nbclient") from error
    book = path.parents[1] / "chapters"
    notebook = nbformat.read(book / f"{stem}.ipynb", as_version=4)
    number = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=number, desc=stem, unit="cell") as bar:
        asked = {"SAR_RECORD": stem, "SAR_MEASURED": folder, "SAR_FULL": "1" if full else "0"}
        client = NotebookClient(
            notebook,
            timeout=None,
            allow_errors=True,  # a claim that is not met here is what one wants to see
            resources={"metadata": {"path": str(book)}},
            on_cell_executed=lambda **_: bar.update(),
        )
        # Else it answers widgets as a browser does, and then may wait for ever (nbclient issue 312).
        client.widget_registry = {}
        client.execute(env=os.environ | asked)
        return measured_in(Path(folder) / f"{stem}.json")


def in_full(stem: str, folder: str, path: Path = LEDGER) -> dict[str, Record]:
    """What a chapter measures at full size, kept in ``data/measured/<folder>``. It is run only if
    that is not there yet, or older than its code: so a second call for all chapters goes on where
    a first was stopped."""
    file, code = path.parent / "measured" / folder / f"{stem}.json", code_of(stem, path)
    if {r.code for r in measured_in(file).values()} != {code}:
        found = measured_here(stem, path, full=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = {id: stored(r) | {"code": code} for id, r in found.items()}
        write_json(file, kept, ensure_ascii=False, indent=1)
    return measured_in(file)


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
