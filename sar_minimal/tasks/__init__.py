"""Tasks: real and generated pairs (x, y) behind one interface, ``load_task(name)``.

====================  ==========================================  ==========================
task                  x -> y                                      what it is for
====================  ==========================================  ==========================
copy, reverse, sort   symbols -> the same, reversed, sorted       answers known exactly
homophone, coherence  sounds -> one of ``languages.py``           entropies known exactly
numerals              decimal digits -> hanzi, 205 -> 二百零五    y is not as long as x
docstrings            characters, y is x                          text to model
instructions          what to do, letters -> the answer           parts known, pairs not
pinyin, words         toneless syllables -> hanzi, 1:1            a known model draws the text
pinyin, news          the same, newspaper and reviews             real text, split by block
pinyin, hsk           the same, textbook sentences                evaluation only
pinyin, file:PATH     the same, a teacher's own text              whatever you bring
====================  ==========================================  ==========================

Each row is made in a file of this folder. ``sar cards`` writes the data cards, ``data/*.md``, from the tasks
as they load (sections 3.4 and 5).
"""

import inspect

from ..checks import Refusal, check_whole
from ..data import Task
from . import docstrings, exact, instructions, numerals, pinyin, symbols
from .splits import check_sizes

MAKERS = {
    **dict.fromkeys(symbols.GENERATED, symbols.make),
    **exact.LANGUAGES,
    "numerals": numerals.make,
    "docstrings": docstrings.make,
    "instructions": instructions.make,
}  # and pinyin, whose maker its corpus says


def load_task(name: str, **options) -> Task:
    """The task called ``name``; see the table at the top of this file.

    Options of copy, reverse, sort: symbols, min_length, max_length, sizes, seed.
    Options of homophone: hanzi, syllables, sharpness, language (its seed), length, sizes, seed; of coherence:
    words, dialects, tell, length, sizes, seed. ``exact.language_of`` gives the language itself.
    Options of numerals: digits (the most), sizes, seed.
    Options of docstrings: length; of instructions: shots (at most, in the prompt), shuffled, sizes, seed.
    Options of pinyin: corpus = "words" (sizes, seed, stop, lexicon), "news", "hsk" (vocabulary_of) or "file:PATH".
    Raises ValueError naming what is wrong and what there is, MissingPackage with the line to install.
    """
    if name == "pinyin":
        corpus = options.pop("corpus", "words")
        (make, fixed), chosen = pinyin.corpus_maker(corpus), {"corpus": corpus}
    elif name in MAKERS:
        make, chosen = MAKERS[name], {}
        fixed = {"kind": name} if name in symbols.GENERATED else {}
    else:
        raise Refusal(f"task: expected one of {', '.join(MAKERS)}, pinyin, got {name!r}")
    parameters = inspect.signature(make).parameters
    known = {option: p.default for option, p in parameters.items() if option not in fixed}
    for option in options:
        if option not in known:
            there = ["corpus"] * bool(chosen) + list(known)
            of = f"{name} ({chosen['corpus']})" if chosen else name
            raise Refusal(f"option {option!r}: {of} has no such option; it has {', '.join(there)}")
    options = {**known, **options}
    if "sizes" in options:
        options["sizes"] = check_sizes(options["sizes"])
        check_whole("seed", options["seed"], least=0)
    source, target, splits, card = make(**fixed, **options)
    return Task(name, {**chosen, **options}, source, target, *splits, card)
