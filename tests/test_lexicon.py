"""Lattices, the words under a trigram and the Bayes limit against enumeration of all that they sum."""

import itertools
import math
import random

import numpy as np
import pytest

from sar_minimal.counting.lattice import Lattice
from sar_minimal.counting.lexicon import Lexicon, bayes_limit
from sar_minimal.counting.ngram import NGram
from sar_minimal.counting.word_ngram import WordNGram
from sar_minimal.data import Split
from sar_minimal.shift import UNKNOWN
from sar_minimal.tasks import words as dictionary

SYLLABLES = (10, 11, 12)


def random_lexicon(seed, rescue=3.0):
    """Words of 1 to 3 of the tokens 4..8, read at random: many homophones, and one text in many cuts."""
    rng = random.Random(seed)
    words = {}
    while len(words) < 18:
        word = tuple(rng.randint(4, 8) for _ in range(rng.choice((1, 1, 2, 2, 3))))
        words[word] = tuple(10 + (c + rng.randint(0, 1)) % 3 for c in word)
    weights = np.log(np.random.default_rng(seed).dirichlet(np.ones(len(words))))
    return Lexicon(list(words), list(words.values()), weights, rescue)


@pytest.fixture(params=range(4))
def lexicon(request):
    return random_lexicon(request.param)


@pytest.fixture(scope="module")
def ngram():
    rng = random.Random(5)
    ys = [
        [4 + (i * i + rng.randint(0, 2)) % 5 for i in range(rng.randint(1, 6))] for _ in range(60)
    ]
    return NGram(Split([[10 + c % 3 for c in y] for y in ys], ys), 3, vocabulary=9)


def sentences(lengths=(1, 3, 5), each=6, extra=((99,), (10, 99, 11))):
    rng = random.Random(9)
    return [[rng.choice(SYLLABLES) for _ in range(T)] for T in lengths for _ in range(each)] + [
        list(x) for x in extra
    ]


def cuts(lexicon, x):
    """(log weight, words) of every segmentation, from the word list alone."""
    if not x:
        return [(0.0, [])]
    found = []
    for n in range(1, len(x) + 1):
        entries = lexicon.read.get(tuple(x[:n]), [] if n > 1 else [(-lexicon.rescue, (UNKNOWN,))])
        for weight, word in entries:
            found += [(weight + w, [word, *rest]) for w, rest in cuts(lexicon, x[n:])]
    return found


def joined(words):
    return tuple(token for word in words for token in word)


def by_text(paths):
    """p(y) of every text, the segmentations summed."""
    total = math.fsum(math.exp(w) for w, _ in paths)
    p = {}
    for weight, words in paths:
        p[joined(words)] = p.get(joined(words), 0.0) + math.exp(weight) / total
    return p


def agrees(lattice, paths):
    """Everything that a lattice says, from the list of its paths."""
    p = by_text(paths)
    T = len(next(iter(p)))
    for t, found in enumerate(lattice.marginals()):
        for v in {y[t] for y in p} | set(found):
            expected = math.fsum(q for y, q in p.items() if y[t] == v)
            assert found.get(v, 0.0) == pytest.approx(expected, abs=1e-12)
    assert len(lattice.marginals()) == T
    texts = list(lattice.texts(10**6))
    assert [q for _, q, _ in texts] == pytest.approx(sorted(p.values(), reverse=True), abs=1e-12)
    assert {tuple(y) for y, _, _ in texts} == set(p) and len(texts) == len(p)
    for y, q, at_most in texts:
        assert q == at_most == pytest.approx(p[tuple(y)], abs=1e-12)
        assert lattice.probability(y) == pytest.approx(q, abs=1e-12)
    of_texts = -math.fsum(q * math.log(q) for q in p.values() if q)
    assert lattice.entropy() == pytest.approx(of_texts, abs=1e-9)
    heaviest = sorted(paths, key=lambda path: -path[0])
    assert [w for w, _ in lattice.paths()] == pytest.approx([w for w, _ in heaviest])
    again = {(joined(words), tuple(map(len, words))) for _, words in lattice.paths()}
    assert again == {(joined(words), tuple(map(len, words))) for _, words in paths}
    assert tuple(lattice.best()) in {joined(w) for s, w in paths if s > heaviest[0][0] - 1e-9}


