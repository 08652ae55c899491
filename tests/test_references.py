"""Sources: each is a whole one, the page is made from them, and what points at one finds it."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from sar_minimal.lab import report
from sar_minimal.lab.claims import ledger
from sar_minimal.lab.references import REFERENCES, Reference, cited, entries, references

BOOK = Path(__file__).parents[1] / "chapters"
ONE = """
[[reference]]
key = "guo2017"
cited_as = "Guo 2017"
authors = "C. Guo and others."
title = "On Calibration"
where = "ICML 2017"
url = "https://arxiv.org/abs/1706.04599"
looked_up = "2026-11-27: its page"
says = "One temperature makes a network honest."
"""


def test_the_sources_are_in_order_and_each_is_named_once():
    rows = references()
    assert list(rows) == sorted(rows) and len({r.cited_as for r in rows.values()}) == len(rows)
    for r in rows.values():
        year = re.search(r"\d{4}[ab]?$", r.key)
        assert year is None or year[0].rstrip("ab") in r.cited_as, r.key
        assert re.match(r"\d{4}-\d\d-\d\d: \S", r.looked_up), r.key


def test_the_page_is_what_the_sources_generate():
    same = report.SOURCES_PAGE.read_text(encoding="utf-8") == report.sources_page()
    assert same, "to make it again: sar ledger"
    notebook = nbformat.reads(report.sources_page(), 4)
    nbformat.validate(notebook)
    anchors = re.findall(r'<a id="(\w+)"></a>', "".join(cell.source for cell in notebook.cells))
    assert anchors == list(references())


def test_what_points_at_a_source_finds_it():
    keys = {key for row in ledger().values() for key in row.sources}
    for path in BOOK.rglob("*.ipynb"):
        text = "".join("".join(c["source"]) for c in json.loads(path.read_text("utf-8"))["cells"])
        keys |= set(re.findall(r"references\.ipynb#(\w+)", text))
    assert keys and keys <= set(references())


@pytest.mark.parametrize("path", sorted(BOOK.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_every_citation_is_a_link(path):
    """A name and a year in a chapter's text, such as Guo (2017) or Guo 2017, links to the source."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    text = re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`|\$[^$]*\$", "", text)
    assert re.findall(r"[A-Z][\w-]+(?:'s)?,? \(?(?:18|19|20)\d\d[ab]?\b\)?", text) == []


def test_an_entry(tmp_path):
    path = tmp_path / "references.toml"
    path.write_text(ONE)
    (text,) = entries(references(path).values())
    assert text == (
        '<a id="guo2017"></a>**Guo 2017.** C. Guo and others. [On Calibration](https://arxiv.org/abs/1706.04599). '
        "ICML 2017. One temperature makes a network honest."
    )
    assert cited("guo2017") == "[Guo 2017](references.ipynb#guo2017)"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("", ONE, "references.toml: guo2017 is there twice"),
        ('"guo2017"', '"Guo17"', "key: expected a name and a year, such as guo2017, got 'Guo17'"),
        ("https:", "http:", "guo2017: url: expected https://..., got 'http://arxiv"),
        ('"2026-11-27: its page"', '""', "guo2017: looked_up: expected some text, got ''"),
        ("says", "sais", "references.toml, guo2017: .*sais"),
        ("[[reference]]", "[[refs]]", r"references.toml: expected tables \[\[reference\]\]"),
        ('"guo2017"', "guo2017", "references.toml: expected tables .* in TOML"),
    ],
)
def test_a_mistake_says_where(tmp_path, before, after, message):
    path = tmp_path / "references.toml"
    path.write_text(ONE + after if not before else ONE.replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
        references(path)


def test_the_file_is_beside_the_ledger():
    assert REFERENCES.exists() and isinstance(references()["vaswani2017"], Reference)
