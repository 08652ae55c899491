"""The ledger holds: conditions are read, a falsified measurement fails, and every claim has its cell.

What was measured is kept: beside the ledger, on its page and in the chapter, the same everywhere.
"""

import json
import math
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from sar_minimal.lab import claims, report
from sar_minimal.lab import ledger as records
from sar_minimal.lab.claims import ClaimFailed, Record, Verdict, hold, ledger
from sar_minimal.lab.ledger import claim

CHAPTERS = sorted((Path(__file__).parents[1] / "chapters").glob("[0-9]*.ipynb"))
WRITTEN = {path.stem for path in CHAPTERS}
CALL = re.compile(r"\bclaim\(\s*\"(C\d+)\"")

ROW = """
[[claim]]
id = "C99"
place = ["9"]
claim = "Two is more than one."
formal = "2 > 1"
verdict = "holds"
because = "of arithmetic"
chapters = ["99_nowhere"]
experiment = "count"
[claim.true]
"difference" = ">= 0.5"
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.delenv("SAR_RECORD", raising=False)
    path = tmp_path / "claims.toml"
    path.write_text(ROW)
    return path


def calls(path):
    """Each claim that a chapter makes, with the text that the cell has put out."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            shown = [o.get("data", {}).get("text/plain", []) for o in cell["outputs"]]
            for i in CALL.findall("".join(cell["source"])):
                yield i, "".join(line for lines in shown for line in lines)


def complaints(row, written):
    """What is wrong with a claim's records; ``written``: the chapters that exist."""
    due = sorted(set(row.chapters) & set(written)) if row.supports else []
    there = [r.chapter for r in row.measured]
    wrong = [] if there == due else [f"{row.id}: expected records of {due}, got {there}"]
    for r in row.measured:
        if r.size not in ("fast", "full"):
            wrong.append(f"{row.id}, {r.chapter}: expected a size of fast or full, got {r.size!r}")
        try:
            hold(row, r.values, r.seeds)
        except (ValueError, ClaimFailed) as error:
            wrong.append(f"record of {r.chapter}: {error}")
    return wrong


# ---------------------------------------------------------------- the book's own ledger


def test_every_claim_is_made_by_its_chapters_and_no_chapter_makes_another():
    """A chapter that is still to be written may be named beside one that makes the claim."""
    made = {(i, path.stem) for path in CHAPTERS for i, _ in calls(path)}
    settled = [c for c in ledger().values() if not c.is_open]
    assert made == {(c.id, stem) for c in settled for stem in c.chapters if stem in WRITTEN}
    assert {c.id for c in settled if c.chapters} == {i for i, _ in made}


def test_the_ledger_has_every_claim_in_order():
    assert list(ledger()) == [f"C{n:02}" for n in range(1, 39)]


def test_every_chapter_has_recorded_what_it_measured():
    """To write the records: make run-nb NB=chapters/..."""
    assert [c for row in ledger().values() for c in complaints(row, WRITTEN)] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_stored_chapter_shows_what_the_ledger_records(path):
    rows = ledger()
    for i, shown in calls(path):
        for r in rows[i].measured:
            if r.chapter == path.stem and set(r.values) == set(rows[i].supports):
                lines = Verdict(rows[i], r.values, r.seeds).lines()
                missing = [line for line in lines if line not in shown]
                assert missing == [], f"{i}: make run-nb NB=chapters/{path.name}; shown: {shown}"


def test_the_page_is_what_the_ledger_generates():
    same = report.PAGE.read_text(encoding="utf-8") == report.page()
    assert same, "to make it again: sar ledger"


def test_the_readme_counts_the_claims():
    text = report.README.read_text(encoding="utf-8")
    first_screen = "".join(text.splitlines(keepends=True)[:12])
    assert f"<!-- ledger -->{report.count(ledger().values())}<!-- end -->" in first_screen
    assert report.summarised(text) == text, "to write it again: sar ledger"


# ---------------------------------------------------------------- measurements and seeds


