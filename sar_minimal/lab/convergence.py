"""Learned means converged: the one rule by which the book ends the training of what it compares."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

from ..blocks import Model
from .side_by_side import Run, train_all

K = TypeVar("K", bound=Hashable)


def train_until_it_stops(
    runs: Mapping[K, Run],
    cycles: Sequence[int],
    least: float,
    enough: float = 0.0,
    after: Callable[[K, Model], Any] = lambda name, model: None,
) -> dict[K, list[float]]:
    """Train each model, in place, until its validation loss stops falling, all side by side.

    Each of ``cycles`` is a run of so many steps in which the learning rate comes down to 0, so what
    it ends with can be judged; it has a seed of its own, and ``short`` concerns the first. A model
    stops behind a cycle that gained less than ``least`` nats per token (-inf: none stops), or that
    ended below ``enough``; it keeps the weights of its best cycle. Test data choose nothing.

    runs: model, task and recipe, by name; the steps of the recipe do not count. after: called with
    name and model behind each cycle. Returns, by name, the validation loss behind each cycle that
    the model had. Raises what ``train_all`` raises.
    """
    going, best = list(runs), {}
    losses: dict[K, list[float]] = {name: [] for name in runs}
    for cycle, steps in enumerate(cycles):
        plans = []
        for model, task, recipe in (runs[name] for name in going):
            short = 0 if cycle else recipe.short
            own = replace(recipe, steps=steps, short=short, seed=recipe.seed + 10 * cycle)
            plans.append((model, task, own))
        for name, rows in zip(list(going), train_all(plans), strict=True):
            loss, before = rows[-1]["validation"], min(losses[name], default=math.inf)
            losses[name].append(loss)
            after(name, runs[name][0])
            if loss < before:
                best[name] = deepcopy(runs[name][0].state_dict())
            if loss > before - least or loss < enough:
                going.remove(name)
    for name, weights in best.items():
        runs[name][0].load_state_dict(weights)
    return losses


def steps_of_best(losses: Sequence[float], cycles: Sequence[int]) -> int:
    """How many steps the weights had been through that a model keeps."""
    return sum(cycles[: losses.index(min(losses)) + 1])


def still_learning(losses: Mapping[K, Sequence[float]], least: float) -> list[K]:
    """Those that even the last cycle made better by ``least`` or more: there were too few cycles."""
    return [name for name, (*seen, last) in losses.items() if seen and last <= min(seen) - least]
