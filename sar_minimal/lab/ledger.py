"""``claim``: what a chapter calls with what it has measured."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .claims import LEDGER, Verdict, hold, ledger
from .records import record


def claim(
    id: str, measured: float | Mapping, seeds: Sequence[int] = (), path: Path = LEDGER
) -> Verdict:
    """Hold measurements against the ledger; returns the verdict, for a cell to show.

    measured: name to a number, or to a list of them, one per seed, all of which must meet the
    condition; a bare number where the ledger asks for one measurement only. seeds: those that the
    measurement was made with, where something is trained or drawn.
    With ``SAR_RECORD=<chapter>`` in the environment the measurement is kept (``records.py``).
    Raises KeyError for a claim the ledger does not have, ValueError when the claim is open, the
    names are not the ledger's, a value is not finite or the seeds are too few, ClaimFailed when a
    condition is not met.
    """
    rows = ledger(path)
    if id not in rows:
        raise KeyError(f"{id}: the ledger has {', '.join(rows)}")
    verdict = hold(rows[id], measured, seeds)
    if os.environ.get("SAR_RECORD"):
        record(verdict, os.environ["SAR_RECORD"], path)
    return verdict