def test_a_measurement_that_supports_the_verdict_gives_a_card(book):
    verdict = claim("C99", {"difference": [0.5, 1.0, 2.0]}, path=book)
    assert "difference: 0.5 to 2 over 3 (asked: >= 0.5)" in repr(verdict)
    assert (
        "<b>C99</b>" in verdict._repr_html_() and claims.COLOURS["holds"] in verdict._repr_html_()
    )


@pytest.mark.parametrize("measured", [0.4, {"difference": 0.4}, {"difference": [1.0, 0.4]}])
def test_a_falsified_measurement_fails(book, measured):
    with pytest.raises(
        ClaimFailed, match=r"C99 is recorded as 'holds', which needs difference >= 0.5"
    ):
        claim("C99", measured, path=book)


def test_a_tensor_is_as_good_as_a_list(book):
    for value in (torch.tensor([1.0, 2.0]), torch.tensor(2), np.float32(1.5), np.ones(3)):
        assert claim("C99", {"difference": value}, path=book)
    for value in ("many", None, {"a": 1}, torch.ones(2, 2)):
        with pytest.raises(ValueError, match="C99: difference: expected numbers, got"):
            claim("C99", {"difference": value}, path=book)


@pytest.mark.parametrize("value", [math.nan, math.inf, []])
def test_what_is_no_number_supports_nothing(book, value):
    with pytest.raises(ValueError, match="C99: difference: expected finite numbers"):
        claim("C99", {"difference": value}, path=book)


def test_a_claim_that_rests_on_papers_has_a_card_with_them_and_no_record(book, monkeypatch):
    """The chapter that shows it passes {}; there is nothing that a machine could measure."""
    cited = """[claim.sources]\nguo2017 = "true: <b> they say so"\n"""
    book.write_text(ROW.partition("[claim.true]")[0] + cited)
    monkeypatch.setenv("SAR_RECORD", "99_nowhere")
    verdict = claim("C99", {}, path=book)
    assert "holds: of arithmetic\n  not measured; guo2017: true: <b> they say so" in repr(verdict)
    card = verdict._repr_html_()
    assert "not measured; guo2017: true: &lt;b&gt; they say so" in card
    assert list(book.parent.iterdir()) == [book] and complaints(ledger(book)["C99"], WRITTEN) == []
    for measured in (1.0, {"difference": 1.0}):
        with pytest.raises(ValueError, match=r"C99: expected measurements of \[\], got"):
            claim("C99", measured, path=book)


def test_names_must_be_the_ledgers(book):
    with pytest.raises(KeyError, match="C98: the ledger has C99"):
        claim("C98", 1.0, path=book)
    with pytest.raises(
        ValueError, match=r"expected measurements of \['difference'\], got \['size'\]"
    ):
        claim("C99", {"size": 1.0}, path=book)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            '"holds"',
            '"maybe"',
            "C99: expected a verdict of holds, conditional, fails, ill-posed, open, got 'maybe'",
        ),
        ('">= 0.5"', '"around 0.5"', "expected a condition such as '<= 1e-6', got 'around 0.5'"),
        ('">= 0.5"', '">= half"', "expected a condition such as"),
        ('formal = "2 > 1"', "", "C99.*formal"),
        ("", ROW, "C99 is there twice"),
    ],
)
def test_a_ledger_with_a_mistake_says_where(book, before, after, message):
    book.write_text(ROW + after if not before else ROW.replace(before, after))
    with pytest.raises(ValueError, match=message):
        ledger(book)


@pytest.mark.parametrize(
    ("sides", "verdict"),
    [
        ("true", "holds"),
        ("false", "fails"),
        ("true false", "conditional"),
        ("true sound", "holds"),
        ("sound", "open"),
        ("undefined", "ill-posed"),
        ("undefined true false", "ill-posed"),
        ("", "open"),
    ],
)
def test_the_verdict_follows_from_the_sides(sides, verdict):
    """Whether measured or cited; the ledger refuses any other verdict."""
    row = replace(CLAIM, true={}, verdict="open", because="")
    measured = {side: {f"of {side}": "<= 1"} for side in sides.split()}
    cited = {side[0]: f"{side}: so it is" for side in sides.split() if side in ("true", "false")}
    for evidence in (measured, measured | {"sources": cited}):
        why = "" if verdict == "open" else "so"
        for said in claims.COLOURS:
            if said == verdict and (why or not sides):
                assert replace(row, verdict=said, because=why, **evidence).follows() == verdict
            elif said != verdict:
                with pytest.raises(ValueError, match="^C99"):
                    replace(row, verdict=said, because="so", **evidence)
    if cited and "undefined" not in sides:
        assert replace(row, verdict=verdict, because="so", sources=cited).follows() == verdict


