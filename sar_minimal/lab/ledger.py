"""``claim``: what a chapter calls with what it has measured; and how that is kept.

``claim`` calls ``record`` when ``SAR_RECORD`` names the chapter, as it does under ``make run-nb``.
With ``SAR_MEASURED``, a folder, too, what is measured is kept there instead, whatever comes out: so
do ``make spread``, for numeric environments, and ``sar measure``, for a reader's machine.
"""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

import torch

from .. import FULL
from ..errors import expect
from ..tasks.files import locked, write_json
from .claims import LEDGER, Record, Verdict, gathered, hold, ledger, measured_in, meets, stored
from .device import choose_device

ROOT = LEDGER.parents[1]


def claim(
    id: str, measured: float | Mapping, seeds: Sequence[int] = (), path: Path = LEDGER
) -> Verdict:
    """Hold measurements against the ledger; returns the verdict, for a cell to show.

    measured: name to a number, or to a list of them, one per seed, all of which must meet the
    condition; a bare number where the ledger asks for one measurement only; {} where the verdict
    rests on sources alone. seeds: those that the measurement was made with, where something is
    trained or drawn. With ``SAR_RECORD=<chapter>`` in the environment the measurement is kept.
    Raises KeyError for a claim the ledger does not have, ValueError when the claim is open, the
    names are not the ledger's, a value is not finite or the seeds are too few, ClaimFailed when a
    condition is not met.
    """
    rows = ledger(path)
    if id not in rows:
        raise KeyError(f"{id}: the ledger has {', '.join(rows)}")
    chapter, elsewhere = (os.environ.get(f"SAR_{name}", "") for name in ("RECORD", "MEASURED"))
    chapter *= bool(rows[id].supports)  # there is nothing to keep of what was only looked up
    if chapter and elsewhere:
        record(gathered(rows[id], measured, seeds), chapter, Path(elsewhere))
    verdict = hold(rows[id], measured, seeds)
    if chapter and not elsewhere:
        record(verdict, chapter, path.parent / "measured")
    return verdict


def record(verdict: Verdict, chapter: str, folder: Path) -> None:
    """Keep a measurement in the chapter's own file, in place of its earlier one of that claim.
    Raises ValueError when the ledger does not know that the chapter makes the claim."""
    row = verdict.claim
    its = f"one of its chapters, {', '.join(row.chapters)}"
    expect(chapter in row.chapters, f"{row.id}: SAR_RECORD", its, chapter)
    asked, measured = row.supports, verdict.measured
    values = {name: [_rounded(v, asked[name]) for v in some] for name, some in measured.items()}
    size, seeds = "full" if FULL else "fast", list(verdict.seeds)
    new = Record(chapter, date.today().isoformat(), size, seeds, _device(), _commit(), values)
    file = folder / f"{chapter}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(file.parent, wait=True):  # two at once lose none
        records = {id: stored(r) for id, r in sorted((measured_in(file) | {row.id: new}).items())}
        write_json(file, records, ensure_ascii=False, indent=1)


def _rounded(value: float, condition: str) -> float:
    """To 4 digits, but never so that the condition is met, or is not, by that alone."""
    short = float(f"{value:.4g}") + 0.0  # + 0.0: no minus zero
    return short if meets(short, condition) == meets(value, condition) else value


def _device() -> str:
    """Where a chapter trains: the name of the GPU, or of the CPU and torch's number of threads."""
    device, _ = choose_device()
    version = f"torch {torch.__version__.partition('+')[0]}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {version}"
    if device.type != "cpu":
        return f"{device}, {version}"
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        cpu = names[0] if names else cpu
    threads = torch.get_num_threads()
    return f"CPU, {cpu}, {threads} thread{'s' if threads > 1 else ''}, {version}"


def _commit() -> str:
    """The commit of this checkout, with a + when the package has changes that are not in it."""
    if not (ROOT / ".git").exists():  # installed, perhaps inside a checkout of something else
        return "unknown"

    def answer(*words: str) -> str:
        git = ["git", "-C", str(ROOT), *words]
        return subprocess.check_output(git, text=True, stderr=subprocess.DEVNULL).strip()

    try:
        changed = answer("status", "--porcelain", "--", "sar_minimal")
        return answer("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
