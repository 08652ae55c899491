"""Each bug of the zoo is caught by the laws named for it, and by nothing else than the bug."""

import inspect

import pytest
from bugs import BUGS
from laws import LAWS

CASES = [(bug, law, case) for bug in BUGS for law, *case in bug.caught_by]
NAMES = ["-".join((bug.name, law.__name__, *case)).replace(" ", "_") for bug, law, case in CASES]


def hold(law, case, tmp_path):
    law(
        *case, **({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(law).parameters else {})
    )


@pytest.mark.parametrize("bug, law, case", CASES, ids=NAMES)
def test_law_catches(bug, law, case, monkeypatch, tmp_path):
    assert (law, tuple(case)) in LAWS, "test_laws.py does not hold it for the package as it is"
    with monkeypatch.context() as patch:
        bug.release(patch)
        with pytest.raises(bug.raises):
            hold(law, case, tmp_path / "with")
    hold(law, case, tmp_path / "without")


def test_a_bug_that_no_longer_fits_says_so(monkeypatch):
    bug = BUGS[0]
    moved = type(bug)(bug.name, "", bug.where, {"not in there": ""}, ())
    with pytest.raises(
        LookupError, match="double shift: expected 'not in there' once in _cross_entropy"
    ):
        moved.release(monkeypatch)
