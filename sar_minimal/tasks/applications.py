"""Seven applications, each as a pair of tasks that differ in one thing: do the tokens of y agree?

Both tasks of a pair ask the same x, and in both x leaves the same open: H(y | x) is the same number
of nats. In the one, tokens are chosen *apart*, each on its own, so their total correlation given x
is 0. In the other they are chosen *together*: one thing that x does not say decides them all, such
as the style of a date or how polite one is. Everything is a table, so what is there to know is
summed, not learned (sections 3.4, 4 and 6 of the document; chapter 10).
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

from ..data import Vocab
from ..errors import expect
from .answers import Choices, Question, Texts, any_of, any_text, independent, known
from .exact import cut
from .splits import Card, Made, Sizes, check_tokens


@dataclass(frozen=True)
class Application:
    """ask: draws x. apart, together: what may be answered, and how likely each is."""

    ask: Callable[[random.Random], Question]
    apart: Callable[[Question], Choices]
    together: Callable[[Question], Texts]

    def answers(self, x: Question, together: bool) -> Texts:
        """p(y | x) of every y that is possible, either way."""
        return self.together(x) if together else independent(self.apart(x))


# Translation: 3日-5月-95年 into another way to write a date. The month has three spellings in one
# style; or there are three styles, each with its own order and separator.
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug".split()
ROMAN = dict(zip(MONTHS, "I II III IV V VI VII VIII".split(), strict=True))


def _date(x: Question) -> tuple[str, str, str]:
    day, month, year = x[0][:-1], MONTHS[int(x[2][:-1]) - 1], x[4][:-1]
    return day, month, year


def _ask_date(rng: random.Random) -> Question:
    day, month, year = (rng.randint(1, 8) for _ in range(3))
    return [f"{day}日", "-", f"{month}月", "-", f"{90 + year}年"]


def _one_style(x: Question) -> Choices:
    day, month, year = _date(x)
    return [
        any_of(day),
        any_of("/"),
        any_of(month, month.upper(), ROMAN[month]),
        any_of("."),
        any_of(year),
    ]


def _three_styles(x: Question) -> Texts:
    day, month, year = _date(x)
    return any_text(
        [[day, "/", month, "/", year], [month, ".", day, ".", year], [year, "-", month, "-", day]]
    )


# Summary: three pages with a story each, one of them in capitals. Its headline, whose last word has
# three synonyms; or the headline of any of the three.
TOPICS = ("fire", "flood", "match", "strike")


def _ask_pages(rng: random.Random) -> Question:
    x = [f"{rng.choice(TOPICS)}{page}" for page in "123"]
    bold = rng.randrange(3)
    return [word.upper() if page == bold else word for page, word in enumerate(x)]


def _headline(story: str) -> list[str]:
    return [f"{story.lower()}.{place}" for place in "abc"]


def _marked(x: Question) -> Choices:
    a, b, c = _headline(next(word for word in x if word.isupper()))
    return [any_of(a), any_of(b), any_of(c, f"{c}'", f"{c}''")]


def _any_story(x: Question) -> Texts:
    return any_text([_headline(word) for word in x])


# Dialogue: a greeting and three words, to be answered in kind. The greeting has three forms; or the
# whole answer is in one of three styles.
WORDS = (
    "hello morning evening welcome".split(),
    "tea water juice milk".split(),
    "bread rice soup cake".split(),
    "here outside upstairs home".split(),
)
STYLES = {"polite": 0.5, "plain": 0.25, "curt": 0.25}


def _ask_guest(rng: random.Random) -> Question:
    return [rng.choice(words) for words in WORDS]


def _greeting(x: Question) -> Choices:
    forms = {f"{x[0]}/{style}": p for style, p in STYLES.items()}
    return [forms, *(any_of(f"{word}/polite") for word in x[1:])]


def _style(x: Question) -> Texts:
    return {tuple(f"{word}/{style}" for word in x): p for style, p in STYLES.items()}


# Questions, with two numbered blanks. Name one of six; or name all of three, in any order.
QUESTIONS, NAMES = 12, 36


def _ask_name(rng: random.Random) -> Question:
    return [f"who{rng.randrange(QUESTIONS)}", "_1", "_2"]


def _names(x: Question, number: int) -> list[str]:
    first = 3 * int(x[0].removeprefix("who"))
    return [f"name{(first + i) % NAMES}" for i in range(number)]


def _name_one(x: Question) -> Choices:
    return [any_of(*_names(x, 6)), any_of("for"), any_of("one")]


def _name_all(x: Question) -> Texts:
    return any_text(list(permutations(_names(x, 3))))


# Rewriting: four words, two of them marked. The marked have two renderings each; or the whole
# sentence is put into one of four registers.
REGISTERS = ("formal", "plain", "slang", "verse")


def _ask_rewrite(rng: random.Random) -> Question:
    marked = rng.sample(range(4), 2)
    return [f"{place}{rng.randint(1, 3)}" + "*" * (t in marked) for t, place in enumerate("abcd")]


def _renderings(x: Question) -> Choices:
    return [any_of(f"{w[:-1]}'", f"{w[:-1]}''") if w.endswith("*") else any_of(w) for w in x]


def _register(x: Question) -> Texts:
    words = [word.rstrip("*") for word in x]
    return any_text([[f"{word}/{register}" for word in words] for register in REGISTERS])


# Speech: six tones, three of them level, somewhere. How high a level tone is is heard wrongly now
# and then; or it depends on the speaker's voice, which x does not say.
MISHEARD = 0.06149047007872415  # e, so that 3 h(e) = ln 2 as with the two voices


def _ask_tones(rng: random.Random) -> Question:
    level = rng.sample(range(6), 3)
    return [f"{'level' if t in level else 'rise'}{rng.randint(1, 3)}" for t in range(6)]


def _noise(x: Question) -> Choices:
    def heard(tone: str) -> dict[str, float]:
        return {f"{tone}:high": 1 - MISHEARD, f"{tone}:low": MISHEARD}

    return [heard(tone) if tone.startswith("level") else any_of(tone) for tone in x]


def _speaker(x: Question) -> Texts:
    return any_text(
        [[f"{t}:{voice}" if t.startswith("level") else t for t in x] for voice in ("high", "low")]
    )


# Captions: a strip of four different digits, blurred so that one has a single reading, one two, one
# three, one four. Read from left to right; or told in any order.
def _ask_strip(rng: random.Random) -> Question:
    blur = rng.sample(range(1, 5), 4)
    return [f"{digit}~{b}" for digit, b in zip(rng.sample(range(10), 4), blur, strict=True)]


def _readings(x: Question) -> Choices:
    return [any_of(*(sign[0] + "'" * i for i in range(int(sign[2])))) for sign in x]


def _any_order(x: Question) -> Texts:
    return any_text(list(permutations(sign[0] for sign in x)))


APPLICATIONS = {
    "translation": Application(_ask_date, _one_style, _three_styles),
    "summary": Application(_ask_pages, _marked, _any_story),
    "dialogue": Application(_ask_guest, _greeting, _style),
    "questions": Application(_ask_name, _name_one, _name_all),
    "rewriting": Application(_ask_rewrite, _renderings, _register),
    "speech": Application(_ask_tones, _noise, _speaker),
    "captions": Application(_ask_strip, _readings, _any_order),
}


def make(
    application: str = "translation",
    together: bool = True,
    sizes: Sizes = (60_000, 1000, 2000),
    seed: int = 0,
) -> Made:
    """Questions and drawn answers of one of a pair; for the options see ``load_task``."""
    expect(
        application in APPLICATIONS, "application", f"one of {', '.join(APPLICATIONS)}", application
    )
    expect(isinstance(together, bool), "together", "True or False", together)
    check_tokens(sizes, 6)
    of, always = APPLICATIONS[application], random.Random(0)
    some = [of.ask(always) for _ in range(2000)]  # in which every token comes up
    source = Vocab(tuple(sorted({token for x in some for token in x})))
    target = Vocab(tuple(sorted({w for x in some for y in of.answers(x, together) for w in y})))
    rng, xs, ys = random.Random(f"{seed} {application}"), [], []
    for _ in range(sum(sizes)):
        xs.append(source.encode(x := of.ask(rng)))
        texts = of.answers(x, together)
        ys.append(target.encode(rng.choices(list(texts), list(texts.values()))[0]))
    kind = "together" if together else "apart"
    counts = {}
    for name, one in APPLICATIONS.items():
        x = one.ask(random.Random(0))
        truth, other = (known(one.answers(x, way)) for way in (True, False))
        assert math.isclose(truth.entropy, other.entropy)  # what makes them a pair
        nats = f"H(y | x) {truth.entropy:.4f} nats a sequence, TC {truth.correlation:.4f} or 0"
        counts[name] = f"{len(x)} tokens, {nats}"
    card = Card(
        name="application",
        source=f"Generated: seven applications, tokens together or apart; here {application}, {kind}, seed {seed}.",
        licence="Ours.",
        counts=counts,
        split="Independent draws, cut in the order drawn.",
        flaws=(
            "A question is in several splits: what is learned is the rule, not a list.",
            "It has the structure of its application, not the language: that real texts have as "
            "much total correlation does not follow.",
            "Answers are as long as questions.",
        ),
    )
    return source, target, cut(xs, ys, sizes), card
