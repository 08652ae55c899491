"""``sar bench decode``: what each decoder costs, for how long a text, for how many at once, and why.

Guesses that hold save steps, so the models are trained (for a moment) on texts as long as those they
decode, and how many characters come out right stands beside every speed. Ratios are medians over turns
within one run, as in ``timing.py``. Why parallel decoding stops paying is in ``bench_step.py``.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..algorithm1 import one_pass
from ..checks import Refusal, check_whole
from ..data import Split, Task, accuracy
from ..decoding import beam, greedy
from ..files import package_folder, write_atomically, write_json
from ..kinds import make_model
from ..masked import mask_predict
from ..speculation import draft_and_verify, jacobi
from ..tasks import load_task
from ..training import Recipe, choose_device
from .bench_speed import bench_greedy
from .bench_step import Models, compiled_rows, step_rows
from .demo import flagship
from .runs import train
from .timing import in_turns, machine, ratio, seconds

GOALS = {"greedy / transformers": 5.0, "draft and verify": 2.5, "one pass / bare forward": 1.3}
TIE = 1e-4  # nats: two tokens that are nearer than this are told apart by rounding


@dataclass(frozen=True)
class Plan:
    """What is measured. Raises ValueError, naming the field.

    lengths: T. batches: B. threads: of torch. steps: of training, for each of three models, see ``trained``. budget:
    seconds; a decoder that is predicted to take longer for one call is left out of that cell. rounds: of
    turns, fewer where all decoders together would take longer than the budget. sizes: sentences of the task
    that the documents are joined from.
    """

    lengths: tuple[int, ...] = (8, 32, 128, 512)
    batches: tuple[int, ...] = (1, 16, 64, 256)
    threads: tuple[int, ...] = (1, 2)
    steps: int = 300
    budget: float = 8.0
    rounds: int = 5
    sizes: tuple[int, int, int] = (60_000, 0, 12_500)

    def __post_init__(self):
        for name in ("lengths", "batches", "threads"):
            values = getattr(self, name)
            if not values:
                raise Refusal(f"{name}: expected at least one number, got none")
            for value in values:
                check_whole(name, value)
            if list(values) != sorted(set(values)):
                raise Refusal(f"{name}: expected each once, in rising order, got {values!r}")
        for name in ("steps", "rounds"):
            check_whole(name, getattr(self, name))
        if not self.budget > 0:
            raise Refusal(f"budget: expected seconds > 0, got {self.budget!r}")


QUICK = Plan(lengths=(8, 64), batches=(1, 16, 64), threads=(1,), steps=150, budget=2.0, rounds=3)


DECODERS: dict[str, Callable[[Models, Tensor], object]] = {
    "greedy": lambda m, x: greedy(m.ar, x),
    "one pass": lambda m, x: one_pass(m.sar, x),
    "jacobi": lambda m, x: jacobi(m.ar, x),
    "mask-predict 4": lambda m, x: mask_predict(m.masked, x, iterations=4),
    "mask-predict 10": lambda m, x: mask_predict(m.masked, x, iterations=10),
    "draft and verify": lambda m, x: draft_and_verify(m.ar, x, m.sar),
    "beam 4": lambda m, x: beam(m.ar, x),
}
EXACT = ("jacobi", "draft and verify")  # have the tokens of greedy


# ------------------------------------------------------------- texts and models


def documents(split: Split, lengths: list[int]) -> Split:
    """One document of each length: sentences of ``split`` in their order, joined, the last one cut.

    Each begins with a sentence, and none is in two documents. Raises ValueError when there are too few.
    """
    pairs, xs, ys = zip(split.x, split.y, strict=True), [], []
    for n in lengths:
        x, y = [], []
        while len(x) < n:
            more = next(pairs, None)
            if more is None:
                raise Refusal(
                    f"lengths: expected at most {sum(map(len, split.x))} tokens in all, as many as the "
                    f"split's {len(split)} sentences have, got {sum(lengths)}"
                )
            x, y = x + more[0], y + more[1]
        xs.append(x[:n])
        ys.append(y[:n])
    return Split(xs, ys)


def trained(plan: Plan) -> tuple[Task, Models, dict[str, float]]:
    """The task, its three models of flagship size, and the seconds that each took to train.

    Two thirds of the steps are on the shortest third of the documents. Without that, an autoregressive model has
    not found the source after 400 steps on documents of 8 to 512 (0.14 to 0.28 of characters right, where one pass
    has 0.80 to 0.85). ``task.test`` keeps its sentences.
    """
    task = load_task("pinyin", lexicon=300, sizes=plan.sizes)
    high = max(plan.lengths)
    documented = replace(task, train=_spread(task.train, min(plan.lengths), high))
    recipe = Recipe(steps=plan.steps + plan.steps // 2, short=plan.steps, tokens=max(1024, high))
    models, spent = {}, {}
    for kind in Models._fields:  # room: <s> and all of y
        models[kind] = make_model(kind, task, max_length=high + 1, **flagship(kind))
        spent[kind] = train(models[kind], documented, recipe, progress=False)[-1]["seconds"]
        models[kind].cpu()
    return documented, Models(**models), spent


def _spread(split: Split, low: int, high: int) -> Split:
    """Documents of the whole split, their lengths evenly over the logarithm of low..high."""
    generator, lengths, tokens = torch.Generator().manual_seed(0), [], sum(map(len, split.x))
    while True:
        n = round(low * (high / low) ** float(torch.rand((), generator=generator)))
        tokens -= n + max(map(len, split.x))  # what a document takes, with what is cut off it
        if tokens < 0:
            return documents(split, lengths)
        lengths.append(n)


# ------------------------------------------------------------- the grid


@contextmanager
def positions_read(models: Models) -> Iterator[list[int]]:
    """Collects how many positions each pass of a decoder takes through its layers. An encoder's do not
    count: it reads x once, whoever decodes."""
    read = []
    first = models.ar.layers[0], models.sar.streams[0][0], models.masked.streams.streams[0][0]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][..., 0].numel()))
        for layer in first
    ]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()


def cell(models: Models, test: Split, B: int, plan: Plan, before: dict[str, tuple]) -> list[dict]:
    """One row per decoder, for documents of one length T, B at a time.

    A call decodes all of ``test`` (a multiple of B documents). before: each decoder's (B, seconds per
    batch) at the next smaller B, kept up to date here: a call is predicted to take as long for each row.
    """
    device = next(models.sar.parameters()).device
    xs = torch.tensor(test.x, device=device).split(B)
    calls = {n: lambda d=d: _decode(models, d, xs) for n, d in DECODERS.items()}
    calls["bare forward"] = lambda: _forward(models.sar, xs)
    found, work, first, left_out = {}, {}, {}, {}
    for name, call in calls.items():
        smaller, once = before.get(name, (B, 0.0))
        if (predicted := once * B / smaller * len(xs)) > plan.budget:
            left_out[name] = predicted
            continue
        with positions_read(models) as read:
            first[name] = [seconds(lambda n=name, c=call: found.update({n: c()}))]
        work[name] = sum(read) / sum(map(len, test.x))
    together = sum(t for (t,) in first.values())  # 0: not one decoder is within the budget
    rounds = min(plan.rounds, int(plan.budget / together)) if together else 0
    # A round that takes so long has no use for another one to warm up.
    times = in_turns({n: calls[n] for n in first}, rounds, warm=False) if rounds else first
    before |= {n: (B, statistics.median(t) / len(xs)) for n, t in times.items()}

    rows = []
    for name in DECODERS:
        row = {"decoder": name, "T": len(test.x[0]), "B": B, "threads": torch.get_num_threads()}
        if name in left_out:
            rows.append(row | {"over budget": left_out[name]})
            continue
        t = statistics.median(times[name])
        row |= {
            "ms": 1e3 * t / len(xs),
            "tokens a second": sum(map(len, test.x)) / t,
            "times as fast as greedy": _ratio(times, "greedy", name),
            "steps": statistics.mean(d.steps for d in found[name]),
            "work": work[name],
            "characters": accuracy(_tokens(found[name]).tolist(), test.y)[0],
            "rounds": max(rounds, 1),
        }
        if name in EXACT and "greedy" in found:
            row["same"], row["gap"] = agreement(found["greedy"], found[name])
        if name == "one pass" and "bare forward" in times:
            row["one pass / bare forward"] = ratio(times[name], times["bare forward"])
        rows.append(row)
    return rows


def _decode(models, decode, xs):
    found = [decode(models, x) for x in xs]
    found[-1].tokens.cpu()  # waits for a GPU; so below
    return found


@torch.inference_mode()
def _forward(sar, xs):
    logits = [sar(x) for x in xs]
    logits[-1][..., 0].cpu()
    return logits


def _ratio(times, slow, fast):
    return ratio(times[slow], times[fast]) if slow in times else None


def _tokens(decoded) -> Tensor:
    return torch.cat([d.tokens for d in decoded])


def agreement(one: list, other: list) -> tuple[float, float]:
    """Of two decodings of the same rows: the share of equal tokens, and how far apart in nats the two
    tokens are where a row differs first, the largest of all rows (0 if none does). Behind that place rows go
    their own ways."""
    a, b = _tokens(one), _tokens(other)
    values = [torch.cat([d.log_probs for d in decoded]) for decoded in (one, other)]
    apart = a != b
    at = apart.float().argmax(1, keepdim=True)  # the first, or 0
    gap = (values[0] - values[1]).abs().gather(1, at)[apart.any(1)]
    return float((~apart).float().mean()), float(gap.max()) if len(gap) else 0.0


def grid(models: Models, test: Split, plan: Plan) -> Iterator[list[dict]]:
    """``cell`` for all of the plan, at each number of threads."""
    for threads in plan.threads:
        torch.set_num_threads(threads)
        for T in plan.lengths:
            before = {}
            for B in plan.batches:
                yield cell(models, documents(test, [T] * B * calls_of(B, T)), B, plan, before)


def calls_of(B: int, T: int) -> int:
    """How many batches of B documents are decoded for one figure: a single text is luck, 2048 tokens
    less so."""
    return max(1, min(32, 2048 // (B * T)))


# ------------------------------------------------------------- the goals


def goals(cells: list[dict], peers: list[dict]) -> list[dict]:
    """The goals for one text at a time, each with what was measured, whether it is met and by how much."""
    rows = []

    def add(goal, row, value, most=False, but=""):
        asked = GOALS[goal]
        met = value <= asked if most else value >= asked
        rows.append(
            {
                "goal": f"{goal} {'<=' if most else '>='} {asked}",
                "T": row.get("T", "-"),
                "threads": row["threads"],
                "measured": value,
                "met": met and not but,
                "by": f"{100 * (asked / value - 1 if most else value / asked - 1):+.0f} %{but}",
            }
        )

    for row in peers:
        if row["batch"] == 1 and "transformers / ours" in row:
            add("greedy / transformers", row, row["transformers / ours"])
    for row in cells:
        if row["B"] == 1 and "over budget" not in row:
            if row["decoder"] == "draft and verify" and row["times as fast as greedy"]:
                but = f", but tokens differ by {row['gap']:.1g} nats" if row["gap"] > TIE else ""
                add("draft and verify", row, row["times as fast as greedy"], but=but)
            if "one pass / bare forward" in row:
                add("one pass / bare forward", row, row["one pass / bare forward"], most=True)
    return rows


def pays_until(cells: list[dict]) -> list[dict]:
    """For each decoder, length and number of threads the largest B at which it is faster than greedy."""
    rows, lines = [], {}
    for row in cells:
        if row["decoder"] not in ("greedy", "beam 4") and row.get("times as fast as greedy"):
            key = row["threads"], row["decoder"]
            lines.setdefault(key, {}).setdefault(row["T"], []).append(row)
    for (threads, decoder), by_length in lines.items():
        row = {"threads": threads, "decoder": decoder}
        for T, some in by_length.items():
            paying = [r["B"] for r in some if r["times as fast as greedy"] > 1]
            largest = max(r["B"] for r in some)
            row[f"T {T}"] = (
                "never" if not paying else f"{max(paying)}{'+' * (max(paying) == largest)}"
            )
        rows.append(row)
    return rows


# ------------------------------------------------------------- the whole


def bench_decode(
    plan: Plan | None = None,
    json_path: Path | None = None,
    png_path: Path | None = None,
    compiled: bool = False,
) -> dict[str, list[dict]]:
    """Measure, print tables, and write all rows to ``json_path``, part by part, and a figure to ``png_path``, if given.

    On ``choose_device``'s device. With a GPU only the decoders are compared there: the other tables are about the
    CPU (SAR_DEVICE=cpu). compiled: also what torch.compile and CUDA graphs do, which takes a minute or more to compile.
    Returns the tables by name. Raises MissingPackage before anything is measured if a figure is asked for
    and matplotlib is not installed.
    """
    plan, (device, _) = plan or Plan(), choose_device()
    if png_path is not None:
        package_folder("matplotlib", "book")
    on_cpu = device.type == "cpu"
    if not on_cpu:
        plan = replace(plan, threads=plan.threads[:1])
    torch.set_num_threads(max(plan.threads))
    began, tables = time.perf_counter(), {"machine": [machine() | asdict(plan)]}
    tables["machine"][0]["device"] = str(device)
    print("  ".join(f"{k} {v}" for k, v in tables["machine"][0].items()))

    def keep():  # after each part, so that an interruption loses none that was measured
        tables["machine"][0]["minutes"] = (time.perf_counter() - began) / 60
        if json_path is not None:
            write_json(json_path, tables, indent=1)

    task, models, spent = trained(plan)
    row = {f"{kind}, seconds": s for kind, s in spent.items()}
    row |= {"hanzi": len(task.target) - 4, "longest document": max(map(len, task.train.x))}
    _show(tables, "training", [row], NOTES["training"])
    models, tables["decoders"] = Models(*(m.to(device) for m in models)), []
    print(f"\nDECODERS. {NOTES['decoders']}")
    for rows in grid(models, task.test, plan):
        tables["decoders"] += rows
        keep()
        _print(rows, CELL, head=len(tables["decoders"]) == len(rows))
    for name, wanted, measure in (
        ("peers", on_cpu, lambda: [_peer_row(B) for B in (1, 32)]),
        ("a step", on_cpu, lambda: step_rows(models.ar, plan.batches, min(plan.lengths[-1], 32), plan.rounds)),
        ("compiled", compiled, lambda: compiled_rows(models, min(plan.lengths[-1], 32), plan.rounds)),
    ):  # fmt: skip
        if not wanted:
            continue
        rows = []
        for threads in plan.threads:
            torch.set_num_threads(threads)
            rows += measure()
        _show(tables, name, rows, NOTES[name])
        keep()
    _show(tables, "pays until B", pays_until(tables["decoders"]), NOTES["pays until B"])
    if on_cpu:
        _show(tables, "goals", goals(tables["decoders"], tables["peers"]), NOTES["goals"])
    keep()
    print(f"\n{tables['machine'][0]['minutes']:.1f} minutes in all")
    if png_path is not None:
        write_atomically(Path(png_path), picture(tables))
    return tables


def _peer_row(B: int) -> dict:
    row = bench_greedy(B)
    return {"batch": row.pop("greedy, batch"), "threads": torch.get_num_threads()} | row


NOTES = {
    "training": "Flagship size, on pinyin of 300 words, sentences joined to documents.",
    "decoders": (
        "ms: one batch of B documents of T syllables. steps: passes that wait for the one before. work: positions "
        "that\ngo through a decoder, for each token made (greedy: 1). same: share of tokens equal to greedy's; gap: "
        f"nats between the two\ntokens where a row first differs (below {TIE:g} it is rounding that decides). over "
        "budget: predicted seconds of a call."
    ),
    "peers": (
        "ms a token of decoder-only models of width 128, 4 layers, 4 heads, 4412 hanzi, 64 new tokens, random weights. "
        "Prompt lookup\n(batch 1 only) guesses what followed the last two tokens earlier on. A model with random "
        "weights soon repeats itself, so\nit accepts nearly all: how few its passes are says how much it repeats, "
        "not what a trained one would do."
    ),
    "a step": (
        "One step of greedy: measured; calling its operators with nearly nothing in them; reading as many bytes; its\n"
        "arithmetic at the rate of a 1024 x 1024 product. Bound: the longer of the last two (5.2). While calls or reading\n"
        "are the longest, more positions in a step are nearly free and parallel decoding pays; once arithmetic is, each\n"
        "position that a guess wastes (work above 1) costs in full."
    ),
    "compiled": "Off unless asked for: the first use waits for the compiler. CUDA graphs: all steps of greedy recorded as one.",
    "pays until B": "The largest measured B at which a decoder is faster than greedy (+: the largest compared).",
    "goals": "For one text at a time. draft and verify: times as fast as greedy, with its tokens.",
}  # fmt: skip
CELL = {
    "threads": 7, "T": 5, "B": 5, "decoder": 18, "ms": 10, "tokens a second": 16, "times as fast as greedy": 24,
    "steps": 7, "work": 7, "characters": 11, "same": 8, "gap": 8, "one pass / bare forward": 24,
}  # fmt: skip


def _show(tables, name, rows, note):
    tables[name] = rows
    print(f"\n{name.upper()}. {note}")
    columns = {key: 0 for row in rows for key in row}
    for key in columns:
        columns[key] = max(len(key), *(len(_text(row.get(key))) for row in rows)) + 2
    _print(rows, columns)


def _print(rows, columns, head=True):
    if head:
        print("".join(f"{name:>{width}}" for name, width in columns.items()))
    for row in rows:
        line = "".join(f"{_text(row.get(name)):>{width}}" for name, width in columns.items())
        over = row.get("over budget")
        print(line.rstrip(" -") + f"  over budget: {over:.0f} s" if over else line, flush=True)


def _text(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)


def picture(tables: dict[str, list[dict]]) -> bytes:
    """A PNG: how much faster than greedy each decoder is, against B, a panel for each T; and the step of greedy
    against what bounds it. One row of panels for each number of threads."""
    import matplotlib.pyplot as plt

    from . import plots

    cells, steps = tables["decoders"], tables.get("a step")  # steps: on a CPU alone
    lengths, threads, batches = (sorted({r[k] for r in cells}) for k in ("T", "threads", "B"))
    names = [n for n in DECODERS if n != "greedy"]
    colours = (plots.BLUE, plots.PURPLE, plots.SKY, plots.YELLOW, plots.RED, plots.GREEN)
    with plt.rc_context():
        plots.use_style()
        figure, axes = plt.subplots(
            len(threads), len(lengths) + bool(steps),
            figsize=(3 * (len(lengths) + bool(steps)), 2.9 * len(threads) + 0.6),
            squeeze=False, sharex=True,
        )  # fmt: skip
        for row, n in zip(axes, threads, strict=True):
            for ax, T in zip(row, lengths, strict=False):
                here = [r for r in cells if r["T"] == T and r["threads"] == n]
                for name, colour in zip(names, colours, strict=True):
                    line = [
                        (r["B"], r["times as fast as greedy"])
                        for r in here
                        if r["decoder"] == name and r.get("times as fast as greedy")
                    ]
                    ax.plot(*zip(*line, strict=True) if line else ((), ()), "o-", ms=4, color=colour, label=name)  # fmt: skip
                ax.axhline(1, color=plots.GREY, lw=1, zorder=0)
                ax.set(yscale="log", title=f"T = {T}, {_threads(n)}")
            row[0].set_ylabel("times as fast as greedy")
            if not steps:
                continue
            ax, here = row[-1], [r for r in steps if r["threads"] == n]
            for name, style, colour in (
                ("step", "o-", plots.ORANGE), ("calls", ":", plots.GREY),
                ("reading", "--", plots.BLUE), ("arithmetic", "--", plots.RED),
            ):  # fmt: skip
                points = [r["B"] for r in here], [r[f"{name} ms"] for r in here]
                ax.plot(*points, style, ms=4, color=colour, label="greedy step" if name == "step" else name)  # fmt: skip
            ax.set(yscale="log", title=f"a step of greedy, {_threads(n)}", ylabel="milliseconds")
        for ax in axes.flat:
            ax.set(xscale="log")
            ax.set_xticks(batches, batches)
            ax.minorticks_off()
            ax.title.set_fontsize(10)
        for ax in axes[-1]:
            ax.set_xlabel("B, decoded together")
        ratios = [r["times as fast as greedy"] for r in cells if r.get("times as fast as greedy")]
        low, high = min(ratios) / 1.3, max(ratios) * 1.3
        ticks = [t for t in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
        for ax in (ax for row in axes for ax in row[: len(lengths)]):
            ax.set_ylim(low, high)
            ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
            ax.minorticks_off()
        legends = ((axes[0, 0], "left", 3), (axes[0, -1], "right", 2))
        for ax, where, ncols in legends if steps else legends[:1]:
            lines, labels = ax.get_legend_handles_labels()
            figure.legend(lines, labels, loc=f"outside lower {where}", ncols=ncols, frameon=False)
        return plots.show(figure, "Speed of decoders against batch size, and why.").png


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"
