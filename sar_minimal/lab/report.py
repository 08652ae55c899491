"""The ledger as a reader sees it: in the terminal, as Markdown, as JSON, as a page of the book."""

import json
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ..errors import MissingPackage, Refusal
from .claims import COLOURS, LEDGER, SIDES, Claim, Record, ledger, spread
from .references import REFERENCES, cited, entries, references
from .room import outdated, rooms, spreads
from .tables import as_markdown

BOOK = LEDGER.parents[1] / "chapters"
PAGE, SOURCES_PAGE = BOOK / "ledger.ipynb", BOOK / "references.ipynb"
README = LEDGER.parents[1] / "README.md"
TITLES = {
    "1": "Section 1: background",
    "2": "Section 2: the core idea",
    "3": "Section 3: the algorithm",
    "4": "Section 4: the theory",
    "ours": "What the book adds",
}


def select(ids: Iterable[str], path: Path = LEDGER) -> list[Claim]:
    """The claims with these ids, in the ledger's order; all of them if no id is given.
    Raises ValueError, listing the ids there are, for one that is not there."""
    rows, wanted = ledger(path), {id.upper() for id in ids}
    if unknown := sorted(wanted - set(rows)):
        raise Refusal(f"{', '.join(unknown)}: no such claim; the ledger has {', '.join(rows)}")
    return [c for c in rows.values() if not wanted or c.id in wanted]


def count(claims: Iterable[Claim]) -> str:
    """How many there are, and of each verdict."""
    number = Counter(c.verdict for c in claims)
    each = ", ".join(f"{verdict} {number[verdict]}" for verdict in COLOURS if number[verdict])
    return f"{number.total()} claim{'s' if number.total() != 1 else ''}: {each}"


def _how(r: Record, old: set[tuple[str, str]]) -> str:
    seeds = f", seeds {', '.join(map(str, r.seeds))}" if r.seeds else ""
    age = ", OLDER than its code" if (r.chapter, r.code) in old else ""
    return f"on {r.date}, {r.size} size{seeds}; commit {r.commit}{age}; {r.device}"


BEARS = {
    "true": "where the formal line comes out true",
    "false": "where it comes out false",
    "undefined": "that the sentence says nothing definite as it stands",
    "sound": "that the measurement can be trusted",
}


def evidence(c: Claim, r: Record) -> list[tuple[str, ...]]:
    """A row a measurement, those of one side together: side, name, what was measured, what was
    asked, its mean and deviation over seeds and environments, and the room that leaves."""
    rows = []
    for name, values in r.values.items():
        known = spreads(c, name, r.chapter, r.size) if name in c.supports else []
        most = min(known, key=lambda s: s.room, default=None)
        left = f"{most.room:.1f}" if most and most.deviation else "-"
        rows.append((c.side(name), name, spread(values), c.asked(name), str(most or "-"), left))
    return sorted(rows, key=lambda row: [*SIDES, ""].index(row[0]))


def _written(stem: str) -> bool:
    return (BOOK / f"{stem}.ipynb").exists()


def as_text(claims: list[Claim], width: int = 100) -> str:
    """A block of lines a claim, none longer than ``width`` (60 at the least) where words allow."""
    lines = [f"{'id':4} {'section':12} {'verdict':12} chapter"]
    old = outdated(claims)
    wrap = textwrap.TextWrapper(max(60, width), break_long_words=False, break_on_hyphens=False)

    def add(line: str, first: int, rest: int) -> None:
        wrap.initial_indent, wrap.subsequent_indent = " " * first, " " * rest
        lines.extend(wrap.wrap(line))

    for c in claims:
        names = (s if _written(s) and not c.is_open else f"{s} (to come)" for s in c.chapters)
        lines.append("")
        add(f"{c.id:4} {c.section:12} {c.verdict:12} {', '.join(names) or 'from papers'}", 0, 31)
        add(c.claim, 5, 5)
        facts = {
            "place": "; ".join(c.place),
            "in its words": "; ".join(c.terms),
            "formally": c.formal,
        }
        for what, text in (facts | {"smallest effect that matters": c.effect}).items():
            if text:
                add(f"{what}: {text}", 5, 7)
        if c.because:
            add(f"{c.verdict}: {c.because}", 5, 7)
        for r in (*c.measured, *c.full):
            add(f"measured in {r.chapter} {_how(r, old)}", 5, 7)
            for side, name, values, asked, _, left in evidence(c, r):
                room = f"; room {left} deviations" if left != "-" else ""
                add(f"{side:9} {name}: {values} (asked: {asked}{room})", 7, 17)
        for key, says in c.sources.items():
            add(f"not measured; {key}: {says}", 5, 7)
    return "\n".join([*lines, "", count(claims)])


def as_json(claims: list[Claim]) -> str:
    """A list with one object a claim; ``measured`` is a list of records, [] where there is none."""
    rows = [asdict(c) for c in claims]
    for row, c in zip(rows, claims, strict=True):
        row["section"], row["room"] = c.section, {f"{s}: {n}": v for (s, n), v in rooms(c).items()}
        row["room"] = {name: None if v == float("inf") else v for name, v in row["room"].items()}
    return json.dumps(rows, indent=2)


