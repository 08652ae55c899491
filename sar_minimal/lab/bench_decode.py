"""``sar bench decode``: what each decoder costs, for what length, for how many at once, why.

Guesses that hold save steps, so the models are trained (for a moment) on texts as long as those
they decode, and how many characters come out right stands beside every speed. Ratios are medians
over turns (``timing.py``). Why parallel decoding stops paying: ``bench_step.py``.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..algorithm1 import DualStreamSAR, one_pass
from ..blocks import Block
from ..checks import check_whole
from ..data import SPECIALS, Decoded, Split, Task, accuracy
from ..decoding import beam, greedy
from ..errors import Refusal, expect
from ..kinds import make_model
from ..masked import mask_predict
from ..speculation import draft_and_verify, jacobi
from ..tasks import load_task
from ..tasks.files import package_folder, write_atomically
from ..training import Recipe
from .bench_speed import bench_greedy
from .bench_step import Models, compiled_rows, step_rows
from .demo import flagship
from .device import choose_device
from .runs import train
from .tables import Row, as_text
from .timing import Measured, in_turns, milliseconds, ratio, timed

FASTER, BARE, OVER = "times as fast as greedy", "one pass / bare forward", "over budget"
DRAFT, PEER = "draft and verify", "greedy / transformers"
GOALS = {PEER: 5.0, DRAFT: 2.5, BARE: 1.3}  # at least; BARE: at most
TIE = 1e-4  # nats: two tokens that are nearer than this are told apart by rounding


@dataclass(frozen=True)
class Grid:
    """What is measured. Raises ValueError, naming the field.

    lengths: T. batches: B. threads: of torch. steps: of training, for each of three models, see
    ``flagships``. budget: seconds; a decoder that is predicted to take longer for one call is left
    out of that cell. rounds: of turns, fewer where all decoders together would take longer than the
    budget. sizes: sentences of the task that the documents are joined from.
    """

    lengths: tuple[int, ...] = (8, 32, 128, 512)
    batches: tuple[int, ...] = (1, 16, 64, 256)
    threads: tuple[int, ...] = (1, 2)
    steps: int = 300
    budget: float = 8.0
    rounds: int = 5
    sizes: tuple[int, int, int] = (60_000, 0, 12_500)

    def __post_init__(self) -> None:
        for name in ("lengths", "batches", "threads"):
            values = getattr(self, name)
            if not values:
                raise Refusal(f"{name}: expected at least one number, got none")
            for value in values:
                check_whole(name, value)
            expect(list(values) == sorted(set(values)), name, "each once, in rising order", values)
        for name in ("steps", "rounds"):
            check_whole(name, getattr(self, name))
        expect(self.budget > 0, "budget", "seconds > 0", self.budget)


SMALL_GRID = Grid((8, 64), (1, 16, 64), (1,), steps=150, budget=2.0, rounds=3)

Decoder = Callable[[Models, Tensor], Decoded]
DECODERS: dict[str, Decoder] = {
    "greedy": lambda m, x: greedy(m.ar, x),
    "one pass": lambda m, x: one_pass(m.sar, x),
    "jacobi": lambda m, x: jacobi(m.ar, x),
    "mask-predict 4": lambda m, x: mask_predict(m.masked, x, iterations=4),
    "mask-predict 10": lambda m, x: mask_predict(m.masked, x, iterations=10),
    DRAFT: lambda m, x: draft_and_verify(m.ar, x, m.sar),
    "beam 4": lambda m, x: beam(m.ar, x),
}
EXACT = ("jacobi", DRAFT)  # have the tokens of greedy


# ------------------------------------------------------------- texts and models
def documents(split: Split, lengths: list[int]) -> Split:
    """One document of each length: sentences of ``split`` in order, joined, the last one cut. Each
    begins with a sentence, none is in two documents. Raises ValueError if there are too few."""
    pairs, xs, ys = zip(split.x, split.y, strict=True), [], []
    for n in lengths:
        x: list[int] = []
        y: list[int] = []
        while len(x) < n:
            more = next(pairs, None)
            if more is None:
                most = f"{sum(map(len, split.x))} tokens in all, those of the split"
                raise Refusal(f"lengths: expected at most {most}, got {sum(lengths)}")
            x, y = x + more[0], y + more[1]
        xs.append(x[:n])
        ys.append(y[:n])
    return Split(xs, ys)


def flagships(grid: Grid) -> tuple[Task, Models, dict[str, float]]:
    """The task, its three models of flagship size, and the seconds that each took to train.

    Two thirds of the steps are on the shortest third of the documents. Without that, an
    autoregressive model has not found the source after 400 steps on documents of 8 to 512 (0.14 to
    0.28 of characters right, where one pass has 0.80 to 0.85). ``task.test`` keeps its sentences.
    """
    task = load_task("pinyin", lexicon=300, sizes=grid.sizes)
    high = max(grid.lengths)
    documented = replace(task, train=_spread(task.train, min(grid.lengths), high))
    recipe = Recipe(steps=grid.steps + grid.steps // 2, short=grid.steps, tokens=max(1024, high))
    models: dict[str, Any] = {}
    spent: dict[str, float] = {}
    for kind in Models._fields:  # room: <s> and all of y
        model = make_model(kind, task, max_length=high + 1, **flagship(kind))
        spent[kind] = train(model, documented, recipe, progress=False)[-1]["seconds"]
        models[kind] = model.cpu()
    return documented, Models(**models), spent


def _spread(split: Split, low: int, high: int) -> Split:
    """Documents of the whole split, their lengths evenly over the logarithm of low..high."""
    generator, tokens = torch.Generator().manual_seed(0), sum(map(len, split.x))
    lengths: list[int] = []
    while True:
        n = round(low * (high / low) ** float(torch.rand((), generator=generator)))
        tokens -= n + max(map(len, split.x))  # what a document takes, with what is cut off it
        if tokens < 0:
            return documents(split, lengths)
        lengths.append(n)


# ------------------------------------------------------------- the grid
@contextmanager
def positions_read(models: Models) -> Iterator[list[int]]:
    """Collects how many positions each pass of a decoder takes through its layers. An encoder's do
    not count: it reads x once, whoever decodes."""
    read: list[int] = []

    def count(_: object, inputs: tuple[Tensor, ...]) -> None:
        read.append(inputs[0][..., 0].numel())

    layers = (models.ar.layers, models.sar, models.masked)
    firsts = [next(m for m in some.modules() if isinstance(m, Block)) for some in layers]
    with ExitStack() as hooks:
        for first in firsts:
            hooks.enter_context(first.register_forward_pre_hook(count))
        yield read


def cell(models: Models, test: Split, B: int, grid: Grid, last: dict[str, tuple]) -> list[Row]:
    """One row per decoder, for documents of one length T, B at a time.

    A call decodes all of ``test`` (a multiple of B documents). last: each decoder's (B, seconds per
    batch) at the next smaller B, kept up to date here: it predicts how long a call takes.
    """
    xs = torch.tensor(test.x, device=next(models.sar.parameters()).device).split(B)
    calls: dict[str, Any] = {n: partial(_decode, models, d, xs) for n, d in DECODERS.items()}
    calls["bare forward"] = partial(_forward, models.sar, xs)
    cost = {"T": len(test.x[0]), "B": B, "threads": torch.get_num_threads()}
    rows: dict[str, Row] = {name: {"decoder": name} | cost for name in calls}
    decoded, work, times = {}, {}, {}
    for name, call in calls.items():
        smaller, once = last.get(name, (B, 0.0))
        if (predicted := once * B / smaller * len(xs)) > grid.budget:
            rows[name][OVER] = predicted
            continue
        with positions_read(models) as read:
            decoded[name], spent = timed(call)
        times[name], work[name] = [spent], sum(read) / sum(map(len, test.x))
    together = sum(spent for (spent,) in times.values())  # 0: no decoder is within the budget
    rounds = min(grid.rounds, int(grid.budget / together)) if together else 0
    if rounds:  # a round that takes so long has no use for another one to warm up
        times = in_turns({name: calls[name] for name in times}, rounds, warm=False)
    last |= {n: (B, statistics.median(t) / len(xs)) for n, t in times.items()}
    bare, slow = times.pop("bare forward", None), times.get("greedy")
    for name, took in times.items():
        row, ms = rows[name], milliseconds(took) / len(xs)
        row |= {"ms": ms, "tokens a second": 1e3 * B * row["T"] / ms}
        row[FASTER] = ratio(slow, took) if slow else None
        row["steps"] = statistics.mean(d.steps for d in decoded[name])
        tokens = torch.cat([d.tokens for d in decoded[name]]).tolist()
        row |= {"work": work[name], "characters": accuracy(tokens, test.y)[0]}
        row["rounds"] = max(rounds, 1)
        if name in EXACT and slow:
            row["same"], row["gap"] = agreement(decoded["greedy"], decoded[name])
        if name == "one pass" and bare:
            row[BARE] = ratio(took, bare)
    return [rows[name] for name in DECODERS]


def _decode(models: Models, decode: Decoder, xs: Sequence[Tensor]) -> list[Decoded]:
    decoded = [decode(models, x) for x in xs]
    decoded[-1].tokens.cpu()  # waits for a GPU; so below
    return decoded


@torch.inference_mode()
def _forward(sar: DualStreamSAR, xs: Sequence[Tensor]) -> None:
    logits = [sar(x) for x in xs]
    logits[-1][..., 0].cpu()


def agreement(one: list[Decoded], other: list[Decoded]) -> tuple[float, float]:
    """Of two decodings of the same rows: the share of equal tokens, and how far apart in nats the
    two tokens are where a row differs first (the largest; 0 if none does). Then rows part."""
    a, b = (torch.cat([d.tokens for d in decoded]) for decoded in (one, other))
    p, q = (torch.cat([d.log_probs for d in decoded]) for decoded in (one, other))
    apart = a != b
    first = apart.float().argmax(1, keepdim=True)  # or 0
    gap = (p - q).abs().gather(1, first)[apart.any(1)]
    return float((~apart).float().mean()), float(gap.max()) if len(gap) else 0.0


def cells(models: Models, test: Split, grid: Grid) -> Iterator[list[Row]]:
    """``cell`` for all of the grid, at each number of threads."""
    for threads in grid.threads:
        torch.set_num_threads(threads)
        for T in grid.lengths:
            last: dict[str, tuple] = {}
            for B in grid.batches:
                yield cell(models, documents(test, [T] * B * calls_of(B, T)), B, grid, last)


def calls_of(B: int, T: int) -> int:
    """How many batches of B documents make one figure: one text is luck, 2048 tokens less so."""
    return max(1, min(32, 2048 // (B * T)))


# ------------------------------------------------------------- the goals
def goals(rows: list[Row], peers: list[Row]) -> list[Row]:
    """The goals for one text at a time: what was measured, whether it is met and by how much."""
    ours = "transformers / ours"
    alone = [row for row in rows if row["B"] == 1]
    measured = [(PEER, r, r[ours]) for r in peers if r["greedy, batch"] == 1 and ours in r]
    measured += [(DRAFT, r, r[FASTER]) for r in alone if r["decoder"] == DRAFT and r.get(FASTER)]
    measured += [(BARE, r, r[BARE]) for r in alone if BARE in r]
    judged = []
    for goal, row, value in measured:
        asked, gap = GOALS[goal], row.get("gap", 0.0)
        sign, share = ("<=", asked / value) if goal == BARE else (">=", value / asked)
        but = f", but tokens differ by {gap:.1g} nats" if gap > TIE else ""
        line = {"goal": f"{goal} {sign} {asked}", "T": row.get("T"), "threads": row["threads"]}
        line |= {"measured": value, "met": share >= 1 and not but}
        judged.append(line | {"by": f"{100 * (share - 1):+.0f} %{but}"})
    return judged


def pays_until(rows: list[Row]) -> list[Row]:
    """The largest B at which a decoder beats greedy, for each length and number of threads."""
    faster: dict[tuple, dict[int, float]] = defaultdict(dict)
    lines: dict[tuple, Row] = {}
    for row in rows:
        if row["decoder"] not in ("greedy", "beam 4") and row.get(FASTER):
            faster[row["threads"], row["decoder"], row["T"]][row["B"]] = row[FASTER]
    for (threads, decoder, T), at in faster.items():
        line = lines.setdefault((threads, decoder), {"decoder": decoder, "threads": threads})
        paying = [B for B, times in at.items() if times > 1]
        plus = "+" * (max(at) in paying)
        line[f"T {T}"] = f"{max(paying)}{plus}" if paying else "never"
    return list(lines.values())


# ------------------------------------------------------------- the whole
def bench_decode(
    grid: Grid | None = None,
    json_path: Path | None = None,
    png_path: Path | None = None,
    compiled: bool = False,
) -> Measured:
    """Measure, print the tables, which are returned by name; write and draw them where asked.

    On ``choose_device``'s device. With a GPU only the decoders are compared there: the other tables
    are about the CPU (SAR_DEVICE=cpu). compiled: also what torch.compile and CUDA graphs do, which
    takes a minute or more to compile. Raises MissingPackage before anything is measured if a figure
    is asked for and matplotlib is not installed.
    """
    grid, (device, _) = grid or Grid(), choose_device()
    if png_path is not None:
        package_folder("matplotlib", "book")
    on_cpu = device.type == "cpu"
    grid = grid if on_cpu else replace(grid, threads=grid.threads[:1])
    torch.set_num_threads(max(grid.threads))
    tables = Measured(json_path, **asdict(grid), device=str(device))
    task, models, spent = flagships(grid)
    row: Row = {f"{kind}, seconds": s for kind, s in spent.items()}
    row["hanzi"] = len(task.target) - len(SPECIALS)
    tables.show("training", [row | {"longest document": max(map(len, task.train.x))}], NOTES)
    for model in models:
        model.to(device)
    print(f"\nDECODERS. {NOTES['decoders']}")
    tables["decoders"] = []
    for rows in cells(models, task.test, grid):
        tables.keep("decoders", tables["decoders"] + rows)
        print(f"\n{as_text(rows)}", flush=True)
    T, rounds = min(grid.lengths[-1], 32), grid.rounds
    if on_cpu:
        tables.show("peers", _at_each(grid, lambda: [bench_greedy(B) for B in (1, 32)]), NOTES)
        steps = _at_each(grid, lambda: step_rows(models.ar, grid.batches, T, rounds))
        tables.show("a step", steps, NOTES)
    if compiled:
        tables.show("compiled", _at_each(grid, lambda: compiled_rows(models, T, rounds)), NOTES)
    tables.show("pays until B", pays_until(tables["decoders"]), NOTES)
    if on_cpu:
        tables.show("goals", goals(tables["decoders"], tables["peers"]), NOTES)
    print(f"\n{tables.minutes:.1f} minutes in all")
    if png_path is not None:
        write_atomically(Path(png_path), picture(tables))
    return tables


def _at_each(grid: Grid, measure: Callable[[], list[Row]]) -> list[Row]:
    rows = []
    for number in grid.threads:
        torch.set_num_threads(number)
        rows += measure()
    return rows


NOTES = {
    "training": "Flagship size, on pinyin of 300 words, sentences joined to documents.",
    "decoders": f"""ms: one batch of B documents of T syllables. steps: passes that wait for the one
