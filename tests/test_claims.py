"""The ledger holds: conditions are read, a falsified measurement fails, and every claim has its cell."""

import json
import math
import re
from pathlib import Path

import pytest

from sar_minimal import claims
from sar_minimal.claims import ClaimFailed, claim, ledger

CHAPTERS = sorted((Path(__file__).parents[1] / "chapters").glob("[0-9]*.ipynb"))
CALL = re.compile(r"\bclaim\(\s*\"(C\d+)\"")

ROW = """
[[claim]]
id = "C99"
section = "9"
claim = "Two is more than one."
formal = "2 > 1"
verdict = "holds"
because = "of arithmetic"
chapter = "99_nowhere"
experiment = "count"
[claim.supports]
"difference" = ">= 0.5"
"""


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(ROW)
    return path


def calls(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        i for c in cells if c["cell_type"] == "code" for i in CALL.findall("".join(c["source"]))
    ]


def test_every_claim_is_made_by_its_chapter_and_no_chapter_makes_another():
    made = {i: path.stem for path in CHAPTERS for i in calls(path)}
    assert made == {c.id: c.chapter for c in ledger().values()}


def test_a_measurement_that_supports_the_verdict_gives_a_card(book):
    verdict = claim("C99", {"difference": [0.5, 1.0, 2.0]}, book)
    assert "difference: 0.5 to 2 over 3 (asked: >= 0.5)" in repr(verdict)
    assert (
        "<b>C99</b>" in verdict._repr_html_() and claims.COLOURS["holds"] in verdict._repr_html_()
    )


@pytest.mark.parametrize("measured", [0.4, {"difference": 0.4}, {"difference": [1.0, 0.4]}])
def test_a_falsified_measurement_fails(book, measured):
    with pytest.raises(
        ClaimFailed, match=r"C99 is recorded as 'holds', which needs difference >= 0.5"
    ):
        claim("C99", measured, book)


@pytest.mark.parametrize("value", [math.nan, math.inf, []])
def test_what_is_no_number_supports_nothing(book, value):
    with pytest.raises(ValueError, match="C99: difference: expected finite numbers"):
        claim("C99", {"difference": value}, book)


def test_names_must_be_the_ledgers(book):
    with pytest.raises(KeyError, match="C98: the ledger has C99"):
        claim("C98", 1.0, book)
    with pytest.raises(
        ValueError, match=r"expected measurements of \['difference'\], got \['size'\]"
    ):
        claim("C99", {"size": 1.0}, book)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            '"holds"',
            '"maybe"',
            "C99: expected a verdict of holds, conditional, fails, ill-posed, got 'maybe'",
        ),
        ('">= 0.5"', '"around 0.5"', "expected a condition such as '<= 1e-6', got 'around 0.5'"),
        ('">= 0.5"', '">= half"', "expected a condition such as"),
        ('"difference" = ">= 0.5"', "", "C99: expected at least one measurement"),
        ('formal = "2 > 1"', "", "C99.*formal"),
        ("", ROW, "C99 is there twice"),
    ],
)
def test_a_ledger_with_a_mistake_says_where(book, before, after, message):
    book.write_text(ROW + after if not before else ROW.replace(before, after))
    with pytest.raises(ValueError, match=message):
        ledger(book)
