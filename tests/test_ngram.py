"""n-grams and the lattice against brute force: every number here has a second way to be reached."""

import itertools
import math
import random

import numpy as np
import pytest

from sar_minimal.counting.kneser_ney import KneserNey
from sar_minimal.counting.lexicon import Lexicon
from sar_minimal.counting.ngram import NGram
from sar_minimal.data import Split, Vocab
from sar_minimal.shift import END, START, UNKNOWN
from sar_minimal.tasks.words import WordModel

SYLLABLES = {
    4: (10, 11),
    5: (10,),
    6: (11,),
    7: (11, 12),
    8: (12,),
    9: (10,),
}  # hanzi: its readings


def text(pairs, seed):
    """Random pairs in which what follows depends on what came before, so that order matters."""
    rng = random.Random(seed)
    x, y = [], []
    for _ in range(pairs):
        row = [rng.choice(list(SYLLABLES))]
        while len(row) < rng.randint(1, 7):
            row.append(4 + (row[-1] + sum(row[-2:]) % 3 + (rng.random() < 0.3)) % 6)
        y.append(row)
        x.append([rng.choice(SYLLABLES[h]) for h in row])
    return Split(x, y)


@pytest.fixture(scope="module")
def split():
    return text(60, seed=0)


def key(model, context):
    return np.array(sum(c * model.base**k for k, c in enumerate(reversed(context))))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one_in_every_context(split, order):
    model = KneserNey(split.y, order, vocabulary=12)  # ids 10 and 11 never occur
    events = np.array([END, UNKNOWN, *range(4, 12)])
    contexts = [START, UNKNOWN, *range(4, 12)]
    for context in itertools.product(contexts, repeat=order - 1):
        p = model.prob(key(model, context), events)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert (p > 0).all()


def test_kneser_ney_by_hand():
    # a b | a b | a c | b: the bigrams <s>a 3, <s>b 1, ab 2, ac 1, b</s> 3, c</s> 1. Counts of one: 3, of
    # two: 1, so D = 3 / (3 + 2). To the left of a stands {<s>}, of b {<s>, a}, of c {a}, of </s> {b, c}:
    # 1, 2, 1, 2 of 6, two ones and two twos, so the lower D = 2 / (2 + 4).
    a, b, c = 4, 5, 6
    model = KneserNey([[a, b], [a, b], [a, c], [b]], 2, vocabulary=8)
    uniform = 1 / 6  # </s>, <unk>, a, b, c, and one that was never seen
    lower = 1 / 3 * 4 / 6 * uniform
    p = {
        a: (1 - 1 / 3) / 6 + lower,
        b: (2 - 1 / 3) / 6 + lower,
        c: (1 - 1 / 3) / 6 + lower,
        7: lower,
    }
    assert model.prob(key(model, [START]), a) == pytest.approx((3 - 0.6) / 4 + 0.6 * 2 / 4 * p[a])
    assert model.prob(key(model, [a]), b) == pytest.approx((2 - 0.6) / 3 + 0.6 * 2 / 3 * p[b])
    assert model.prob(key(model, [a]), a) == pytest.approx(0.6 * 2 / 3 * p[a])
    assert model.prob(key(model, [7]), c) == pytest.approx(p[c])  # a context never seen
    assert model.prob(key(model, [b]), 7) == pytest.approx(0.6 * 1 / 3 * p[7])


def test_an_opening_keeps_its_occurrences_in_the_lower_order():
    # Under START the middle order of a trigram has no left neighbour to count: a opens 3 of 4 times.
    a, b = 4, 5
    middle = KneserNey([[a, b], [a, a], [a, b], [b, b]], 3).levels[1]
    base = 6
    opens = middle.grams // base == START
    assert (middle.grams[opens] % base).tolist() == [a, b]
    assert middle.direct[opens][0] > 2 * middle.direct[opens][1]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_log_prob_is_the_sum_of_its_steps_in_nats(split, order):
    model = NGram(split, order, vocabulary=12)
    for y in ([4], [4, 5, 6, 7], [11, UNKNOWN, 4]):
        padded, total = [START] * (order - 1) + y + [END], 0.0
        for t in range(order - 1, len(padded)):
            context = padded[t - order + 1 : t]
            total += math.log(model.model.prob(key(model.model, context), padded[t]))
        assert model.log_prob([[5, 5], y])[1] == pytest.approx(total, abs=1e-12)
    assert model.log_prob([]).shape == (0,)


