"""Verdicts travel: bounds have room over seeds and processors, and a reader's machine is put beside the book."""

import json
import math
import tomllib
from dataclasses import replace

import nbformat
import pytest
from nbformat import v4
from test_claims import GOOD, ROW

from sar_minimal.lab import cli, evidence, report, room
from sar_minimal.lab.claims import Claim, ledger
from sar_minimal.lab.ledger import claim

# Chapters whose evidence at full size is older than their code: `make evidence` runs these again.
OLDER: set[str] = set()
CLAIM = Claim(**tomllib.loads(ROW)["claim"][0] | {"seeds": 2})


def test_each_bound_has_room():
    """Three standard deviations from the mean, over seeds and numeric environments."""
    near = {key for row in ledger().values() for key, r in room.rooms(row).items() if r < room.ROOM}
    assert not near


def measured(*lists, seeds=(0, 1)):
    """A claim, ">= 0.5", whose first list the chapter measured, the others other environments."""
    records = [replace(GOOD, seeds=list(seeds), values={"difference": list(v)}) for v in lists]
    return replace(CLAIM, measured=records[:1], elsewhere={str(n): [r] for n, r in enumerate(records[1:])})  # fmt: skip


def test_spread_over_seeds_and_environments():
    """Mean and deviation of all values together; room is how many deviations lie between mean and bound."""
    (s,) = room.spreads(measured([1.0, 2.0], [3.0, 2.0]), "difference", "99_nowhere")
    assert (s.mean, s.number) == (2.0, 4)
    assert s.deviation == pytest.approx(math.sqrt(2 / 3)) and s.room == pytest.approx(
        1.5 / s.deviation
    )
    assert str(s) == "2 +- 0.82 (n = 4)"


def test_values_of_different_conditions_are_not_seeds():
    """Three values of two seeds are of three conditions: each may vary between environments alone."""
    first, *_, last = room.spreads(measured([1, 50, 900], [1, 50, 902]), "difference", "99_nowhere")
    assert (
        first == (1, 0, 2, math.inf)
        and last.mean == 901
        and last.room == pytest.approx(900.5 / math.sqrt(2))
    )


