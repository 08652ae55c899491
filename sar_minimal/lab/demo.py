"""``sar demo``: the flagship in the terminal: train on pinyin, compare, convert what is typed."""

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
from .tables import as_text
from .timing import milliseconds, seconds

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


def compare(
    task: Task, sar: Model, ar: Model, spent: dict[str, float], sample: int = 100
) -> list[dict]:
    """Every decoder on the test split: characters and sentences right, ms a sentence alone.

    spent: seconds of training by kind. sample: so many sentences are timed, one at a time.
    """
    rows, V = [], len(task.target)
    device = next(sar.parameters()).device

    def add(name, texts, decode, size=None, seconds_spent=None):
        steps = []  # those that decode says, if it is a network's
        few = [torch.tensor([x], device=device) if size else [x] for x in task.test.x[:sample]]
        times = [seconds(lambda x=x: steps.append(getattr(decode(x), "steps", None))) for x in few]
        characters, sentences = accuracy(texts, task.test.y)
        row = {"decoder": name, "characters": characters, "sentences": sentences}
        row |= {"ms": milliseconds(times), "steps": statistics.mean(steps) if size else None}
        rows.append(row | {"parameters": size, "seconds": seconds_spent})

    for order, name in ((1, "most frequent hanzi"), (2, "bigram"), (3, "trigram")):
        ngram = NGram(task.train, order, V)
        add(f"{name} of the training text", ngram.decode(task.test.x), ngram.decode)
    lexicon = Lexicon.from_model(word_model(), task.source, task.target)
    add("word lattice of jieba's dictionary", lexicon.decode(task.test.x), lexicon.decode)
    for name, decode in neural_decoders(sar, ar).items():
        kind, model = ("sar", sar) if name.startswith("SAR") else ("ar", ar)
        texts, size = convert(decode, task.test, device), model.number_of_parameters()
        add(name, texts, decode, size, spent[kind])
    return rows


def demo(out: Path | None = None, steps: int | None = None) -> list[dict]:
    """Train the one-pass and the autoregressive model on pinyin, compare, convert what is typed.

    out: keeps the two runs in ``out/sar`` and ``out/ar``, and goes on from them if they are there.
    steps: optimiser steps of each; None is the recipe's.
    """
    task = load_task("pinyin")
    learned = f"{len(task.source) - 4} syllables and {len(task.target) - 4:,} hanzi to learn from"
    sizes = f"{len(task.train):,} sentences of {learned}, {len(task.test):,} to test on"
    print(f"pinyin to hanzi: {sizes}")
    steps = Recipe.steps if steps is None else steps
    recipe, models, spent = Recipe(steps=steps, short=steps // 2), {}, {}
    for kind in ("sar", "ar"):
        models[kind], folder = make_model(kind, task, **flagship(kind)), out and out / kind
        metrics = train(models[kind], task, recipe, folder, resume=out is not None)
        spent[kind] = metrics[-1]["seconds"]
    rows = compare(task, models["sar"], models["ar"], spent)
    print(f"\n{as_text(rows)}\n\n{NOTE}")
    if sys.stdin.isatty():
        prompt(task, neural_decoders(models["sar"], models["ar"]), choose_device()[0])
    return rows


NOTE = """ms: one sentence alone, median. steps: forward passes that wait for the one before.
seconds: of training. Both models stop long before they have learned what they can. The lattice
knows the dictionary that the sentences were drawn from, word by word; the others saw the training
text alone."""


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
