"""Tasks: real and generated pairs (x, y) behind one interface, ``load_task(name)``.

====================  ==========================================  ==========================
task                  x -> y                                      what it is for
====================  ==========================================  ==========================
copy, reverse, sort   symbols -> the same, reversed, sorted       answers known exactly
homophone, coherence  sounds -> one of ``languages.py``           entropies known exactly
numerals              decimal digits -> hanzi, 205 -> 二百零五    y is not as long as x
docstrings            characters, y is x                          text to model
instructions          what to do, letters -> the answer           parts known, pairs not
application           date -> date, pages -> headline, ...        total correlation known
pinyin, words         toneless syllables -> hanzi, 1:1            a known model draws the text
pinyin, news          the same, newspaper and reviews             real text, split by block
pinyin, hsk           the same, textbook sentences                evaluation only
pinyin, file:PATH     the same, a teacher's own text              whatever you bring
====================  ==========================================  ==========================

Each row is made in a file of this folder. ``sar cards`` writes the data cards, ``data/*.md``, from
the tasks as they load (sections 3.4 and 5).
"""

import inspect
from dataclasses import replace
from functools import partial
from typing import Any

from ..checks import check_whole
from ..data import Task
from ..errors import Refusal, expect
from . import applications, docstrings, exact, instructions, pinyin
from .splits import Maker, check_sizes, measure

MAKERS: dict[str, Maker] = {
    **{kind: partial(exact.ordered, kind) for kind in exact.ANSWERS},
    "homophone": exact.homophone,
    "coherence": exact.coherence,
    "numerals": exact.numerals,
    "docstrings": docstrings.make,
    "instructions": instructions.make,
    "application": applications.make,
}
TASKS = (*MAKERS, "pinyin")  # the names of all; what makes pinyin, its corpus says


def load_task(name: str, **options: Any) -> Task:
    """The task called ``name``, one of ``TASKS``; ``Task.options`` holds all options, defaults too.

    Of all that are drawn: sizes (of train, validation, test), seed.
    copy, reverse, sort: symbols (how many), min_length, max_length.
    homophone: hanzi, syllables (how many), sharpness (0: at random), language (its seed), length.
    coherence: words (of each dialect), dialects, tell (chance that x says which), length.
    numerals: digits (the most, up to 8). docstrings: length (characters a piece).
    instructions: shots (worked examples in each prompt), working (y shows the letters in their new
    order first), shuffled (train and validation are told another row's instruction).
    application: application (one of seven), together (else its tokens are chosen apart).
    pinyin: corpus, and what that has: "words" stop (chance to end after a word), lexicon (only the
    so many most frequent words); "hsk" vocabulary_of (the corpus whose vocabularies it takes);
    "news" and "file:PATH" nothing.
    Raises ValueError naming what is wrong and what there is, MissingPackage with what to install.
    """
    expect(name in TASKS, "task", f"one of {', '.join(TASKS)}", name)
    chosen = {"corpus": options.pop("corpus", "words")} if name == "pinyin" else {}
    make = pinyin.corpus_maker(**chosen) if chosen else MAKERS[name]
    known = {option: p.default for option, p in inspect.signature(make).parameters.items()}
    for option in options:
        if option not in known:
            of = f"{name} ({chosen['corpus']})" if chosen else name
            there = ", ".join([*chosen, *known])
            raise Refusal(f"option {option!r}: {of} has no such option; it has {there}")
    options = known | options
    if "sizes" in options:
        options["sizes"] = check_sizes(options["sizes"])
        check_whole("seed", options["seed"], least=0, most=2**63 - 1)  # as torch has them
    source, target, splits, card = make(**options)
    card, options = replace(card, counts=measure(splits) | card.counts), {**chosen, **options}
    train, validation, test = splits
    return Task(name, source, target, train, validation, test, options, card)
