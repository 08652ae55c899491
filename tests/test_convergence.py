"""The rule that ends a training: when it stops, what it keeps, and that it is the same for all."""

from math import inf

import pytest
import torch
from laws import TINY

from sar_minimal.kinds import make_model
from sar_minimal.lab import convergence
from sar_minimal.lab.convergence import steps_of_best, still_learning, train_until_it_stops
from sar_minimal.lab.intervals import over_seeds
from sar_minimal.lab.side_by_side import train_all
from sar_minimal.tasks import load_task
from sar_minimal.training import Recipe, evaluate

TASK = load_task("reverse", **TINY)
SIZE = {"width": 16, "layers": 1, "heads": 2, "max_length": 8}
LOSSES = {
    "falls, then a little": [3.0, 2.0, 1.99],
    "falls to the end": [3.0, 2.0, 1.0, 0.5],
    "rises": [3.0, 2.0, 2.5],
    "is low at once": [0.01],
}


@pytest.fixture
def scripted(monkeypatch):
    """Trainings whose losses are those of LOSSES, and whose weights say behind which cycle they are."""
    asked, names = [], {}

    def train_all(plans):
        found = []
        for model, _, recipe in plans:
            cycle = sum(m is model for m, _ in asked)
            asked.append((model, recipe))
            with torch.no_grad():
                model.embed.fill_(cycle)
            found.append([{"validation": 9.0}, {"validation": LOSSES[names[id(model)]][cycle]}])
        return found

    monkeypatch.setattr(convergence, "train_all", train_all)
    runs = {name: (make_model("lm", TASK, 0, **SIZE), TASK, Recipe(7, short=3, seed=4)) for name in LOSSES}  # fmt: skip
    names |= {id(run[0]): name for name, run in runs.items()}
    return runs, asked


def test_when_it_stops_and_what_it_keeps(scripted):
    """Behind the first cycle that gains less than least, or that ends below enough; the best weights."""
    runs, seen = scripted[0], []
    losses = train_until_it_stops(
        runs, (10, 20, 30, 40), 0.1, 0.05, lambda *which: seen.append(which)
    )
    assert losses == LOSSES
    kept = {name: int(model.embed.mean()) for name, (model, _, _) in runs.items()}
    assert list(kept.values()) == [2, 3, 1, 0]
    assert [steps_of_best(row, (10, 20, 30, 40)) for row in losses.values()] == [60, 100, 30, 10]
    assert still_learning(losses, 0.1) == ["falls to the end"]
    assert [name for name, _ in seen][:4] == list(LOSSES) and len(seen) == sum(map(len, LOSSES.values()))  # fmt: skip


def test_each_cycle_is_a_run_of_its_own(scripted):
    runs, asked = scripted
    train_until_it_stops(runs, (10, 20), 0.1, enough=0.05)
    mine = [recipe for model, recipe in asked if model is runs["rises"][0]]
    assert [(r.steps, r.short, r.seed) for r in mine] == [(10, 3, 4), (20, 0, 14)]


def test_without_a_least_gain_all_cycles_are_had(scripted):
    runs, asked = scripted
    del runs["is low at once"]
    train_until_it_stops(runs, (10, 20, 30), -inf)
    assert len(asked) == 9


def test_a_model_keeps_what_its_validation_says():
    """Without a script: the weights kept have the lowest loss of those that were measured."""
    split = {"a": make_model("ar", TASK, 0, **SIZE), "b": make_model("sar", TASK, 1, **SIZE)}
    runs = {name: (m, TASK, Recipe(tokens=40, warmup=2, rate=0.05)) for name, m in split.items()}
    losses = train_until_it_stops(runs, (6, 6, 6), -inf)
    for name, model in split.items():
        assert evaluate(model, TASK.validation) == pytest.approx(min(losses[name]), abs=1e-6)


def test_one_cycle_is_a_training():
    once, cycle = (make_model("ar", TASK, 0, **SIZE) for _ in range(2))
    train_all([(once, TASK, Recipe(6, tokens=40, warmup=2))])
    train_until_it_stops({0: (cycle, TASK, Recipe(tokens=40, warmup=2))}, (6,), 0.1)
    assert all(map(torch.equal, once.state_dict().values(), cycle.state_dict().values()))


def test_interval_over_seeds():
    """Student's t by hand: of 1, 2, 3, 4, 5 the mean is 3 and the standard error sqrt(.5)."""
    rate = over_seeds(torch.arange(1.0, 6.0))
    assert rate == pytest.approx((3.0, 3 - 2.776 * 0.5**0.5, 3 + 2.776 * 0.5**0.5))
    assert f"{rate:+.2f}" == "+3.00 [+1.04, +4.96]" and f"{over_seeds([1, 2])}"[:5] == "1.500"
    for few in ([], [1.0], [0.0] * 11):
        with pytest.raises(ValueError, match="values: expected 2 to 10 of them, got"):
            over_seeds(few)
