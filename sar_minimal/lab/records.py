"""Measurements that are kept: what a chapter measured when it last ran, written into the ledger.

``claim`` calls ``record`` when ``SAR_RECORD`` names the chapter, as it does under ``make run-nb``.
"""

import json
import platform
import re
import subprocess
import tomllib
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch

from .. import FULL
from ..checks import Refusal
from ..files import write_atomically
from ..training import choose_device
from .claims import LEDGER, Record, Verdict, meets

ROOT = LEDGER.parents[1]
RECORD = re.compile(
    r'^\[\[claim\.measured\]\]\nchapter = "(.*)"\n(?:\w+ = .*\n)+'
    r"\[claim\.measured\.values\]\n(?:\".*\" = \[.*\](?:\n|\Z))+",
    re.MULTILINE,
)


def record(verdict: Verdict, chapter: str, path: Path = LEDGER) -> None:
    """Write a measurement into the ledger, in place of the chapter's earlier record of that claim.

    All else in the file stays as it is, byte for byte. Raises ValueError when the ledger does not
    know that the chapter makes the claim, or when the earlier record was changed by hand.
    """
    row = verdict.claim
    if chapter not in row.chapters:
        raise Refusal(
            f"{row.id}: SAR_RECORD: expected one of its chapters, {', '.join(row.chapters)}, got {chapter!r}"
        )
    values = {
        name: [_rounded(v, row.supports[name]) for v in numbers]
        for name, numbers in verdict.measured.items()
    }
    new = Record(
        chapter=chapter,
        date=date.today().isoformat(),
        size="full" if FULL else "fast",
        seeds=list(verdict.seeds),
        device=_device(),
        commit=_commit(),
        values=values,
    )
    before = path.read_bytes().decode()  # only now: another chapter may have recorded meanwhile
    after = _replaced(before, row.id, new)
    (rows, _), (rows_after, own) = (_apart_from(t, row.id, chapter) for t in (before, after))
    if rows != rows_after or own != [asdict(new)]:
        raise Refusal(
            f"{path.name}, {row.id}: the record of {chapter} was changed by hand; delete it and run again"
        )
    write_atomically(path, after.encode())


def _replaced(text: str, id: str, new: Record) -> str:
    """The ledger's text with one record replaced, or put in before that of the next chapter."""
    head, *blocks = re.split(r"^(?=\[\[claim\]\])", text, flags=re.MULTILINE)
    at = [row["id"] for row in tomllib.loads(text)["claim"]].index(id)
    block = blocks[at]
    for old in RECORD.finditer(block):
        if old[1] >= new.chapter:
            start, end = old.span() if old[1] == new.chapter else (old.start(), old.start())
            break
    else:  # after the last line that is not empty and no comment: those belong to the next claim
        lines = block.splitlines(keepends=True)
        while lines[-1].lstrip()[:1] in ("", "#"):
            lines.pop()
        start = end = len("".join(lines))
    gap = "" if block[:start].endswith("\n") else "\n"
    blocks[at] = block[:start] + gap + _toml(new) + block[end:]
    return head + "".join(blocks)


def _apart_from(text: str, id: str, chapter: str) -> tuple[list, list]:
    """What the text of a ledger says apart from the records of one claim by one chapter; and those."""
    rows, own = tomllib.loads(text)["claim"], []
    for row in rows:
        if row["id"] == id:
            records = row.pop("measured", [])
            own = [r for r in records if r["chapter"] == chapter]
            row["others"] = [r for r in records if r["chapter"] != chapter]
    return rows, own


def _toml(record: Record) -> str:
    """A string in JSON is one in TOML too, and so is a list of strings or of numbers."""
    fields = asdict(record)
    values = fields.pop("values").items()
    return "".join(
        [
            "[[claim.measured]]\n",
            *(
                f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
                for name, value in fields.items()
            ),
            "[claim.measured.values]\n",
            *(f"{json.dumps(k, ensure_ascii=False)} = {json.dumps(v)}\n" for k, v in values),
        ]
    )


def _rounded(value: float, condition: str) -> float:
    """To 4 digits, but never so that the condition is no longer met."""
    short = float(f"{value:.4g}") + 0.0  # + 0.0: no minus zero
    return short if meets(short, condition) else value


def _device() -> str:
    """Where a chapter trains: the name of the GPU, or of the CPU with the threads that torch uses."""
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
    git = ["git", "-C", str(ROOT)]
    try:
        run = {"capture_output": True, "text": True, "check": True}
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], **run).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "sar_minimal"], **run).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed.strip() else "")