def test_a_lattice_is_the_list_of_its_segmentations(lexicon):
    several = 0
    for x in sentences():
        paths = cuts(lexicon, x)
        agrees(lexicon.lattice(x), paths)
        several += len(paths) > len(by_text(paths))
        assert lexicon.lattice(x).best() == lexicon.decode([x])[0]
    assert several  # texts with more than one cut, or the sums were not tested


def test_the_beginnings_bound_what_is_not_listed(lexicon):
    met = 0
    for x in sentences((5, 6)):
        p = by_text(cuts(lexicon, x))
        for limit in (1, 3, 10):
            listed = []
            for y, q, at_most in lexicon.lattice(x).texts(limit):
                assert q == pytest.approx(p[tuple(y)], abs=1e-12)
                rest = [v for z, v in p.items() if z not in listed]
                assert at_most >= max(rest) - 1e-12
                met += at_most > q + 1e-12
                listed.append(tuple(y))
            assert listed and len(set(listed)) == len(listed)
    assert met


def test_nothing_and_the_unheard(lexicon):
    assert lexicon.decode([[], [99, 99]]) == [[], [UNKNOWN, UNKNOWN]]
    assert lexicon.lattice([]).marginals() == []
    assert [text.tokens for text in lexicon.lattice([]).texts()] == [[]]
    assert lexicon.lattice([99]).marginals() == [{UNKNOWN: 1.0}]
    assert lexicon.lattice([10]).probability([99]) == 0.0


def test_a_hanzi_that_is_no_word_costs_the_rescue():
    words, readings = [(4, 5), (6, 5), (7,)], [(10, 11), (12, 11), (10,)]
    lexicon = Lexicon(words, readings, np.log([0.5, 0.25, 0.25]), rescue=2.0)
    assert lexicon.read[(10,)][0] == (pytest.approx(math.log(0.25)), (7,))
    assert lexicon.read[(10,)][1] == (pytest.approx(math.log(0.5 / 0.75) - 2), (4,))
    assert lexicon.read[(11,)] == [(pytest.approx(-2), (5,))]  # in two words, and the only one
    cheap, dear = (Lexicon(words, readings, np.log([0.5, 0.25, 0.25]), r) for r in (0, 1e4))
    assert cheap.decode([[10]]) == [[4]] and dear.decode([[10]]) == [[7]]
    assert dear.lattice([10]).marginals()[0] == {7: 1.0}  # e^-10000 is nothing


def scored(lexicon, ngram, weight, x):
    paths = cuts(lexicon, x)
    lm = ngram.log_prob([joined(words) for _, words in paths])
    return [(s + weight * p, words) for (s, words), p in zip(paths, lm.tolist(), strict=True)]


@pytest.mark.parametrize("weight", [0.4, 1.5])
def test_without_a_beam_the_words_under_the_trigram_are_searched_exactly(lexicon, ngram, weight):
    # Nothing is lost where hypotheses merge: the graph has every path, with its weight.
    model = WordNGram(lexicon, ngram, weight, width=None)
    nodes = []
    for x in sentences((1, 3, 4)):
        agrees(model.lattice(x), scored(lexicon, ngram, weight, x))
        nodes.append(len(model.lattice(x).arcs) / len(cuts(lexicon, x)))
    assert min(nodes) < 0.2  # and they do merge


@pytest.mark.parametrize("order", [1, 2])
def test_lower_orders_too(lexicon, ngram, order):
    split = Split([[10], [11, 12], [11, 12, 11]], [[4], [5, 7], [5, 8, 6]])
    lower = NGram(split, order, vocabulary=9)
    for x in sentences((2, 3)):
        agrees(WordNGram(lexicon, lower, 1.0, None).lattice(x), scored(lexicon, lower, 1.0, x))


def test_weight_0_is_the_lexicon_alone(lexicon, ngram):
    for width in (1, 8, None):
        xs = sentences()
        for x, y in zip(xs, WordNGram(lexicon, ngram, 0.0, width).decode(xs), strict=True):
            best = max(cuts(lexicon, x))[0]
            reached = max(w for w, words in cuts(lexicon, x) if joined(words) == tuple(y))
            if width is None:
                assert reached == pytest.approx(best)
    whole = WordNGram(lexicon, ngram, 0.0, None)
    for x in sentences():
        ours, theirs = whole.lattice(x).marginals(), lexicon.lattice(x).marginals()
        for a, b in zip(ours, theirs, strict=True):
            assert a == pytest.approx(b, abs=1e-12)


