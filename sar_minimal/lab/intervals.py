"""Shares, with the interval that luck leaves: that of the sentences, or that of the seeds."""

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..errors import expect

# Student's t at 97.5 %, of 1, 2, ... degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Rate(NamedTuple):
    """A share, or a difference of two, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """``f"{rate:+.3f}"`` is "+0.012 [-0.003, +0.027]"."""
        return "{:{form}} [{:{form}}, {:{form}}]".format(*self, form=form or ".3f")


def character_rate(right: np.ndarray, lengths: np.ndarray) -> Rate:
    """Of N sentences, right[i] of lengths[i] characters: a ratio of sums that both vary."""
    rate = float(right.sum() / lengths.sum())
    half = 1.96 * float(np.sqrt(len(right)) * np.std(right - rate * lengths) / lengths.sum())
    return Rate(rate, rate - half, rate + half)


def sentence_rate(whole: np.ndarray) -> Rate:
    """The share of right sentences, whole (N,) in 0..1; Wilson's interval (1927) is never empty."""
    n, p, z = len(whole), float(np.mean(whole)), 1.96
    middle, scale = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n)
    half = scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Rate(p, middle - half, middle + half)


def difference(ours: np.ndarray, theirs: np.ndarray | float) -> Rate:
    """What one has more of the same sentences than the other: the luck of the sentences cancels."""
    apart = np.asarray(ours, float) - theirs
    mean, half = float(apart.mean()), 1.96 * float(np.std(apart)) / math.sqrt(len(apart))
    return Rate(mean, mean - half, mean + half)


def over_seeds(values: Iterable[float]) -> Rate:
    """The mean of one value a seed, 2 to 10 of them, by Student's t (1908): what the luck of the
    weights and of the order of the batches leaves. Of a difference, pair the seeds first."""
    each = [float(v) for v in values]  # of torch or numpy too
    n = len(each)
    expect(2 <= n <= len(T_975) + 1, "values", f"2 to {len(T_975) + 1} of them", n)
    mean = statistics.fmean(each)
    half = T_975[n - 2] * statistics.stdev(each) / math.sqrt(n)
    return Rate(mean, mean - half, mean + half)