def as_table(claims: list[Claim]) -> str:
    """A table of Markdown, one row a claim."""
    rows = []
    for c in claims:
        lines = "<br>".join(_plain(line) for r in c.measured for line in c.lines(r.values))
        rows.append([c.id, c.section, _plain(c.claim), c.verdict, lines, _links(c, "chapters/")])
    return as_markdown(["id", "section", "claim", "verdict", "measured", "chapter"], rows)


def _plain(text: str) -> str:
    """Text that Markdown and MathJax leave as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]|$~])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _links(c: Claim, folder: str = "") -> str:
    return ", ".join(_link(s, folder, " (to come)") for s in c.chapters)


def _link(stem: str, folder: str = "", missing: str = "") -> str:
    return f"[{stem}]({folder}{stem}.ipynb)" if _written(stem) else stem + missing


def page(path: Path = LEDGER) -> str:
    """The ledger as a notebook of Markdown cells, in the form in which notebooks are stored. Raises
    MissingPackage where nbformat is not installed."""
    claims, rows = select([], path), []
    old, sections = outdated(claims, path), defaultdict(list)  # of the document: 1, 2, ...
    for c in claims:
        rows.append([f"[{c.id}](#{c.id})", c.section, _plain(c.claim), c.verdict, _links(c)])
        sections[re.split("[.,]", c.section)[0]].append(_details(c, old))
    table = as_markdown(["id", "section", "claim", "verdict", "chapter"], rows)
    bears = "; ".join(f"*{side}*, {what}" for side, what in BEARS.items())
    texts = [INTRO.format(counts=count(claims), bears=bears, table=table)]
    for key, details in sorted(sections.items()):
        texts.append("\n\n".join([f"## {TITLES.get(key, f'Section {key}')}", *details]))
    return _notebook(texts, "ledger")


def sources_page(path: Path = REFERENCES) -> str:
    """The sources as a notebook, like ``page``."""
    return _notebook([SOURCES, "\n\n".join(entries(references(path).values()))], "sources")


def summarised(text: str, path: Path = LEDGER) -> str:
    """The README with the count of today's claims between its two marks."""
    return re.sub("(<!-- ledger -->).*?(<!-- end -->)", rf"\g<1>{count(select([], path))}\2", text)


def _notebook(texts: Iterable[str], name: str) -> str:
    try:
        from nbformat import v4, writes
    except ImportError as error:
        missing = 'nbformat is not installed: pip install "sar-minimal[book]"'
        raise MissingPackage(missing, name="nbformat") from error
    cells = [v4.new_markdown_cell(text, id=f"{name}{n:02}") for n, text in enumerate(texts)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return writes(v4.new_notebook(cells=cells, metadata=metadata)) + "\n"


SOURCES = """# Sources

What the book cites, with what it uses of each, in our words. Authors, title and year of each were looked up; where and \
when stands in [references.toml](../data/references.toml), from which this page is made (`sar ledger`)."""
INTRO = """# The ledger of claims

Each claim of the document that can be tested, in our words, with the verdict that the chapters' \
measurements
support ({counts}). A chapter fails when it measures something that no longer supports the \
verdict. This
page is made from [claims.toml](../data/claims.toml) and [what chapters measured](../data/measured) by `make run-nb`; `sar claims` prints the \
same in a terminal, and `sar measure` runs a chapter on your machine and puts what it measures beside this. \
Beside the *fast* size stands, where it was run, the *full* one: more seeds, longer training (`make evidence`).

The verdict follows from the evidence by one rule. Each measurement stands on one side of the claim's formal \
line: {bears}. Only *true* makes *holds*, only *false* makes *fails*, both make *conditional*, and *undefined* \
makes *ill-posed*. Where nothing can be measured, a paper that was looked up stands in, and is marked so. *Room* is \
how many standard deviations lie between the mean and the bound, over the seeds and over processors of \
several kinds; 3 is the least that we want.

{table}"""


def _details(c: Claim, old: set[tuple[str, str]]) -> str:
    settled = f"**{c.verdict}**: {_plain(c.because)}"
    verdict = f"**open**, to be settled by {_links(c)}" if c.is_open else settled
    facts = [f"- Formally: {_plain(c.formal)}", f"- Experiment: {_plain(c.experiment)}"]
    facts += [f"- In the document's words: {_plain('; '.join(c.terms))}"] * bool(c.terms)
    facts += [f"- The smallest effect that matters: {_plain(c.effect)}"] * bool(c.effect)
    facts.append(f"- Verdict: {verdict}")
    facts += [f"- Not measured; {cited(key)}: {_plain(says)}" for key, says in c.sources.items()]
    parts = [f"### {c.id}", f"**{_plain(c.claim)}** ({_plain(c.where)})", "\n".join(facts)]
    for r in (*c.measured, *c.full):
        parts.append(f"Measured in {_link(r.chapter)} {_plain(_how(r, old))}.")
        head = ["bears on", "measurement", "measured", "asked", "mean and deviation", "room"]
        parts.append(as_markdown(head, [tuple(map(_plain, row)) for row in evidence(c, r)]))
    return "\n\n".join(parts)
