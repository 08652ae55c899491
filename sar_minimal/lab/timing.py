"""Everything that is timed is timed with these, never in a test.

A machine's speed drifts, so nothing is quoted alone: what is compared runs in turns within one
process, and the figure is the median of the ratios of neighbouring turns.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..tasks.files import write_json
from .tables import Row, as_text

T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What one call returns, and how many seconds it takes."""
    began = time.perf_counter()
    made = function()
    return made, time.perf_counter() - began


def seconds(function: Callable[[], object]) -> float:
    return timed(function)[1]


def in_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int = 7, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each function, called a b c, a b c, ...; warm: after a round that is not timed."""
    for function in functions.values() if warm else ():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return times


def milliseconds(times: Sequence[float]) -> float:
    """The median, in thousandths."""
    return 1e3 * statistics.median(times)


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def operations(function: Callable[[], object]) -> int:
    """Floating-point operations of one call: its products, as torch counts them, not norms, softmax,
    rotations and the optimiser. (The counter does not know the CPU's fused attention.)"""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function()
    return counter.get_total_flops()


class Measured(dict[str, list[Row]]):
    """The tables of a bench, by name: each is printed when it is there, and all are written to
    ``path``, if there is one, so that an interruption loses none that was measured. "machine" says
    what they belong to."""

    def __init__(self, path: Path | None, **about: Any) -> None:
        about = {"machine": platform.processor() or platform.machine()} | about
        super().__init__(machine=[about | {"torch": version("torch")}])
        self.path, self.began = path, time.perf_counter()
        print("  ".join(f"{key} {value}" for key, value in self["machine"][0].items()))

    @property
    def minutes(self) -> float:
        return (time.perf_counter() - self.began) / 60

    def keep(self, name: str, rows: list[Row]) -> None:
        self[name] = rows
        self["machine"][0]["minutes"] = self.minutes
        if self.path is not None:
            write_json(self.path, self, indent=1)

    def show(self, name: str, rows: list[Row], notes: Mapping[str, str]) -> None:
        """Keep and print a table; notes: by the name of a table, what its columns are."""
        self.keep(name, rows)
        print(f"\n{name.upper()}. {notes[name]}\n{as_text(rows)}", flush=True)
