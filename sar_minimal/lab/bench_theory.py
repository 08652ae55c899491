"""``sar bench theory``: trained models against exact bounds."""

from collections.abc import Iterator
from typing import Any

from ..bounds import above_bound
from ..kinds import make_model
from ..tasks import load_task
from ..tasks.exact import language_of
from ..training import Recipe
from .runs import train
from .tables import Row


def bench_theory(steps: int = 3500, length: int = 6) -> Iterator[Row]:
    """Algorithm 1 with both masks and the encoder-decoder, trained on the homophone language: how
    far above its exact bound is each (law 9), and after how many seconds?"""
    task = load_task("homophone", length=length, sizes=(steps * 1024 // length, 1, 1))
    recipe = Recipe(steps=steps, tokens=1024, rate=4e-3)
    kinds: list[tuple[str, dict[str, Any]]] = [("sar", {"mask": m}) for m in ("causal", "full")]
    for kind, options in [*kinds, ("ar", {})]:
        model = make_model(kind, task, width=64, layers=2, heads=4, **options)
        metrics = train(model, task, recipe, progress=False)
        name = type(model).__name__ + "".join(f", {k} {v}" for k, v in options.items())
        row = {"theory": name, "seconds": metrics[-1]["seconds"]}
        yield row | above_bound(model, language_of(task), length)
