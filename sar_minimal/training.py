"""One training loop for every model: the order of the batches, the rate, the step.

``fit`` is the loop; ``training_steps`` is the same, one step at a time. What a run keeps on disk,
and how it is stopped and resumed, is in ``lab/runs.py``.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW, Optimizer

from .blocks import Model
from .checks import check_type, check_whole
from .data import Batch, Split, batch_plan, batches
from .errors import expect
from .kinds import loss_of
from .shift import IGNORE

Loss = Callable[..., Tensor]  # of (model, batch), a mean in nats


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises Refusal, naming the field.

    steps: optimiser steps. tokens: at most so many in a batch, padding included. rate: the highest
    learning rate, then down a cosine to 0. warmup: steps until it is reached. decay: AdamW's. clip:
    the largest gradient norm. seed: of the order of batches (``sar train``: of weights and draws
    too). short: so many of the steps come first, on the shortest third of the pairs alone: a model
    that has to find out where in x to look does so sooner where there is little to look at (a
    curriculum, Bengio 2009). report, checkpoint: of ``sar train``, steps between two lines of
    metrics, between two checkpoints. mixed: multiply in bfloat16 and attend by the fused kernels,
    for wide models on a GPU. It is off by default: a GPU then learns what a CPU learns (see
    ``loss_and_gradients``).
    """

    steps: int = 1000
    tokens: int = 1024
    rate: float = 4e-3
    warmup: int = 50
    decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    short: int = 0
    report: int = 100
    checkpoint: int = 500
    mixed: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "report", "checkpoint"):
            check_whole(name, getattr(self, name))
        for name in ("rate", "clip"):
            value = getattr(self, name)
            expect(isinstance(value, int | float) and value > 0, name, "> 0", value)
        expect(self.rate < math.inf, "rate", "a finite number", self.rate)
        fits = isinstance(self.decay, int | float) and 0 <= self.decay < math.inf
        expect(fits, "decay", ">= 0, and finite", self.decay)
        for name in ("warmup", "short"):
            check_whole(name, getattr(self, name), least=0)
        check_whole("seed", self.seed, least=0, most=2**63 - 1)
        expect(isinstance(self.mixed, bool), "mixed", "True or False", self.mixed)
        expect(self.short <= self.steps, "short", f"at most steps = {self.steps}", self.short)

    def rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..., steps - 1."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * done))


def fit(model: Model, data: Iterable[Any], recipe: Recipe, loss: Loss = loss_of) -> list[float]:
    """Train ``model`` in place on ``recipe.steps`` batches; returns the loss of each step.

    data: ``Batch``es, or whatever else ``loss`` takes and has a method ``to``, such as a tensor.
    loss: of (model, batch), a mean in nats. The model ends in evaluation mode. Raises Refusal when
    ``data`` ends before the recipe does.
    """
    check_type(model, Model)
    check_type(recipe, Recipe, "recipe")
    model.train()
    losses = [value for value, _ in training_steps(model, data, recipe, loss=loss)]
    model.eval()
    expected = f"{recipe.steps} batches as in recipe"
    expect(len(losses) == recipe.steps, "data", expected, len(losses))
    return torch.stack(losses).tolist()


def training_steps(
    model: Model,
    data: Iterable[Any],
    recipe: Recipe,
    optimizer: Optimizer | None = None,
    first: int = 0,
    loss: Loss = loss_of,
) -> Iterator[tuple[Tensor, Batch]]:
    """What ``fit`` does, step by step: yields the loss, on the model's device, and the batch.

    optimizer: None makes a new one. first: how many steps of the recipe were made before.
    """
    optimizer = new_optimizer(model, recipe) if optimizer is None else optimizer
    device = next(model.parameters()).device
    for step, batch in zip(range(first, recipe.steps), data, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step)
        value = loss_and_gradients(model, batch.to(device), optimizer, recipe.mixed, loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip, error_if_nonfinite=True)
        optimizer.step()
        yield value.detach(), batch


def new_optimizer(model: Model, recipe: Recipe | None = None) -> AdamW:
    """AdamW (Loshchilov 2019), in one kernel where there is one. recipe: None is ``Recipe()``."""
    recipe, betas = recipe or Recipe(), (0.9, 0.98)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    weights = model.parameters()
    return AdamW(weights, recipe.rate, betas, weight_decay=recipe.decay, fused=fused)


def loss_and_gradients(
    model: Model, batch: Batch, optimizer: Optimizer, mixed: bool = False, loss: Loss = loss_of
) -> Tensor:
    """The loss of one batch, its gradients left in the model.

    Attention is done by plain products: with sequences as short as the book's, a training step on a
    CPU is 1.2 times as fast as with the fused kernels, which are made for long ones. mixed:
    bfloat16, and whatever kernel torch picks.
    """
    plain = nullcontext() if mixed else sdpa_kernel(SDPBackend.MATH)
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed), plain:
        value = loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
    return value


def endless(split: Split, recipe: Recipe, step: int = 0) -> Iterator[Batch]:
    """The batches from ``step`` on: of the shortest third, then of all (``Recipe.short``).

    Raises Refusal, as the first is asked for, if there is no pair."""
    expect(len(split), "split", "at least one pair", len(split))
    if step < recipe.short:
        by_length = sorted(range(len(split)), key=lambda i: len(split.x[i]))
        shortest = split.take(
            sorted(by_length[: max(1, len(split) // 3)])
        )  # in order, at least one
        yield from islice(_passes(shortest, recipe, step), recipe.short - step)
    yield from _passes(split, recipe, max(0, step - recipe.short))


def _passes(split: Split, recipe: Recipe, step: int) -> Iterator[Batch]:
    """Pass after pass over ``split``, each in an order of its own; where y is not as long as x, the
    order decides how many batches it takes."""
    epoch = 0
    while step >= (number := len(batch_plan(split, recipe.tokens, (recipe.seed, epoch)))):
        epoch, step = epoch + 1, step - number
    while True:
        yield from batches(split, recipe.tokens, (recipe.seed, epoch), skip=step)
        epoch, step = epoch + 1, 0


@torch.inference_mode()
def evaluate(model: Model, split: Split, tokens: int = 8192) -> float:
    """The loss over a whole split, in nats per token."""
    expect(len(split), "split", "at least one pair", len(split))
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total, count = 0.0, 0
    for batch in batches(split, tokens):
        total += float(loss_of(model, batch.to(device), "sum"))
        count += int((batch.y != IGNORE).sum())
    model.train(was_training)
    return total / count
