"""``sar demo``: the flagship in the terminal. Train both models on pinyin, compare, convert what is typed."""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..algorithm1 import one_pass
from ..blocks import Model
from ..checks import Refusal
from ..counting.lexicon import Lexicon
from ..counting.ngram import NGram
from ..data import Task, accuracy, convert
from ..decoding import beam, greedy
from ..kinds import make_model
from ..tasks import load_task
from ..tasks.pinyin import parse_pinyin
from ..tasks.words import word_model
from ..training import Recipe, choose_device
from .runs import train
from .timing import seconds

FLAGSHIP = {"width": 128, "layers": 2, "heads": 4}  # the models of `sar demo`


def flagship(kind: str) -> dict:
    """The options of a flagship of a kind: where there is a choice, it reads all of x."""
    return FLAGSHIP | ({"mask": "full"} if kind == "sar" else {})


def neural_decoders(sar: Model, ar: Model) -> dict[str, Callable]:
    """Name to ``decode(x, lengths)``, for a one-pass and an autoregressive model of one task."""
    return {
        "SAR, one pass": lambda x, lengths=None: one_pass(sar, x, lengths),
        "AR, greedy": lambda x, lengths=None: greedy(ar, x, lengths),
        "AR, beam 4": lambda x, lengths=None: beam(ar, x, lengths, width=4),
    }


def table(
    task: Task, sar: Model, ar: Model, trained: dict[str, float], sample: int = 100
) -> list[dict]:
    """Every decoder on the test split: right characters and sentences, and milliseconds a sentence alone.

    trained: seconds of training by row name. sample: so many sentences are timed, one at a time.
    """
    V = len(task.target)
    counted = {f"{name} of the training text": NGram(task.train, order, V) for order, name in
               ((1, "most frequent hanzi"), (2, "bigram"), (3, "trigram"))}  # fmt: skip
    counted["word lattice of jieba's dictionary"] = Lexicon.from_model(
        word_model(), task.source, task.target
    )
    device = next(sar.parameters()).device
    few, rows = task.test.x[:sample], []
    for name, model in counted.items():
        found = model.decode(task.test.x)
        ms = 1e3 * statistics.median(seconds(lambda x=x, m=model: m.decode([x])) for x in few)
        rows.append(
            {"decoder": name, "parameters": None, "ms": ms, "steps": None, "seconds": None}
            | _score(found, task)
        )
    for name, decode in neural_decoders(sar, ar).items():
        found = convert(decode, task.test, device)
        alone = [torch.tensor([x], device=device) for x in few]
        steps = []
        ms = 1e3 * statistics.median(
            seconds(lambda x=x, d=decode, s=steps: s.append(d(x).steps)) for x in alone
        )
        model = sar if name.startswith("SAR") else ar
        rows.append({"decoder": name, "parameters": model.number_of_parameters(), "ms": ms, "steps": statistics.mean(steps),
                     "seconds": trained[name[: name.index(",")]]} | _score(found, task))  # fmt: skip
    return rows


def _score(found, task):
    characters, sentences = accuracy(found, task.test.y)
    return {"characters": characters, "sentences": sentences}


def print_table(rows: list[dict]) -> None:
    """The rows of ``table``, aligned."""
    print(
        f"\n{'decoder':38}{'characters':>11}{'sentences':>11}{'ms':>8}{'steps':>7}{'parameters':>12}{'training':>10}"
    )
    for r in rows:
        steps = "-" if r["steps"] is None else f"{r['steps']:.1f}"
        size = "-" if r["parameters"] is None else f"{r['parameters']:,}"
        spent = "-" if r["seconds"] is None else f"{r['seconds']:.0f} s"
        print(
            f"{r['decoder']:38}{r['characters']:>11.3f}{r['sentences']:>11.3f}{r['ms']:>8.2f}{steps:>7}{size:>12}{spent:>10}"
        )


def demo(out: Path | None = None, steps: int | None = None) -> list[dict]:
    """Train the one-pass and the autoregressive model on pinyin, compare, then convert what is typed.

    out: keeps the two runs in ``out/sar`` and ``out/ar``, and goes on from them if they are there.
    steps: optimiser steps of each; None is the recipe's.
    """
    task = load_task("pinyin")
    print(
        f"pinyin to hanzi: {len(task.train):,} sentences of {len(task.source) - 4} syllables and "
        f"{len(task.target) - 4:,} hanzi to learn from, {len(task.test):,} to test on"
    )
    steps = Recipe.steps if steps is None else steps
    recipe = Recipe(steps=steps, short=steps // 2)
    models, trained = {}, {}
    for name, kind in (("SAR", "sar"), ("AR", "ar")):
        models[kind] = make_model(kind, task, **flagship(kind))
        metrics = train(
            models[kind], task, recipe, None if out is None else out / kind, resume=out is not None
        )
        trained[name] = metrics[-1]["seconds"]
    rows = table(task, models["sar"], models["ar"], trained)
    print_table(rows)
    print(
        "\nms: one sentence alone, median. steps: forward passes that wait for the one before. Both models stop\n"
        "long before they have learned what they can. The lattice knows the dictionary that the sentences were\n"
        "drawn from, word by word; the others saw the training text alone."
    )
    if sys.stdin.isatty():
        prompt(task, neural_decoders(models["sar"], models["ar"]), choose_device()[0])
    return rows


def prompt(task: Task, decoders: dict[str, Callable], device) -> None:
    """Read pinyin, print each decoder's hanzi with how sure it is of them, until an empty line."""
    print("\nType pinyin, as in: wo ai bei jing. An empty line ends.")
    while True:
        try:
            line = input("pinyin> ").strip()
        except EOFError:
            line = ""
        if not line:
            return
        try:
            x = torch.tensor([parse_pinyin(line, task.source)], device=device)
        except Refusal as error:
            print(error)
            continue
        for name, decode in decoders.items():
            began = time.perf_counter()
            decoded = decode(x)
            ms = 1e3 * (time.perf_counter() - began)
            text = "".join(task.target.decode(decoded.tokens[0].tolist()))
            sure = " ".join(f"{p:.2f}" for p in decoded.log_probs[0].exp().tolist())
            print(f"  {name:14} {text}   {sure}   {decoded.steps} steps, {ms:.1f} ms")
