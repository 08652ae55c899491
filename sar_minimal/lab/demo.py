"""``sar demo``: the flagship in the terminal: train on pinyin, compare, convert what is typed."""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..algorithm1 import DualStreamSAR, one_pass
from ..autoregressive import Autoregressive
from ..counting.lexicon import Lexicon
from ..counting.ngram import NGram
from ..data import Decoded, Task, accuracy, convert
from ..decoding import beam, greedy
from ..errors import Refusal
from ..kinds import make_model
from ..tasks import load_task
from ..tasks.pinyin import parse_pinyin, read_as
from ..tasks.words import word_model
from ..training import Recipe
from .device import choose_device
from .runs import train
from .tables import Row, as_text
from .timing import milliseconds, seconds, timed

FLAGSHIP = {"width": 128, "layers": 2, "heads": 4}  # the models of `sar demo`


def flagship(kind: str) -> dict[str, Any]:
    """The options of a flagship of a kind: where there is a choice, it reads all of x."""
    return FLAGSHIP | ({"mask": "full"} if kind == "sar" else {})


Decoders = Mapping[str, Callable[..., Decoded]]  # name to decode(x, lengths)
NGRAMS = ("most frequent hanzi", "bigram", "trigram")  # of orders 1, 2, 3


def neural_decoders(sar: DualStreamSAR, ar: Autoregressive) -> Decoders:
    """For a one-pass and an autoregressive model of one task."""
    return {
        "SAR, one pass": partial(one_pass, sar),
        "AR, greedy": partial(greedy, ar),
        "AR, beam 4": partial(beam, ar, width=4),
    }


def compare(
    task: Task, sar: DualStreamSAR, ar: Autoregressive, spent: dict[str, float], sample: int = 100
) -> list[Row]:
    """Every decoder on the test split: characters and sentences right, ms a sentence alone.
    spent: seconds of training by kind. sample: so many sentences are timed, one at a time."""
    few, device = task.test.x[:sample], next(sar.parameters()).device
    rows: list[Row] = []

    def add(name: str, texts: list[list[int]], times: Sequence[float], **network: Any) -> None:
        """network: steps, parameters and seconds, of a network alone."""
        characters, sentences = accuracy(texts, task.test.y)
        row = {"decoder": name, "characters": characters, "sentences": sentences}
        rows.append(row | {"ms": milliseconds(times)} | network)

    searches: dict[str, NGram | Lexicon] = {
        f"{name} of the training text": NGram(task.train, order, len(task.target))
        for order, name in enumerate(NGRAMS, 1)
    }
    lexicon = Lexicon.from_model(word_model(), task.source, task.target)
    searches["word lattice of jieba's dictionary"] = lexicon
    for name, search in searches.items():
        add(name, search.decode(task.test.x), [seconds(partial(search.decode, [x])) for x in few])
    for name, decode in neural_decoders(sar, ar).items():
        kind, model = ("sar", sar) if name.startswith("SAR") else ("ar", ar)
        texts = convert(decode, task.test, device)
        calls = [timed(partial(decode, torch.tensor([x], device=device))) for x in few]
        decoded, times = zip(*calls, strict=True)
        steps, size = statistics.mean(d.steps for d in decoded), model.number_of_parameters()
        add(name, texts, times, steps=steps, parameters=size, seconds=spent[kind])
    return rows


def demo(out: Path | None = None, steps: int | None = None) -> list[Row]:
    """Train the one-pass and the autoregressive model on pinyin, compare, convert what is typed.

    out: keeps the two runs in ``out/sar`` and ``out/ar``, and goes on from them if they are there.
    steps: optimiser steps of each; None is the recipe's.
    """
    task = load_task("pinyin")
    learned = f"{len(task.source) - 4} syllables and {len(task.target) - 4:,} hanzi to learn from"
    sizes = f"{len(task.train):,} sentences of {learned}, {len(task.test):,} to test on"
    print(f"pinyin to hanzi: {sizes}")
    steps = Recipe.steps if steps is None else steps
    recipe, spent = Recipe(steps=steps, short=steps // 2), {}
    models = {kind: make_model(kind, task, **flagship(kind)) for kind in ("sar", "ar")}
    for kind, model in models.items():
        metrics = train(model, task, recipe, out and out / kind, resume=out is not None)
        spent[kind] = metrics[-1]["seconds"]
    rows = compare(task, models["sar"], models["ar"], spent)
    print(f"\n{as_text(rows)}\n\n{NOTE}")
    if sys.stdin.isatty():
        prompt(task, neural_decoders(**models), choose_device()[0])
    return rows


NOTE = """ms: one sentence alone, median. steps: forward passes that wait for the one before.
seconds: of training. Both models stop long before they have learned what they can. The lattice
knows the dictionary that the sentences were drawn from, word by word; the others saw the training
text alone."""


def prompt(task: Task, decoders: Decoders, device: str | torch.device) -> None:
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
            if cut := read_as(line, task.source):
                print(cut)
            for name, decode in decoders.items():
                decoded, spent = timed(partial(decode, x))
                text = "".join(task.target.decode(decoded.tokens[0].tolist()))
                sure = " ".join(f"{p:.2f}" for p in decoded.log_probs[0].exp().tolist())
                print(f"  {name:14} {text}   {sure}   {decoded.steps} steps, {1e3 * spent:.1f} ms")
        except Refusal as error:  # unknown syllables, or more of them than a model takes
            print(error)