def test_a_beam_keeps_what_it_says_and_a_wider_one_is_exact(lexicon, ngram):
    worse = 0
    for x in sentences((5,), extra=()):
        exact, found = {}, {}
        for score, words in scored(lexicon, ngram, 1.5, x):
            exact[joined(words)] = max(score, exact.get(joined(words), -math.inf))
        for width in (1, 2, 1000):
            lattice = WordNGram(lexicon, ngram, 1.5, width).lattice(x)
            assert max(np.bincount(lattice.spelled)) <= width and lattice.spelled[-1] == len(x)
            found[width] = next(lattice.paths())[0]
            assert found[width] <= exact[tuple(lattice.best())] + 1e-9
        assert found[1000] == pytest.approx(max(exact.values()), abs=1e-9)
        worse += found[1] < found[1000] - 1e-9
    assert worse  # a beam of one does err, or this tests nothing


def test_log_p_is_prob(ngram):
    model = ngram.model
    for u, v, w in itertools.product([1, 3, *range(4, 9)], [1, 3, *range(4, 9)], [2, 3, 4, 6, 8]):
        p = model.prob(np.array(u * model.base + v), np.array(w))
        assert model.log_p(u, v, [w, 5, w])[::2] == pytest.approx([math.log(p)] * 2, abs=1e-12)


def test_the_bayes_limit_is_that_of_all_texts():
    # The model draws words and stops with rho = 1/2; given that the length is 1 to 4, every (x, y) is listed.
    words = [(4,), (5,), (6,), (4, 5), (5, 4), (6, 4, 4)]
    readings = [(10,), (10,), (11,), (10, 10), (10, 10), (11, 10, 10)]
    q = np.array([0.2, 0.25, 0.1, 0.15, 0.1, 0.2])
    lexicon = Lexicon(words, readings, np.log(q / 2))
    joint = {}  # (x, y): p
    for n in range(1, 5):
        for chosen in itertools.product(range(6), repeat=n):
            x, y = (tuple(t for w in chosen for t in table[w]) for table in (readings, words))
            if len(x) <= 4:
                joint[x, y] = joint.get((x, y), 0.0) + math.prod(q[list(chosen)] / 2)
    given = {}
    for (x, y), p in joint.items():
        given.setdefault(x, {})[y] = p
    xs = list(given)
    characters = [
        sum(
            max(sum(p for y, p in ys.items() if y[t] == v) / sum(ys.values()) for v in (4, 5, 6))
            for t in range(len(x))
        )
        for x, ys in given.items()
    ]
    sentences = [max(ys.values()) / sum(ys.values()) for ys in given.values()]
    ys = [list(max(ys, key=ys.get)) for ys in given.values()]
    found = bayes_limit(lexicon, Split(list(map(list, xs)), ys))
    assert found.lengths.tolist() == list(map(len, xs))
    assert found.characters == pytest.approx(characters, abs=1e-12)
    assert found.sentences == pytest.approx(sentences, abs=1e-12)
    assert (found.sentences_at_most == found.sentences).all()
    for x, ys, one_pass in zip(xs, given.values(), found.one_pass, strict=True):
        likely = [
            max((4, 5, 6), key=lambda v: sum(p for y, p in ys.items() if y[t] == v))
            for t in range(len(x))
        ]
        assert one_pass == pytest.approx(ys.get(tuple(likely), 0.0) / sum(ys.values()), abs=1e-12)

    # Drawn texts meet the expectation: y from p(y | x), within five standard errors.
    rng = random.Random(0)
    many = Split(*map(list, zip(*[
        (list(x), list(y)) for x, y in rng.choices(list(joint), list(joint.values()), k=3000)
    ], strict=True)))  # fmt: skip
    found = bayes_limit(lexicon, many)
    for got, expected in (
        (found.right_sentences, found.sentences), (found.right_characters, found.characters)
    ):  # fmt: skip
        gap = got - expected
        assert abs(gap.mean()) < 5 * gap.std() / math.sqrt(len(gap))
    short = bayes_limit(lexicon, many, limit=1)
    assert (short.sentences <= found.sentences + 1e-12).all()
    assert (short.sentences_at_most >= found.sentences - 1e-12).all()


