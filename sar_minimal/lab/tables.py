"""Tables: rows as text for the terminal, as Markdown for a page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

Row = dict[str, Any]  # a line of a table: what stands in which column


def as_text(rows: Iterable[Mapping]) -> str:
    """A line a row, a column a key, in the order in which keys come up; "-" where there is none."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_shown(row.get(key)) for key in columns] for row in rows]
    align = ["left"] + ["right"] * (len(columns) - 1)
    return tabulate(cells, columns, "simple", colalign=align, disable_numparse=True)


def _shown(value: object) -> str:
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
