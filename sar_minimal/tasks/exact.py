"""Texts drawn from the languages of ``languages.py``, whose entropies are known exactly."""

import torch

from ..checks import Refusal
from ..data import SPECIALS, Card, Task, Vocab
from ..languages import CoherenceLanguage, HomophoneLanguage
from .splits import Made, Sizes, cut, measure


def homophone(
    hanzi: int = 9,
    syllables: int = 3,
    sharpness: float = 2.0,
    language: int = 0,
    length: int = 6,
    sizes: Sizes = (200_000, 5000, 5000),
    seed: int = 0,
) -> Made:
    """Sounds and hanzi of a random ``HomophoneLanguage``; for the options see ``load_task``."""
    exact = HomophoneLanguage.random(hanzi, syllables, sharpness, seed=language)
    sounds = f"{hanzi} hanzi, {syllables} syllables, sharpness {sharpness}"
    return _draw("homophone", exact, f"{sounds}, drawn from seed {language}", length, sizes, seed)


def coherence(
    words: int = 4,
    dialects: int = 2,
    tell: float = 0.0,
    length: int = 6,
    sizes: Sizes = (200_000, 5000, 5000),
    seed: int = 0,
) -> Made:
    """Sounds and hanzi of a ``CoherenceLanguage``; for the options see ``load_task``."""
    exact = CoherenceLanguage(words, dialects, tell)
    about = f"{words} words in each of {dialects} dialects, a tell with probability {tell}"
    return _draw("coherence", exact, about, length, sizes, seed)


def _draw(
    name: str, language: HomophoneLanguage, about: str, length: int, sizes: Sizes, seed: int
) -> Made:
    x, y = language.sample(sum(sizes), length, torch.Generator().manual_seed(seed))
    splits = cut((x + len(SPECIALS)).tolist(), (y + len(SPECIALS)).tolist(), sizes)
    sounds = [chr(ord("a") + s) if s < 26 else f"s{s}." for s in range(language.syllables)]
    spelled, hanzi = [0] * len(sounds), []
    for s in language.syllable_of.tolist():  # the hanzi that sound like a are a1, a2, ...
        spelled[s] += 1
        hanzi.append(f"{sounds[s]}{spelled[s]}")
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
    return Vocab(tuple(sounds)), Vocab(tuple(hanzi)), splits, card


def language_of(task: Task) -> HomophoneLanguage:
    """The language that the sequences of a homophone or coherence task are drawn from.

    Its hanzi v is the task's token v + len(SPECIALS). Raises ValueError for any other task.
    """
    o = task.options
    if task.name == "homophone":
        return HomophoneLanguage.random(o["hanzi"], o["syllables"], o["sharpness"], o["language"])
    if task.name == "coherence":
        return CoherenceLanguage(o["words"], o["dialects"], o["tell"])
    raise Refusal(f"task: expected homophone or coherence, got {task.name}")