def test_pairs_may_be_tuples():
    """A text that is right is right whatever holds its tokens."""
    lexicon = Lexicon([(4,), (5,)], [(10,), (10,)], np.log([0.6, 0.4]))
    for kind in (list, tuple):
        limit = bayes_limit(lexicon, Split([kind([10, 10])], [kind([4, 4])]))
        assert limit.right_sentences.tolist() == [True] and limit.right_characters.tolist() == [2]


def test_the_two_best_differ():
    # 4 5 and 5 4 and 6 6: the most probable text, and the most probable token at each place.
    words, readings = [(4, 5), (4, 6), (5, 6)], [(10, 10)] * 3
    lexicon = Lexicon(words, readings, np.log([0.4, 0.3, 0.3]))
    limit = bayes_limit(lexicon, Split([[10, 10]], [[4, 6]]))
    assert limit.sentences[0] == pytest.approx(0.4)
    assert limit.characters[0] == pytest.approx(0.7 + 0.6)
    assert limit.one_pass[0] == pytest.approx(0.3)
    assert limit.right_characters[0] == 2 and not limit.right_sentences[0]


def test_what_lexicons_refuse(lexicon, ngram):
    for arguments, message in (
        (([], [], []), "at least one, got 0, 0 and 0"),
        (([(4,)], [(10,)], [0.0, 0.0]), "got 1, 1 and 2"),
        (([(4,)], [(10, 11)], [0.0]), r"word \(4,\) has the reading \(10, 11\)"),
        (([()], [()], [0.0]), r"word \(\) has the reading \(\)"),
        (([(4,)], [(10,)], [-math.inf]), "log_probs: expected finite numbers"),
        (([(4,)], [(10,)], [0.0], -1), "rescue: expected a price in nats, >= 0, got -1"),
        (([(4,)], [(10,)], [0.0], math.nan), "rescue: expected a price in nats, >= 0, got nan"),
        (([(4,), (4,)], [(10,)] * 2, [0, 0]), r"a word with the reading \(10,\) is there twice"),
    ):
        with pytest.raises(ValueError, match=message):
            Lexicon(*arguments)
    for options, message in (
        ({"weight": -1}, "weight: expected a number >= 0, got -1"),
        ({"weight": math.inf}, "weight: expected a number >= 0, got inf"),
        ({"width": 0}, "width: expected a whole number >= 1, got 0"),
        ({"width": 2.5}, "width: expected a whole number >= 1, got 2.5"),
    ):
        with pytest.raises(ValueError, match=message):
            WordNGram(lexicon, ngram, **options)
    with pytest.raises(ValueError, match=r"lexicon: expected tokens in 3\.\.8 as in ngram, got 9"):
        WordNGram(Lexicon([(9,)], [(10,)], [0.0]), ngram)
    with pytest.raises(TypeError, match="lexicon: expected Lexicon, got NGram"):
        WordNGram(ngram, lexicon)
    with pytest.raises(TypeError, match="ngram: expected NGram, got KneserNey"):
        WordNGram(lexicon, ngram.model)
    with pytest.raises(ValueError, match="limit: expected a whole number >= 1, got 0"):
        next(Lattice([[]]).texts(0))
    with pytest.raises(ValueError, match="bayes_limit: expected at least one pair, got an empty"):
        bayes_limit(lexicon, Split([], []))
    with pytest.raises(ValueError, match="bayes_limit: pair 0 has 2 source and 1 target tokens"):
        bayes_limit(lexicon, Split([[10, 10]], [[4]]))


def test_rare_words_are_kept_on_request(tmp_path, monkeypatch):
    # A dictionary of our own: 3 counts are few, and 镕 is not in level 1 of GB2312.
    (tmp_path / "dict.txt").write_text("上海 6 ns\n海上 3 s\n镕 9 nr\nAA制 7 n\n", encoding="utf-8")
    folder = dictionary.package_folder
    monkeypatch.setattr(
        dictionary,
        "package_folder",
        lambda name, *extra: tmp_path if name == "jieba" else folder(name),
    )
    monkeypatch.setenv("SAR_CACHE", str(tmp_path))
    word_model = dictionary.word_model.__wrapped__  # what it remembers is of the real dictionary
    assert word_model().words == ("上海",) and word_model().coverage == pytest.approx(6 / 18)
    rare = word_model(rare=True)
    assert rare.words == ("上海", "海上", "镕") and rare.coverage == 1
    assert rare.readings[1:] == (("hai", "shang"), ("rong",))
    assert rare.probabilities == pytest.approx([6 / 18, 3 / 18, 9 / 18])
