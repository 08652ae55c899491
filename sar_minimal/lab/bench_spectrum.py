"""``sar bench spectrum``: what one pass loses on fourteen tasks, beside what it has to lose.

Theory has no parameter to fit: on a task whose tokens have the total correlation C given x, one
pass loses C nats a sequence, what it draws is possible with a probability that a table says, and
an autoregressive verifier turns down as many of its tokens as another says. Here stand networks
beside that, each beside its own bound: loss, gap = C + excess of one pass - excess of the other is
an identity, so the excesses say how far training came, and correct nothing.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..algorithm1 import DualStreamSAR
from ..autoregressive import EncoderDecoderAR
from ..data import Task
from ..decoding import greedy, log_likelihood, sample
from ..errors import Refusal
from ..kinds import make_model
from ..shift import START, shift_right
from ..tasks import load_task
from ..tasks.answers import Known, known
from ..tasks.applications import APPLICATIONS
from ..training import Recipe
from .convergence import steps_of_best, still_learning, train_until_it_stops
from .tables import Row
from .timing import Measured

SIZE: dict[str, Any] = {"width": 32, "layers": 1, "heads": 4}
RECIPE = Recipe(tokens=640, rate=1e-2, warmup=20)
CYCLES, LEAST = (300, 600, 1200), 0.001  # nats a token
SEEDS = (5, 6, 7, 8, 9)  # 0 to 4 were there when the tolerances were set
GAP, REJECTIONS = (0.02, 0.01), 0.06  # nats and a share of C; tokens
RARE = 0.01  # what a network gives less is a leak: no token that is possible is as rare


class Truth(NamedTuple):
    """x: N different questions, (N, T). each: p(y_t | x), (N, T, V). rows: for every y that is
    possible its question (M,), its tokens (M, T) and p(y | x) (M,). known: the same for every x."""

    x: Tensor
    each: Tensor
    rows: tuple[Tensor, Tensor, Tensor]
    known: Known


def truth_of(task: Task, most: int = 500) -> Truth:
    """What is known of the first ``most`` different questions of the test split."""
    application, together = APPLICATIONS[task.options["application"]], task.options["together"]
    xs = list(dict.fromkeys(map(tuple, task.test.x)))[:most]
    rows: list[tuple[int, list[int], float]] = []
    for i, x in enumerate(xs):
        texts = application.answers(task.source.decode(x), together)
        rows += [(i, task.target.encode(y), p) for y, p in texts.items()]
    owner, ys, chances = zip(*rows, strict=True)
    of, y, p = torch.tensor(owner), torch.tensor(ys), torch.tensor(chances, dtype=torch.float64)
    each, t = torch.zeros(len(xs), y.shape[1], len(task.target)).double(), torch.arange(y.shape[1])
    each.index_put_((of[:, None], t, y), p[:, None].expand_as(y), accumulate=True)
    return Truth(torch.tensor(xs), each, (of, y, p), known(texts))


@torch.inference_mode()
def scored(
    sar: DualStreamSAR, ar: EncoderDecoderAR, task: Task, generator: torch.Generator
) -> dict[str, float]:
    """gap, excesses: nats a sequence, exact over y, for up to 500 different x. valid: the share of
    one draw for each test x that is possible, tokens below ``RARE`` cut. rejections: of the tokens
    that one pass drafts, how many the trained model turns down, in the mean over its own draws.
    maximum: the share of what each says by maximum that is possible."""
    truth = truth_of(task)
    of, y, p = truth.rows
    log_q = sar(truth.x).double().log_softmax(-1)  # (N, T, V)
    loss_one = -float(torch.where(truth.each > 0, truth.each * log_q, 0.0).sum()) / len(truth.x)
    log_p = log_likelihood(ar, truth.x[of], y).double().sum(1)
    loss_each = -float((p * log_p).sum()) / len(truth.x)
    x = torch.tensor(task.test.x)
    q = sar(x).softmax(-1)
    cut = torch.where(q < RARE, 0.0, q)
    drawn = torch.multinomial(cut.flatten(0, 1), 1, generator=generator).view(q.shape[:2])
    kept = torch.minimum(conditionals(ar, x, sample(ar, x, generator=generator).tokens), q).sum(-1)
    H, C = truth.known.entropy, truth.known.correlation
    return {
        "gap": loss_one - loss_each,
        "excess, one pass": loss_one - H - C,
        "excess, step by step": loss_each - H,
        "valid": possible(task, drawn),
        "rejections": float((1 - kept).sum(1).mean()),
        "maximum, one pass": possible(task, q.argmax(-1)),
        "maximum, step by step": possible(task, greedy(ar, x).tokens),
    }


def possible(task: Task, y: Tensor) -> float:
    """The share of answers y (N, T) to the questions of the test split that p(y | x) > 0 has."""
    application, together = APPLICATIONS[task.options["application"]], task.options["together"]
    hits = 0
    for question, said in zip(task.test.x, y.tolist(), strict=True):
        texts = application.answers(task.source.decode(question), together)
        hits += tuple(task.target.decode(said)) in texts
    return hits / len(y)


def conditionals(ar: EncoderDecoderAR, x: Tensor, y: Tensor) -> Tensor:
    """p(. | y_<t, x) at each position of y (B, T): (B, T, V)."""
    state, _, _ = ar.start(x, torch.full((len(x),), x.shape[1]), y.shape[1])
    return ar.step(shift_right(y, START), state).softmax(-1)


class Trained(NamedTuple):
    """tasks: by seed. models, losses: by kind, "ar" or "sar", and seed."""

    tasks: dict[int, Task]
    models: dict[tuple[str, int], Any]
    losses: dict[tuple[str, int], list[float]]


def trained(
    application: str, together: bool, seeds: Sequence[int], cycles: Sequence[int] = CYCLES
) -> Trained:
    """Both kinds on one task, all seeds side by side, until validation stops or ``cycles`` end."""
    options = {"application": application, "together": together}
    tasks = {seed: load_task("application", **options, seed=seed) for seed in seeds}
    models = {
        (kind, seed): make_model(kind, tasks[seed], seed, **SIZE, **own)
        for (kind, own), seed in product((("ar", {}), ("sar", {"mask": "full"})), seeds)
    }  # the slow ones first
    runs = {at: (m, tasks[at[1]], replace(RECIPE, seed=at[1])) for at, m in models.items()}
    return Trained(tasks, models, train_until_it_stops(runs, cycles, LEAST))


def points(
    application: str, together: bool, seeds: Sequence[int], cycles: Sequence[int] = CYCLES
) -> list[Row]:
    """Train both kinds on one task, and score the pair of each seed: a row a seed."""
    tasks, models, losses = trained(application, together, seeds, cycles)
    late, rows = still_learning(losses, LEAST), []
    for seed, task in tasks.items():
        exact, generator = truth_of(task, 1).known, torch.Generator().manual_seed(seed)
        row: Row = {"task": application, "together": together, "seed": seed}
        row |= {"H": exact.entropy, "C": exact.correlation, "valid, exact": exact.valid}
        row |= {"rejections, exact": exact.rejections}
        row |= scored(models["sar", seed], models["ar", seed], task, generator)
        for name, kind in (("one pass", "sar"), ("step by step", "ar")):
            row[f"steps, {name}"] = steps_of_best(losses[kind, seed], cycles)
            row[f"still learning, {name}"] = (kind, seed) in late
        rows.append(row)
    return rows


def summary(rows: Sequence[Row]) -> list[Row]:
    """A row a task: means over seeds, and whether they lie within the tolerances."""
    found, draws = [], 2000
    for task, together in dict.fromkeys((r["task"], r["together"]) for r in rows):
        some = [r for r in rows if (r["task"], r["together"]) == (task, together)]
        mean = {k: statistics.fmean(r[k] for r in some) for k in ("gap", "valid", "rejections")}
        C, valid = some[0]["C"], some[0]["valid, exact"]
        error = 2 * math.sqrt(valid * (1 - valid) / draws)
        within = {
            "gap": abs(mean["gap"] - C) <= GAP[0] + GAP[1] * C,
            "valid": abs(mean["valid"] - valid) <= error + 1e-9,
            "rejections": abs(mean["rejections"] - some[0]["rejections, exact"]) <= REJECTIONS,
        }
        row: Row = {"task": f"{task}, {'together' if together else 'apart'}", "C": C}
        for name in mean:
            exact = C if name == "gap" else some[0][f"{name}, exact"]
            row |= {f"{name}, exact": exact, name: mean[name], f"{name} within": within[name]}
        found.append(row | {"seeds": len(some)})
    return found


def bench_spectrum(
    json_path: Path | None = None, seeds: Sequence[int] = SEEDS, tasks: Sequence[str] = ()
) -> Measured:
    """Train and score every task that ``json_path`` does not have yet, so a second call goes on
    where a first was stopped; print and keep a table. tasks: of ``APPLICATIONS``, all if none.
    Raises Refusal where the file holds points of other settings."""
    settings = {"size": SIZE, "recipe": vars(RECIPE), "cycles": CYCLES, "least": LEAST}
    settings = json.loads(json.dumps(settings | {"seeds": list(seeds)}))
    rows = _kept(json_path, settings)
    tables = Measured(json_path, settings=settings)
    wanted = [(t, w) for t in tasks or APPLICATIONS for w in (False, True)]
    done = {(r["task"], r["together"]) for r in rows}
    for task, together in tqdm(wanted, unit="task", disable=None):
        if (task, together) not in done:
            rows += points(task, together, seeds)
            tables.keep("spectrum", rows)
    tables.show("summary", summary(rows), NOTES)
    return tables


def _kept(path: Path | None, settings: dict[str, Any]) -> list[Row]:
    if path is None or not path.exists():
        return []
    try:
        kept = json.loads(path.read_bytes())
        theirs, rows = kept["machine"][0]["settings"], kept["spectrum"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise Refusal(f"{path}: expected points of sar bench spectrum ({error!r})") from error
    if theirs != settings:
        raise Refusal(f"{path}: holds points of other settings, {theirs}; name another file")
    return rows


NOTES = {
    "summary": "Means over seeds. C: total correlation given x, nats a sequence, exact; gap: the loss "
    "of one pass less that of step by step; valid: the share of draws of one pass that are possible; "
    "rejections: tokens of one pass that the autoregressive model turns down, a sequence."
}