@pytest.mark.parametrize(
    ("asked", "values", "room_is"),
    [
        (">= 0.5", [1.0, 1.0], math.inf),
        (">= 0.5", [0.4, 0.4], -math.inf),
        ("<= 2", [1.0, 1.5], 0.75 / math.sqrt(0.125)),
        ("<= 1e-5", [1e-8, 9e-8], math.inf),  # rounding
        ("== 1", [1.0, 1.0], math.inf),
        ("== 1", [1.0, 1.5], -0.25 / math.sqrt(0.125)),  # what is counted does not vary
    ],
)
def test_room(asked, values, room_is):
    row = replace(
        CLAIM, true={"difference": asked}, measured=[replace(GOOD, values={"difference": values})]
    )
    assert room.rooms(row) == {("99_nowhere", "difference"): pytest.approx(room_is)}


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A ledger of one claim beside a chapter of three cells, which measures it."""
    for name in ("SAR_RECORD", "SAR_MEASURED"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "data" / "claims.toml"
    path.parent.mkdir()
    path.write_text(ROW)
    cells = [
        "from pathlib import Path\nfrom sar_minimal.lab.ledger import claim\nvalue = 2.0",
        f"claim('C99', value, path=Path({str(path)!r}))",
        "1 / 0",
    ]
    (tmp_path / "chapters").mkdir()
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("a"), *map(v4.new_code_cell, cells)])
    nbformat.write(notebook, tmp_path / "chapters" / "99_nowhere.ipynb")
    return path


def test_elsewhere_is_kept_apart_and_whatever_comes_out(book, monkeypatch):
    """A measurement that does not meet its condition is kept too, and the cell still fails."""
    claim_it = lambda value: claim("C99", value, path=book)  # noqa: E731
    monkeypatch.setenv("SAR_RECORD", "99_nowhere")
    claim_it(1.0)
    monkeypatch.setenv("SAR_MEASURED", str(book.parent / "measured" / "AVX2"))
    with pytest.raises(AssertionError, match="which needs difference >= 0.5"):
        claim_it(0.49999)
    row = ledger(book)["C99"]
    assert [r.values for r in row.measured] == [{"difference": [1.0]}]
    assert [r.values for r in row.elsewhere["AVX2"]] == [{"difference": [0.49999]}]
    assert room.rooms(row)["99_nowhere", "difference"] < room.ROOM


@pytest.mark.parametrize(
    ("value", "verdict", "code"),
    [("2.0", "as in the book", 0), ("0.7", "met, but further off", 0), ("0.4", "NOT MET", 1)],
)
def test_a_chapter_is_measured_here(book, monkeypatch, capsys, value, verdict, code):
    """Also behind a cell that fails; nothing of the book is written."""
    record = {"C99": {k: v for k, v in GOOD.__dict__.items() if k != "chapter"} | {"values": {"difference": [1.9, 2.1]}}}  # fmt: skip
    (book.parent / "measured").mkdir()
    (book.parent / "measured" / "99_nowhere.json").write_text(json.dumps(record))
    chapter = book.parents[1] / "chapters" / "99_nowhere.ipynb"
    chapter.write_text(chapter.read_text().replace("value = 2.0", f"value = {value}"))
    before = {p: p.read_bytes() for p in book.parents[1].rglob("*") if p.is_file()}
    monkeypatch.setattr(evidence.compared, "__defaults__", ("", book))
    monkeypatch.setattr("sar_minimal.lab.report.select.__defaults__", (book,))
    assert cli.main(["measure", "c99"]) == code
    out = capsys.readouterr().out
    assert f"C99 difference: {verdict}" in out
    assert f"asked >= 0.5; here {value.removesuffix('.0')}; in the book 2 +- 0.14 (n = 2)" in out
    assert {p: p.read_bytes() for p in book.parents[1].rglob("*") if p.is_file()} == before


def test_widgets_are_not_answered(book, monkeypatch):
    """nbclient answers an Output widget on the channel that it waits on, and may miss the reply: a
    chapter at full size stood still for ever, after all was computed."""
    called = []
    monkeypatch.setattr(
        "nbclient.output_widget.OutputWidget.send", lambda *a, **b: called.append(a)
    )
    chapter = book.parents[1] / "chapters" / "99_nowhere.ipynb"
    widget = "import ipywidgets as w\\n_ = w.interact(lambda n: print(n), n=(0, 9))\\nvalue = 2.0"
    chapter.write_text(chapter.read_text().replace("value = 2.0", widget))
    assert evidence.measured_here("99_nowhere", book)["C99"].values == {"difference": [2.0]}
    assert not called


def test_the_age_of_the_evidence_at_full_size():
    """Whoever changes what it depends on runs it again, or says here that it is older."""
    assert room.older(ledger().values()) == OLDER


def test_full_size_is_kept_and_not_run_twice(book, monkeypatch, capsys):
    """In its own folder, no environment of the fast size; a comment does not make it old, code does."""
    monkeypatch.setattr(evidence.compared, "__defaults__", ("", book))
    monkeypatch.setattr("sar_minimal.lab.report.select.__defaults__", (book,))
    chapter = book.parents[1] / "chapters" / "99_nowhere.ipynb"
    text = chapter.read_text().replace(
        "value = 2.0", "from sar_minimal import FULL\\nvalue = 1.0 + FULL"
    )
    chapter.write_text(text)
    (book.parent / "measured").mkdir()
    fast = {"C99": {k: v for k, v in GOOD.__dict__.items() if k != "chapter"} | {"values": {"difference": [1.0]}}}  # fmt: skip
    (book.parent / "measured" / "99_nowhere.json").write_text(json.dumps(fast))
    assert cli.main(["measure", "--full", "--machine", "h100"]) == 0
    assert "C99 difference: met, but further off" in capsys.readouterr().out
    (kept,) = book.parent.glob("measured/*/*.json")
    assert kept.parent.name == "full-h100"
    row = ledger(book)["C99"]
    assert [(r.size, r.values) for r in row.full] == [("full", {"difference": [2.0]})]
    assert not row.elsewhere and room.rooms(row) == {("99_nowhere", "difference"): math.inf}

    monkeypatch.setattr(evidence, "measured_here", None)  # whoever runs it again fails
    chapter.write_text(text.replace("value = 1.0", "# a remark\\nvalue = 1.0"))
    assert cli.main(["measure", "--full", "--machine", "h100"]) == 0 and not room.older(
        ledger(book).values(), book
    )
    chapter.write_text(text.replace("value = 1.0", "value = 1.5"))
    assert room.older(ledger(book).values(), book) == {"99_nowhere"}
    with pytest.raises(TypeError):
        evidence.in_full("99_nowhere", "full-h100", book)


def test_each_record_has_an_age_of_its_own(monkeypatch):
    """Of two machines one may have run a chapter before its code changed; the other is not older."""
    monkeypatch.setattr(room, "code_of", lambda stem, path: "new")
    full = tuple(replace(GOOD, size="full", code=code) for code in ("new", "old"))
    row = replace(CLAIM, measured=(replace(GOOD, seeds=[0, 1]),), full=full)
    assert room.outdated([row]) == {("99_nowhere", "old")} and room.older([row]) == {"99_nowhere"}
    text = " ".join(report.as_text([row]).split())
    assert text.count("OLDER than its code") == 1


@pytest.mark.parametrize("line", ("from sar_minimal.lab import tool as t", "from sar_minimal.lab.tool import t", "import sar_minimal.lab.tool"))  # fmt: skip
def test_evidence_depends_on_what_the_chapter_imports(book, monkeypatch, line):
    """However it is imported, on what that imports, and on the folders' own files; on nothing else."""
    package = book.parents[1] / "sar_minimal"
    monkeypatch.setattr(room, "PACKAGE", package)
    (package / "lab").mkdir(parents=True)
    for name in ("__init__", "core", "new", "lab/__init__", "lab/plots", "lab/other"):
        (package / f"{name}.py").touch()
    (package / "lab" / "tool.py").write_text("from .part import x\nfrom . import plots\n")
    (package / "lab" / "part.py").write_text(
        "from ..core import y\nfrom .tool import z\n"
    )  # a circle
    chapter = book.parents[1] / "chapters" / "99_nowhere.ipynb"
    chapter.write_text(chapter.read_text().replace("value = 2.0", line))
    before = room.code_of("99_nowhere", book)
    for name, depends in {
        "new": False,
        "lab/other": False,
        "lab/plots": False,
        "lab/tool": True,
        "lab/part": True,
        "core": True,
        "lab/__init__": True,
        "__init__": True,
    }.items():
        file = package / f"{name}.py"
        text = file.read_text()
        file.write_text(text + "x = 1\n")
        assert (room.code_of("99_nowhere", book) != before) == depends, name
        file.write_text(text + "\n# a remark\n")
        assert room.code_of("99_nowhere", book) == before, name