def test_an_open_claim_has_no_verdict_to_support(book):
    row = ROW.replace('"holds"', '"open"')
    book.write_text(row)
    with pytest.raises(ValueError, match="C99 is open: expected neither because nor evidence"):
        ledger(book)
    book.write_text(re.sub(r"because = .*\n|\[claim.true\]\n.*\n", "", row))
    assert ledger(book)["C99"].is_open
    with pytest.raises(ValueError, match="C99 is open: the ledger has no verdict"):
        claim("C99", 1.0, path=book)


@pytest.mark.parametrize(
    ("measured", "seeds", "message"),
    [
        ([1.0, 1.0, 1.0], (), r"C99: seeds: expected 3 different ones, got \[\]"),
        ([1.0, 1.0, 1.0], (0, 1), r"C99: seeds: expected 3 different ones, got \[0, 1\]"),
        ([1.0, 1.0, 1.0], (0, 1, 1), "C99: seeds: expected 3 different ones"),
        ([1.0, 1.0, 1.0], 3, "C99: seeds: expected a list of them, got 3"),
        ([1.0, 1.0, 1.0], "012", "C99: seeds: expected a list of them, got '012'"),
        ([1.0, 1.0], (0, 1, 2), "C99: expected a value for each of the 3 seeds, got fewer"),
        (1.0, (0, 1, 2, 3), "C99: expected a value for each of the 4 seeds, got fewer"),
    ],
)
def test_as_many_seeds_as_the_ledger_asks_for(book, measured, seeds, message):
    book.write_text(ROW.replace("[claim.true]", "seeds = 3\n[claim.true]"))
    with pytest.raises(ValueError, match=message):
        claim("C99", {"difference": measured}, seeds, book)
    verdict = claim("C99", {"difference": [1.0, 2.0, 3.0]}, range(3), book)
    assert "seeds: 0, 1, 2" in repr(verdict) and "<li>seeds: 0, 1, 2</li>" in verdict._repr_html_()


# ---------------------------------------------------------------- records

BEFORE = (
    "# by hand\n"
    + ROW
    + """# a word on C98, "[[claim]]" and all

[[claim]]
id = 'C98'   # in other quotes
place = ["9, figure 1"]
claim = "One is less than two."
formal = "1 < 2"
verdict = "fails"
because = '''it is
[not]'''
chapters = ["98_here", "97_before", "99_after"]
experiment = "count \\"twice\\""
[claim.false]
"difference" = "<= 0.5"
"|x_1|, \\"nats\\"" = "== 0"

# the end"""
)
SMALL = {"difference": [1.23456e-07, 0.25, 0], '|x_1|, "nats"': -0.0}


@pytest.fixture
def measure(book, monkeypatch):
    """A ledger with two claims, and a chapter that measures C98; returns the text of the chapter's file."""
    book.write_text(BEFORE)

    def run(chapter, measured=SMALL, seeds=(7, 8), id="C98"):
        monkeypatch.setenv("SAR_RECORD", chapter)
        claim(id, measured, seeds, book)
        file = book.parent / "measured" / f"{chapter}.json"
        return file.read_text() if chapter else ""

    return run


