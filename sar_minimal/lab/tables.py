"""Tables: rows as text for the terminal, as Markdown for a page, as JSON while a bench runs."""

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from tabulate import tabulate

from ..files import write_json


def as_text(rows: Iterable[Mapping]) -> str:
    """A line a row, a column a key, in the order in which they come up; "-" where a row lacks
    it."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_shown(row.get(key)) for key in columns] for row in rows]
    align = ["left"] + ["right"] * (len(columns) - 1)
    return tabulate(cells, columns, "simple", colalign=align, disable_numparse=True)


def _shown(value) -> str:
    """
    >>> [_shown(value) for value in (0.13, 130.0, 1234.6, 4412, True, False, None, "jacobi")]
    ['0.130', '130', '1235', '4,412', 'yes', 'NO', '-', 'jacobi']
    """
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def as_markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Not tabulate's: that pads each column to its longest cell, so that one claim in other words
    would change every line of a page that is kept in git."""
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


class Measured(dict):
    """The tables of a bench, by name: each is printed when it is there, and all are written to
    ``path``, if there is one, so that an interruption loses none that was measured. "machine" says
    what they belong to."""

    def __init__(self, path: Path | None, **about):
        about = {"machine": platform.processor() or platform.machine()} | about
        super().__init__(machine=[about | {"torch": version("torch")}])
        self.path, self.began = path, time.perf_counter()
        print("  ".join(f"{key} {value}" for key, value in self["machine"][0].items()))

    @property
    def minutes(self) -> float:
        return (time.perf_counter() - self.began) / 60

    def keep(self, name: str, rows: list[dict]) -> None:
        self[name] = rows
        self["machine"][0]["minutes"] = self.minutes
        if self.path is not None:
            write_json(self.path, self, indent=1)

    def show(self, name: str, rows: list[dict], note: str = "") -> None:
        """Keep and print a table; note: what its columns are."""
        self.keep(name, rows)
        print(f"\n{name.upper()}. {note}\n{as_text(rows)}", flush=True)