def brute_force(model, split, x):
    """The best total log p over all hanzi sequences, and those that reach it."""
    pairs = [
        (s, h) for xs, ys in zip(split.x, split.y, strict=True) for s, h in zip(xs, ys, strict=True)
    ]
    hanzi = [h for _, h in pairs]
    emission = {(s, h): math.log(pairs.count((s, h)) / hanzi.count(h)) for s, h in set(pairs)}
    choices = [[h for s, h in emission if s == syllable] or [UNKNOWN] for syllable in x]
    ys = [list(y) for y in itertools.product(*choices)]
    read = [sum(emission.get(pair, 0.0) for pair in zip(x, y, strict=True)) for y in ys]
    total = model.log_prob(ys) + np.array(read)
    return total.max(), [
        y for y, score in zip(ys, total, strict=True) if score > total.max() - 1e-9
    ]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_search_finds_what_enumeration_finds(split, order):
    model, rng = NGram(split, order, vocabulary=12), np.random.default_rng(0)
    for T in (1, 2, 4):
        candidates = np.stack(
            [rng.choice(np.arange(UNKNOWN, 12), 4, replace=False) for _ in range(T)]
        )
        scores = 3 * rng.standard_normal((T, 4))
        total = {}
        for choice in itertools.product(range(4), repeat=T):
            y = tuple(int(candidates[t, c]) for t, c in enumerate(choice))
            given = sum(scores[t, c] for t, c in enumerate(choice))
            total[y] = given + float(model.log_prob([list(y)])[0])
        found = tuple(model.search(candidates, scores))
        assert total[found] == pytest.approx(max(total.values()), abs=1e-9)
        again = tuple(model.search(candidates[:, ::-1], 0 * scores))  # nothing is remembered
        assert total[again] is not None and model.log_prob([list(again)])[0] == pytest.approx(
            max(model.log_prob([list(y)])[0] for y in total), abs=1e-9
        )


@pytest.mark.parametrize(
    ("candidates", "scores", "message"),
    [
        (
            np.zeros((0, 2), int),
            np.zeros((0, 2)),
            r"expected shape \(T, K\) as of scores, got \(0, 2\)",
        ),
        ([[4, 5]], [[0.0]], r"got \(1, 2\) and \(1, 1\)"),
        ([[START, 5]], [[0.0, 0.0]], "candidates: expected ids in 3..11, got 1..5"),
        ([[12, 5]], [[0.0, 0.0]], "candidates: expected ids in 3..11, got 5..12"),
        ([[4, 5]], [[0.0, -math.inf]], "scores: expected finite numbers"),
    ],
)
def test_search_refuses(split, candidates, scores, message):
    with pytest.raises(ValueError, match=message):
        NGram(split, 2, vocabulary=12).search(candidates, scores)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_decoding_finds_what_enumeration_finds(split, order):
    model = NGram(split, order)
    rng = random.Random(1)
    xs = [[rng.choice([10, 11, 12]) for _ in range(rng.randint(1, 6))] for _ in range(60)]
    xs += [[10, 99, 11, 12], [99], [99, 99, 10]]  # 99 was never seen
    for x, y in zip(xs, model.decode(xs), strict=True):
        assert len(y) == len(x)
        assert y in brute_force(model, split, x)[1], (x, y)


def test_order_1_is_the_most_frequent_hanzi():
    model = NGram(Split([[10, 10, 10, 10]], [[4, 5, 5, 4]]), 1)
    assert model.decode([[10]])[0][0] in (4, 5)
    model = NGram(Split([[10, 10, 10, 11]], [[4, 5, 5, 4]]), 1)
    assert model.decode([[10, 11, 10, 12]]) == [[5, 4, 5, UNKNOWN]]
    assert model.decode([]) == []


