"""Seven applications as pairs of tasks: closed forms, brute force over tables, and that draws follow them."""

import math
import random
from collections import Counter
from itertools import product

import pytest

from sar_minimal.tasks import load_task
from sar_minimal.tasks.answers import known
from sar_minimal.tasks.applications import APPLICATIONS

ln = math.log
H_THIRD = ln(3) - 2 / 3 * ln(2)
# H of both, then of the one whose tokens hang together: TC, share of possible draws, tokens turned down.
CLOSED = {
    "translation": (ln(3), 2 * ln(3) + 2 * H_THIRD, 8 / 243, 20 / 9),
    "summary": (ln(3), 2 * ln(3), 1 / 9, 4 / 3),
    "dialogue": (1.5 * ln(2), 3 * 1.5 * ln(2), 0.5**4 + 2 * 0.25**4, 3 * (1 - 0.5**2 - 2 * 0.25**2)),
    "questions": (ln(6), 3 * ln(3) - ln(6), 6 / 27, 1.0),
    "rewriting": (2 * ln(2), 3 * ln(4), 4.0**-3, 9 / 4),
    "speech": (ln(2), 2 * ln(2), 1 / 4, 1.0),
    "captions": (ln(24), 4 * ln(4) - ln(24), 24 / 256, 1.5),
}  # fmt: skip
PAIRS = list(product(APPLICATIONS, (False, True)))


def by_sums(texts):
    """``known`` once more, by plain sums over all V^T sequences."""
    T = len(next(iter(texts)))
    at = [Counter() for _ in range(T)]
    for y, p in texts.items():
        for t in range(T):
            at[t][y[t]] += p
    H = -sum(p * ln(p) for p in texts.values() if p)
    every = {y: math.prod(q[v] for q, v in zip(at, y, strict=True)) for y in product(*at)}
    C = sum(p * ln(p / every[y]) for y, p in texts.items() if p)
    turned = 0.0
    for t in range(T):
        for past in {y[:t] for y in texts}:
            here = sum(p for y, p in texts.items() if y[:t] == past)
            given = Counter()
            for y, p in texts.items():
                if y[:t] == past and here:
                    given[y[t]] += p / here
            turned += here * 0.5 * sum(abs(given[v] - at[t][v]) for v in at[t])
    return H, C, sum(every[y] for y, p in texts.items() if p), turned


def tables(number=40):
    """Tables drawn at random, some with answers that never come, one with a single answer."""
    rng = random.Random(0)
    for n in range(number):
        T, V = rng.randint(1, 4), rng.randint(1, 3)
        every = list(product("abc"[:V], repeat=T))
        some = rng.sample(every, rng.randint(1, len(every)))
        p = [rng.random() ** 4 * (rng.random() < 0.8) + 1e-3 * (i == 0) for i in range(len(some))]
        yield n, {y: v / sum(p) for y, v in zip(some, p, strict=True)}


@pytest.mark.parametrize(("application", "together"), PAIRS)
def test_closed_forms(application, together):
    """The same for every x, and the same entropy in both of a pair."""
    rng, of = random.Random(3), APPLICATIONS[application]
    H, C, valid, rejections = CLOSED[application]
    expected = (H, C, valid, rejections) if together else (H, 0.0, 1.0, 0.0)
    for _ in range(100):
        found = vars(known(of.answers(of.ask(rng), together)))
        assert tuple(found.values()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "texts"), list(tables()))
def test_known_by_plain_sums(n, texts):
    found = known(texts)
    assert tuple(vars(found).values()) == pytest.approx(by_sums(texts), abs=1e-12)
    T = len(next(iter(texts)))
    assert found.valid >= math.exp(-found.correlation) - 1e-12  # Jensen
    assert found.rejections <= math.sqrt((T - 1) * max(found.correlation, 0) / 2) + 1e-9  # Pinsker


@pytest.mark.parametrize(("application", "together"), PAIRS)
def test_draws_follow_the_table(application, together):
    """What is drawn is possible, as often as the table says; both of a pair ask the same."""
    task, other = (load_task("application", application=application, together=way, sizes=(8000, 10, 10), seed=4)
                   for way in (together, not together))  # fmt: skip
    assert task.train.x == other.train.x and task.source == other.source
    of, times, expected = APPLICATIONS[application], Counter(), Counter()
    for x, y in zip(task.train.x, task.train.y, strict=True):
        texts = of.answers(task.source.decode(x), together)
        assert len(x) == len(y)
        for rank, (text, p) in enumerate(texts.items()):
            expected[rank] += p
            times[rank] += text == tuple(task.target.decode(y))
    assert sum(times.values()) == 8000
    for rank, mean in expected.items():
        assert abs(times[rank] - mean) < 5 * math.sqrt(mean * (1 - mean / 8000)) + 1e-9
    assert set(range(4, len(task.target))) == set().union(*task.train.y)


def test_seeds_and_splits():
    one, again, other = (load_task("application", sizes=(20, 5, 5), seed=s) for s in (0, 0, 1))
    assert one.train == again.train != other.train
    assert one.options == {
        "application": "translation",
        "together": True,
        "sizes": (20, 5, 5),
        "seed": 0,
    }


def test_wrong_input():
    for options, message in (
        (
            {"application": "poetry"},
            "application: expected one of translation, summary, .* got 'poetry'",
        ),
        ({"together": 1}, "together: expected True or False, got 1"),
        ({"length": 3}, "option 'length': application has no such option"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task("application", **options)
    for texts, message in (
        ({("a",): 0.5, ("b", "a"): 0.5}, r"texts: expected answers of one length, got \[1, 2\]"),
        ({("a",): 0.5}, "texts: expected probabilities that sum to 1, got 0.5"),
        ({("a",): 1.5, ("b",): -0.5}, "texts: expected probabilities that sum to 1"),
        ({}, "texts: expected answers of one length"),
    ):
        with pytest.raises(ValueError, match=message):
            known(texts)