def test_a_measurement_is_recorded_and_nothing_else_changes(measure, book):
    text = measure("98_here")
    assert book.read_text() == BEFORE and list(json.loads(text)) == ["C98"]
    (r,) = ledger(book)["C98"].measured
    assert (r.chapter, r.size, r.seeds) == ("98_here", "full" if records.FULL else "fast", [7, 8])
    assert r.values == {"difference": [1.235e-07, 0.25, 0.0], '|x_1|, "nats"': [0.0]}
    assert math.copysign(1, r.values['|x_1|, "nats"'][0]) == 1
    assert all(type(v) is float for values in r.values.values() for v in values)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", r.date)
    assert re.fullmatch(r"[0-9a-f]+\+?|unknown", r.commit)
    assert f"torch {torch.__version__.partition('+')[0]}" in r.device
    assert not ledger(book)["C99"].measured


def test_a_chapter_replaces_its_own_record_and_they_stand_in_order(measure, book, monkeypatch):
    monkeypatch.setattr(records, "FULL", True)
    texts = [measure(chapter) for chapter in ("98_here", "99_after", "97_before")]
    assert [r.chapter for r in ledger(book)["C98"].measured] == ["97_before", "98_here", "99_after"]
    assert {r.size for r in ledger(book)["C98"].measured} == {"full"}
    assert measure("98_here") == texts[0]  # the same once more
    measure("98_here", SMALL | {"difference": 0.125}, seeds=())
    before, here, after = ledger(book)["C98"].measured
    assert here.values["difference"] == [0.125] and here.seeds == []
    assert (
        before.values == after.values == {"difference": [1.235e-07, 0.25, 0], '|x_1|, "nats"': [0]}
    )
    assert book.read_text() == BEFORE
    assert measure("97_before") == texts[2] and measure("99_after") == texts[1]


def test_only_what_supports_the_verdict_is_recorded_and_only_when_asked(measure, book, monkeypatch):
    with pytest.raises(ClaimFailed):
        measure("98_here", SMALL | {"difference": 0.6})
    with pytest.raises(ValueError, match="C98: SAR_RECORD: expected one of its chapters, 98_here"):
        measure("96_elsewhere")
    measure("")
    monkeypatch.delenv("SAR_RECORD")
    claim("C98", SMALL, path=book)
    assert book.read_text() == BEFORE and list(book.parent.iterdir()) == [book]