def test_higher_orders_use_context():
    alternating = Split([[10] * 6] * 5, [[4, 5, 5, 4, 5, 5]] * 5)
    assert NGram(alternating, 1).decode([[10] * 6]) == [[5] * 6]
    assert NGram(alternating, 3).decode([[10] * 6]) == [[4, 5, 5, 4, 5, 5]]


def test_what_ngrams_refuse(split):
    for order in (0, 4, True, "2"):
        with pytest.raises(ValueError, match=r"order: expected 1, 2 or 3, got"):
            NGram(split, order)
    with pytest.raises(ValueError, match="at least one pair, got an empty one"):
        NGram(Split([], []), 2)
    with pytest.raises(ValueError, match="pair 1 has 2 source and 1 target tokens"):
        NGram(Split([[4], [4, 5]], [[4], [4]]), 2)
    with pytest.raises(ValueError, match=r"expected ids in 3\.\.7, got 4\.\.9"):
        NGram(split, 2, vocabulary=8)
    with pytest.raises(ValueError, match=r"log_prob: expected ids in 3\.\.9"):
        NGram(split, 2).log_prob([[4, 10]])
    with pytest.raises(ValueError, match="at least one sentence"):
        KneserNey([], 1)


WORDS = [(4,), (5,), (6,), (4, 5), (6, 5), (5, 6, 4), (7, 7)]
READINGS = [(10,), (11,), (10,), (10, 11), (10, 11), (11, 10, 10), (12, 12)]
WEIGHTS = np.log([0.2, 0.15, 0.25, 0.1, 0.12, 0.08, 0.1])


def segmentations(x):
    if not x:
        yield 0.0, []
    for word, reading, weight in zip(WORDS, READINGS, WEIGHTS, strict=True):
        if tuple(x[: len(reading)]) == reading:
            for rest, tokens in segmentations(x[len(reading) :]):
                yield weight + rest, [*word, *tokens]


def test_the_lattice_finds_the_best_segmentation():
    lattice = Lexicon(WORDS, READINGS, WEIGHTS)
    for n in range(1, 7):
        for x in itertools.product((10, 11), repeat=n):
            best = max(segmentations(x))
            got = lattice.decode([list(x)])[0]
            scores = [score for score, tokens in segmentations(x) if tokens == got]
            assert max(scores) == pytest.approx(best[0], abs=1e-12)


def test_the_lattice_reads_alone_what_no_word_covers():
    lattice = Lexicon(WORDS, READINGS, WEIGHTS)
    assert lattice.decode([[12], [12, 12, 12], [99, 11], []]) == [[7], [7, 7, 7], [UNKNOWN, 5], []]


def test_the_lattice_from_a_word_model():
    model = WordModel(("上海", "商"), (("shang", "hai"), ("shang",)), np.array([0.5, 0.5]), 1.0)
    source, target = Vocab(["hai", "shang"]), Vocab(["上", "海", "商"])
    lattice = Lexicon.from_model(model, source, target)
    x = source.encode(["shang", "shang", "hai"])
    assert target.decode(lattice.decode([x])[0]) == ["商", "上", "海"]
    assert lattice.read[(5,)][0] == (pytest.approx(math.log(0.5 * 7 / 8)), (6,))
    smaller = Lexicon.from_model(model, source, Vocab(["商"]))  # 上海 cannot be spelled: left out
    assert smaller.decode([x]) == [[4, 4, UNKNOWN]]


def test_what_the_lattice_refuses():
    with pytest.raises(ValueError, match="at least one, got 0, 0 and 0"):
        Lexicon([], [], [])
    with pytest.raises(ValueError, match="got 1, 1 and 2"):
        Lexicon([(4,)], [(10,)], [0.0, 0.0])
    with pytest.raises(ValueError, match=r"word \(4,\) has the reading \(10, 11\)"):
        Lexicon([(4,)], [(10, 11)], [0.0])
    with pytest.raises(ValueError, match="can spell"):
        model = WordModel(("商",), (("shang",),), np.array([1.0]), 1.0)
        Lexicon.from_model(model, Vocab(["hai"]), Vocab(["海"]))