before. work: positions that go through a decoder, for each token made (greedy: 1). same: share of
tokens equal to greedy's; gap: nats between the two tokens where a row first differs (below {TIE:g}
it is rounding that decides). over budget: predicted seconds of a call.""",
    "peers": """ms a token of decoder-only models of width 128, 4 layers, 4 heads, 4412 hanzi, 64
new tokens, random weights. Prompt lookup (batch 1 only) guesses what followed the last two tokens
earlier on. A model with random weights soon repeats itself, so it accepts nearly all: how few its
passes are says how much it repeats, not what a trained one would do.""",
    "a step": """One step of greedy: measured; calling its operators with nearly nothing in them;
reading as many bytes; its arithmetic at the rate of a 1024 x 1024 product. Bound: the longer of the
last two (5.2). While calls or reading are the longest, more positions in a step are nearly free and
parallel decoding pays; once arithmetic is, each position that a guess wastes (work above 1) costs
in full.""",
    "compiled": """Off unless asked for: the first use waits for the compiler. CUDA graphs: all
steps of greedy recorded as one.""",
    "pays until B": "The largest B at which it is faster than greedy (+: the largest compared).",
    "goals": "For one text at a time. draft and verify: times as fast as greedy, with its tokens.",
}


# ------------------------------------------------------------- the figure
def picture(tables: Mapping[str, list[Row]]) -> bytes:
    """A PNG: how much faster than greedy each decoder is, against B, a panel for each T; and the
    step of greedy against what bounds it. One row of panels for each number of threads."""
    import matplotlib.pyplot as plt

    from . import plots

    rows, steps = tables["decoders"], tables.get("a step")  # steps: on a CPU alone
    lengths, threads, batches = (sorted({r[k] for r in rows}) for k in ("T", "threads", "B"))
    panels = len(lengths) + bool(steps)
    faster = [r[FASTER] for r in rows if r.get(FASTER)]
    low, high = min(faster) / 1.3, max(faster) * 1.3
    ticks = [t for t in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    figure: Any
    with plt.rc_context():
        plots.use_style()
        size = (3 * panels, 2.9 * len(threads) + 0.6)
        figure, axes = plt.subplots(len(threads), panels, figsize=size, squeeze=False, sharex=True)
        for ax in axes.flat:
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(batches, batches)
        for row, n in zip(axes, threads, strict=True):
            where = f"{n} thread{'s' * (n > 1)}"
            for ax, T in zip(row, lengths, strict=False):
                _draw_speeds(ax, [r for r in rows if (r["T"], r["threads"]) == (T, n)])
                ax.set_title(f"T = {T}, {where}", fontsize=10)
                ax.set_ylim(low, high)
                ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
            row[0].set_ylabel(FASTER)
            if steps:
                _draw_steps(row[-1], [r for r in steps if r["threads"] == n])
                row[-1].set_title(f"a step of greedy, {where}", fontsize=10)
        for ax in axes.flat:
            ax.minorticks_off()
        for ax in axes[-1]:
            ax.set_xlabel("B, decoded together")
        legends = ((axes[0, 0], "left", 3), (axes[0, -1], "right", 2))
        for ax, side, ncols in legends if steps else legends[:1]:
            lines, labels = ax.get_legend_handles_labels()
            figure.legend(lines, labels, loc=f"outside lower {side}", ncols=ncols, frameon=False)
        return plots.show(figure, "Speed of decoders against batch size, and why.").data


def _draw_speeds(ax: Any, rows: list[Row]) -> None:
    from . import plots

    colours = (plots.BLUE, plots.PURPLE, plots.SKY, plots.YELLOW, plots.RED, plots.GREEN)
    for name, colour in zip([n for n in DECODERS if n != "greedy"], colours, strict=True):
        line = [r for r in rows if r["decoder"] == name and r.get(FASTER)]
        points = [r["B"] for r in line], [r[FASTER] for r in line]
        ax.plot(*points, "o-", ms=4, color=colour, label=name)
    ax.axhline(1, color=plots.GREY, lw=1, zorder=0)


def _draw_steps(ax: Any, rows: list[Row]) -> None:
    from . import plots

    looks = {"step": ("o-", plots.ORANGE), "calls": (":", plots.GREY)}
    looks |= {"reading": ("--", plots.BLUE), "arithmetic": ("--", plots.RED)}
    for name, (style, colour) in looks.items():
        points = [r["B"] for r in rows], [r[f"{name} ms"] for r in rows]
        label = "greedy step" if name == "step" else name
        ax.plot(*points, style, ms=4, color=colour, label=label)
    ax.set_ylabel("milliseconds")