def test_two_claims_of_one_chapter_are_kept_in_order(measure, book):
    book.write_text(BEFORE.replace('"99_nowhere"', '"98_here"'))
    measure("98_here", {"difference": [1, 2]}, id="C99")
    assert list(json.loads(measure("98_here"))) == ["C98", "C99"]
    rows = ledger(book)
    assert rows["C99"].measured[0].values == {"difference": [1.0, 2.0]} and rows["C98"].measured


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("{", "[", "98_here.json: not records of ours"),
        ('"date"', '"day"', "98_here.json: not records of ours .*day.*; delete it and run again"),
        ('"C98"', '"C97"', "98_here.json: a record of C97, which claims.toml does not have"),
    ],
)
def test_a_file_of_records_that_is_none_is_named(measure, book, before, after, message):
    text = measure("98_here")
    (book.parent / "measured" / "98_here.json").write_text(text.replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
        ledger(book)


def test_two_chapters_that_record_at_once_keep_both(measure, book, monkeypatch):
    """Each has a file of its own."""

    def slow():
        monkeypatch.setattr(records, "_commit", lambda: "unknown")
        measure("99_after")
        return "unknown"

    monkeypatch.setattr(records, "_commit", slow)
    measure("98_here")
    assert [r.chapter for r in ledger(book)["C98"].measured] == ["98_here", "99_after"]


def test_rounding_does_not_make_a_condition_fail(measure, book):
    book.write_text(BEFORE.replace("<= 0.5", "< 0.5"))
    measure("98_here", SMALL | {"difference": [0.49999999, 0.1234567]})
    assert ledger(book)["C98"].measured[0].values["difference"] == [0.49999999, 0.1235]


def test_the_device_is_named(monkeypatch):
    monkeypatch.setattr(records, "choose_device", lambda: (torch.device("cuda"), ""))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    assert records._device().startswith("NVIDIA H100, torch ")
    monkeypatch.setattr(records, "choose_device", lambda: (torch.device("cpu"), ""))
    assert re.fullmatch(r"CPU, .+, \d+ threads?, torch [\w.]+", records._device())


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    def git(*words):
        who = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false")
        return subprocess.check_output(["git", *who, *words], cwd=tmp_path, text=True).strip()

    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert records._commit() == "unknown"
    git("init", "-q")
    assert records._commit() == "unknown"  # there is none yet
    code = tmp_path / "sar_minimal" / "a.py"
    code.parent.mkdir()
    code.write_text("")
    git("add", ".")
    git("commit", "-qm", "one")
    (tmp_path / "notes").write_text("not of the package")
    head = git("rev-parse", "--short", "HEAD")
    assert records._commit() == head
    code.write_text("1")
    assert records._commit() == head + "+"
    monkeypatch.setenv("PATH", "")
    assert records._commit() == "unknown"


CLAIM = claims.Claim(**tomllib.loads(ROW)["claim"][0] | {"seeds": 2})
GOOD = Record("99_nowhere", "2026-01-01", "fast", [0, 1], "CPU", "unknown", {"difference": [1, 2]})


@pytest.mark.parametrize(
    ("change", "written", "message"),
    [
        ({}, [], r"expected records of \[\], got \['99_nowhere'\]"),
        ({"chapter": "98_gone"}, ["99_nowhere"], r"expected records of \['99_nowhere'\], got"),
        ({"values": {"size": [1]}}, ["99_nowhere"], "record of 99_nowhere: C99: expected measurem"),
        ({"values": {"difference": [1, 0.4]}}, ["99_nowhere"], "which needs difference >= 0.5"),
        ({"seeds": [0]}, ["99_nowhere"], "seeds: expected 2 different ones"),
        ({"size": "small"}, ["99_nowhere"], "expected a size of fast or full, got 'small'"),
    ],
)
def test_records_that_do_not_fit_complain(change, written, message):
    assert complaints(replace(CLAIM, measured=(GOOD,)), ["99_nowhere"]) == []
    (found,) = complaints(replace(CLAIM, measured=(replace(GOOD, **change),)), written)
    assert re.search(message, found)


def test_a_record_is_due_where_the_chapter_exists_and_the_claim_is_settled():
    assert complaints(CLAIM, ["01_other"]) == []
    assert len(complaints(CLAIM, ["99_nowhere"])) == 1
    still_open = replace(CLAIM, verdict="open", because="", true={})
    assert complaints(still_open, ["99_nowhere"]) == []
    assert complaints(replace(still_open, measured=(GOOD,)), ["99_nowhere"]) != []


# ---------------------------------------------------------------- as a reader sees it


def test_the_page_of_a_ledger(measure, book):
    """Valid, of Markdown only, in the order of the document; every character is shown as it is."""
    measure("98_here")
    ours = ROW.replace("C99", "C97").replace('"9"', '"ours"').replace("Two", "Two_x_ < $3$ | `*`")
    book.write_text(
        f"{book.read_text()}\n{ours}"
        + ROW.replace("C99", "C96").replace('["9"]', '["2", "9, list"]')
    )
    text = report.page(book)
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    assert json.loads(text) == json.loads(nbformat.writes(notebook))
    first, *parts = (cell.source for cell in notebook.cells)
    assert {cell.cell_type for cell in notebook.cells} == {"markdown"}
    assert "4 claims: holds 3, fails 1" in first and "| [C98](#C98) | 9 |" in first
    assert r"| Two\_x\_ &lt; \$3\$ \| \`\*\` is more than one. |" in first
    order = [re.findall(r"^### (C\d+)", part, re.M) for part in parts]
    assert order == [["C96"], ["C99", "C98"], ["C97"]]
    assert "Measured in 98_here on " in parts[1] and ", seeds 7, 8; commit " in parts[1]
    assert "| false | difference | 0 to 0.25 over 3 | &lt;= 0.5 | " in parts[1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_of_a_ledger_keeps_to_its_width(measure, book, width):
    measure("98_here")
    text = report.as_text(report.select([], book), width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "false difference: 0 to 0.25 over 3 (asked: <= 0.5)" in words and "seeds 7, 8" in words
    assert words.endswith("2 claims: holds 1, fails 1")
