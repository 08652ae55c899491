"""Shares, with the interval that the luck of the sentences leaves."""

import math
from typing import NamedTuple

import numpy as np


class Rate(NamedTuple):
    """A share or a difference of shares, with its 95 % interval over sentences."""

    value: float
    low: float
    high: float


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
