"""The ledger as a reader sees it: in the terminal, as Markdown, as JSON, and as a page of the
book."""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ..checks import Refusal
from ..files import write_atomically
from .claims import COLOURS, LEDGER, Claim, Record, ledger, spread

BOOK = LEDGER.parents[1] / "chapters"
PAGE = BOOK / "ledger.ipynb"
TITLES = {
    "1": "Section 1: background",
    "2": "Section 2: the core idea",
    "3": "Section 3: the algorithm",
    "4": "Section 4: the theory",
    "ours": "What the book adds",
}


def select(ids: Iterable[str], path: Path = LEDGER) -> list[Claim]:
    """The claims with these ids, in the ledger's order; all of them if no id is given.

    Raises ValueError, listing the ids there are, for one that is not there.
    """
    rows, wanted = ledger(path), {id.upper() for id in ids}
    if unknown := sorted(wanted - set(rows)):
        raise Refusal(f"{', '.join(unknown)}: no such claim; the ledger has {', '.join(rows)}")
    return [c for c in rows.values() if not wanted or c.id in wanted]


def count(claims: Iterable[Claim]) -> str:
    number = Counter(c.verdict for c in claims)
    each = ", ".join(f"{verdict} {number[verdict]}" for verdict in COLOURS if number[verdict])
    return f"{number.total()} claim{'s' if number.total() != 1 else ''}: {each}"


def measured(c: Claim, r: Record) -> list[str]:
    """A line a measurement; the name alone where the ledger does not ask for it any more."""
    return [
        f"{n}: {spread(v)} (asked: {c.supports.get(n, 'nothing')})" for n, v in r.values.items()
    ]


# ---------------------------------------------------------------- the terminal


def as_text(claims: list[Claim], width: int = 100) -> str:
    """A block of lines a claim, none longer than ``width`` (60 at the least) where words allow
    it."""

    def wrap(line, first, rest):
        return textwrap.wrap(
            line,
            max(60, width),
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )

    lines = [f"{'id':4} {'section':12} {'verdict':12} chapter"]
    for c in claims:
        lines += ["", *wrap(f"{c.id:4} {c.section:12} {c.verdict:12} {_chapters(c)}", "", " " * 31)]
        lines += wrap(c.claim, " " * 5, " " * 5)
        if c.because:
            lines += wrap(f"{c.verdict}: {c.because}", " " * 5, " " * 7)
        for r in c.measured:
            lines += wrap(f"measured in {r.chapter} {_how(r)}", " " * 5, " " * 7)
            for line in measured(c, r):
                lines += wrap(line, " " * 7, " " * 9)
    return "\n".join([*lines, "", count(claims)])


def _chapters(c: Claim) -> str:
    return ", ".join(
        f"{s}{'' if _written(s) and not c.is_open else ' (to come)'}" for s in c.chapters
    )


def _written(stem: str) -> bool:
    return (BOOK / f"{stem}.ipynb").exists()


def _how(r: Record) -> str:
    seeds = f", seeds {', '.join(map(str, r.seeds))}" if r.seeds else ""
    return f"on {r.date}, {r.size} size{seeds}; commit {r.commit}; {r.device}"


# ---------------------------------------------------------------- JSON and Markdown


def as_json(claims: list[Claim]) -> str:
    """A list with one object a claim; ``measured`` is a list of records, [] where there is none."""
    rows = [asdict(c) for c in claims]
    fields = "id section claim formal verdict because chapters experiment supports measured".split()
    return json.dumps([{field: row[field] for field in fields} for row in rows], indent=2)


def as_markdown(claims: list[Claim], folder: str = "chapters/") -> str:
    """A table with one row a claim. folder: where chapters lie, seen from where the table is
    read."""
    rows = ["| id | section | claim | verdict | measured | chapter |", "|---|---|---|---|---|---|"]
    for c in claims:
        lines = [_plain(line) for r in c.measured for line in measured(c, r)]
        rows.append(
            f"| {c.id} | {c.section} | {_plain(c.claim)} | {c.verdict} | {'<br>'.join(lines)} | {_links(c, folder)} |"
        )
    return "\n".join(rows)


def _plain(text: str) -> str:
    """Text that Markdown and MathJax leave as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]|$~])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _links(c: Claim, folder: str = "") -> str:
    return ", ".join(_link(s, folder) if _written(s) else f"{s} (to come)" for s in c.chapters)


def _link(stem: str, folder: str = "") -> str:
    return f"[{stem}]({folder}{stem}.ipynb)"


# ---------------------------------------------------------------- the page


def page(path: Path = LEDGER) -> str:
    """The ledger as a notebook of Markdown cells, in the form in which notebooks are stored."""
    claims = select([], path)
    sections = {}  # of the document: 1, 2, ...
    for c in claims:
        sections.setdefault(re.split("[.,]", c.section)[0], []).append(c)
    texts = [_intro(claims)] + [
        "\n\n".join([f"## {TITLES.get(key, f'Section {key}')}", *map(_details, chosen)])
        for key, chosen in sorted(sections.items())
    ]
    cells = [
        {
            "cell_type": "markdown",
            "id": f"ledger{number:02}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
        }
        for number, text in enumerate(texts)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _intro(claims: list[Claim]) -> str:
    rows = [
        f"| [{c.id}](#{c.id}) | {c.section} | {_plain(c.claim)} | {c.verdict} | {_links(c)} |"
        for c in claims
    ]
    return "\n".join(
        [
            "# The ledger of claims",
            "",
            "Each claim of the document that can be tested, in our words, with the verdict that the chapters' measurements",
            f"support ({count(claims)}). A chapter fails when it measures something that no longer supports the verdict. This",
            "page is made from [claims.toml](../data/claims.toml) by `make run-nb`; `sar claims` prints the same in a terminal.",
            "",
            "| id | section | claim | verdict | chapter |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _details(c: Claim) -> str:
    parts = [f"### {c.id}", f"**{_plain(c.claim)}** ({c.where})", f"- Formally: {_plain(c.formal)}"]
    if c.is_open:
        verdict = f"- Verdict: **open**, to be settled by {_links(c)}"
    else:
        verdict = f"- Verdict: **{c.verdict}**: {_plain(c.because)}"
    parts[-1] += f"\n- Experiment: {_plain(c.experiment)}\n{verdict}"
    for r in c.measured:
        where = _link(r.chapter) if _written(r.chapter) else r.chapter
        parts.append(f"Measured in {where} {_plain(_how(r))}.")
        table = ["| measurement | measured | asked |", "|---|---|---|"]
        for name, values in r.values.items():
            asked = _plain(c.supports.get(name, "nothing"))
            table.append(f"| {_plain(name)} | {spread(values)} | {asked} |")
        parts.append("\n".join(table))
    return "\n\n".join(parts)


def write_page(path: Path = PAGE) -> None:
    """Raises OSError when the page cannot be written; what was there before is then still there."""
    write_atomically(path, page().encode())
