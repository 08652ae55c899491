"""Everything that is timed is timed with these, never in a test.

A machine's speed drifts, so nothing is quoted alone: what is compared runs in turns within one
process, and the figure is the median of the ratios of neighbouring turns.
"""

import statistics
import time
from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def in_turns(
    functions: dict[str, Callable[[], object]], rounds: int = 7, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each function, called a b c, a b c, ..., if ``warm`` after a round that is not
    timed."""
    for function in functions.values() if warm else ():
        function()
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return times


def milliseconds(times: list[float]) -> float:
    """The median, in thousandths."""
    return 1e3 * statistics.median(times)


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def operations(function: Callable[[], object]) -> int:
    """Floating-point operations of one call: its products, as torch counts them. Norms, softmax,
    rotations and the optimiser are not counted. (The counter does not know the CPU's fused
    attention.)"""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function()
    return counter.get_total_flops()
