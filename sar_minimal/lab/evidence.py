"""The chapters as jobs: run one here, and keep what it measures at full size.

The book has two tiers of evidence. What is small runs whenever the chapters do. With ``SAR_FULL=1``
they train longer, with more seeds: ``make evidence`` runs each so, one after the other, and keeps
what it measures in ``data/measured/full``.
"""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

from tqdm.auto import tqdm

from ..errors import MissingPackage
from ..tasks.files import write_json
from .claims import LEDGER, Record, ledger, measured_in, stored

PACKAGE = Path(__file__).parents[1]


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
        NotebookClient(
            notebook,
            timeout=None,
            allow_errors=True,  # a claim that is not met here is what one wants to see
            resources={"metadata": {"path": str(book)}},
            on_cell_executed=lambda **_: bar.update(),
        ).execute(env=os.environ | asked)
        return measured_in(Path(folder) / f"{stem}.json")


def code_of(stem: str, path: Path = LEDGER) -> str:
    """A digest of what a chapter's measurements depend on: its cells, all outside the lab, and what
    of the lab it imports to measure with. Empty lines and comments do not count."""
    text = (path.parents[1] / "chapters" / f"{stem}.ipynb").read_text("utf-8")
    code = (cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    cells = "\n".join(map("".join, code))
    named = set(re.findall(r"\blab(?:\.| import )(\w+)", cells)) - {"plots", "ledger"}
    files = (f for f in sorted(PACKAGE.rglob("*.py")) if f.parent.name != "lab" or f.stem in named)
    texts = [cells, *(file.read_text("utf-8") for file in files)]
    lines = (line.strip() for line in "\n".join(texts).splitlines())
    counted = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(counted.encode()).hexdigest()[:12]


def older(path: Path = LEDGER) -> set[str]:
    """The chapters whose evidence at full size is older than the code that it depends on."""
    records = {(r.chapter, r.code) for row in ledger(path).values() for r in row.full}
    return {stem for stem, code in records if code != code_of(stem, path)}


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
