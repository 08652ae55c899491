"""Texts drawn from the languages of ``languages.py``, whose entropies are known exactly."""

import torch

from ..checks import Refusal
from ..data import SPECIALS, Card, Split, Task, Vocab
from ..languages import CoherenceLanguage, HomophoneLanguage
from .splits import cut, measure


def _homophone(
    hanzi=9, syllables=3, sharpness=2.0, language=0, length=6, sizes=(200_000, 5000, 5000), seed=0
):
    exact = HomophoneLanguage.random(hanzi, syllables, sharpness, seed=language)
    about = (
        f"{hanzi} hanzi, {syllables} syllables, sharpness {sharpness}, drawn from seed {language}"
    )
    return _sampled("homophone", exact, about, length, sizes, seed)


def _coherence(words=4, dialects=2, tell=0.0, length=6, sizes=(200_000, 5000, 5000), seed=0):
    exact = CoherenceLanguage(words, dialects, tell)
    about = f"{words} words in each of {dialects} dialects, a tell with probability {tell}"
    return _sampled("coherence", exact, about, length, sizes, seed)


LANGUAGES = {"homophone": _homophone, "coherence": _coherence}


def _sampled(name, language, about, length, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = language.sample(sum(sizes), length, generator)
    spelled, names = [0] * language.syllables, []
    for s in language.syllable_of.tolist():  # the hanzi that sound like a are a1, a2, ...
        spelled[s] += 1
        names.append(f"{_sound(s)}{spelled[s]}")
    x, y = (x + len(SPECIALS)).tolist(), (y + len(SPECIALS)).tolist()
    splits = [Split(*pair) for pair in zip(cut(x, sizes), cut(y, sizes), strict=True)]
    card = Card(
        name=name,
        source=f"Generated: {about}; length {length}, sequences from seed {seed}.",
        licence="Ours.",
        counts=measure(splits),
        split="Independent draws, cut in the order drawn.",
        flaws=(
            "A sequence may be in several splits: what is learned is the language, not a list.",
        ),
    )
    return Vocab(map(_sound, range(language.syllables))), Vocab(names), splits, card


def _sound(s: int) -> str:
    return chr(ord("a") + s) if s < 26 else f"s{s}."


def language_of(task: Task) -> HomophoneLanguage:
    """The language that the sequences of a homophone or coherence task are drawn from.

    Its hanzi v is the task's token v + 4. Raises ValueError for any other task.
    """
    o = task.options
    if task.name == "homophone":
        return HomophoneLanguage.random(o["hanzi"], o["syllables"], o["sharpness"], o["language"])
    if task.name == "coherence":
        return CoherenceLanguage(o["words"], o["dialects"], o["tell"])
    raise Refusal(f"task: expected homophone or coherence, got {task.name}")
