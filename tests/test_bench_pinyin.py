"""``sar bench pinyin`` at a tiny size: what is counted, compared and written. How good or fast anything is, no test asks."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sar_minimal.counting.rescoring import Reranker, tuned
from sar_minimal.data import Split, Vocab, accuracy, make_batch
from sar_minimal.kinds import loss_of
from sar_minimal.lab import bench_pinyin, cli
from sar_minimal.lab.bench_pinyin import (
    JOINED,
    Plan,
    counted,
    dictionary_of,
    hits,
    limit_rows,
    lines,
    measure,
    networks,
    sample,
    table,
    task_of,
    trained,
)
from sar_minimal.lab.bench_pinyin import bench_pinyin as run
from sar_minimal.lab.intervals import character_rate, difference, sentence_rate
from sar_minimal.shift import UNKNOWN

TINY = Plan(steps=2, tokens=256, width=16, layers=1, heads=2, lexicon=300, test=40, tune=10, timed=2)  # fmt: skip
DECODERS = (
    "Algorithm 1 as written",
    "SAR, one pass",
    "SAR, rescored by the trigram",
    "SAR, learned transitions",
    "mask-predict, 4 passes",
    "AR, greedy",
    "AR, beam 4",
    "draft and verify",
)
COUNTED = ("most frequent hanzi", "bigram", "trigram", "dictionary", "dictionary + trigram")


@pytest.fixture(scope="module")
def task():
    return task_of("words", TINY)


@pytest.fixture(scope="module")
def tables(task):
    return counted(task, *dictionary_of("words", TINY))


@pytest.fixture(scope="module")
def models(task):
    return trained(task, TINY, seed=0)


@pytest.mark.parametrize(
    "field, value, message",
    (
        ("steps", 0, "steps: expected"),
        ("test", 0, "test: expected"),
        ("timed", 1.5, "timed: expected"),
        ("seeds", (), "seeds: expected at least one, each once, got"),
        ("seeds", (1, 1), "seeds: expected at least one, each once, got"),
    ),
)
def test_a_plan_that_cannot_be_measured_is_refused(field, value, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        Plan(**{field: value})


def test_a_sample_is_evenly_spaced_and_never_larger_than_the_split():
    split = Split([[4 + i] for i in range(10)], [[5 + i] for i in range(10)])
    assert sample(split, 3).x == [[4], [7], [10]] and sample(split, 3).y == [[5], [8], [11]]
    assert sample(split, None) is split and sample(split, 11) is split


def test_hits_agree_with_accuracy_and_unknown_is_never_right():
    y = [[4, 5, UNKNOWN], [6, 7]]
    found = [[4, 9, UNKNOWN], [6, 7]]
    right = hits(found, y)
    assert right.tolist() == [1, 2]
    lengths = np.array([3, 2])
    expected = accuracy(found, y)
    assert character_rate(right, lengths).value == pytest.approx(expected[0])
    assert sentence_rate(right == lengths).value == pytest.approx(expected[1])


def test_wilsons_interval_solves_its_equation():
    for k, n in ((0, 20), (7, 20), (20, 20), (300, 1000)):
        rate = sentence_rate(np.arange(n) < k)
        assert rate.value == k / n and 0 <= rate.low + 1e-12 and rate.high <= 1 + 1e-12
        for p in (rate.low, rate.high):  # the p from which k / n is just 1.96 standard errors away
            assert (k / n - p) ** 2 == pytest.approx(1.96**2 * p * (1 - p) / n, abs=1e-12)


def test_intervals_over_sentences_cover_what_they_should():
    """Sentences whose characters are right or wrong together: counting characters would be too sure."""
    rng = np.random.default_rng(0)
    lengths, inside, paired = np.full(100, 10), 0, 0
    for _ in range(400):
        p = rng.random(100) < 0.6
        rate = character_rate(10 * p, lengths)
        inside += rate.low <= 0.6 <= rate.high
        apart = difference(p, p ^ (rng.random(100) < 0.3))  # 0.3 * (0.6 - 0.4) on average
        paired += apart.low <= 0.06 <= apart.high
    assert 0.9 < inside / 400 < 0.99 and 0.9 < paired / 400 < 0.99


def test_a_difference_is_paired():
    a = np.arange(1000) % 2
    assert difference(a, a) == (0, 0, 0)
    assert difference(np.ones(1000), np.zeros(1000)) == (1, 1, 1)


def test_tuned_takes_most_sentences_then_most_characters():
    y = [[4, 5], [6, 7]]
    found = {0.1: [[4, 5], [9, 9]], 0.2: [[4, 5], [6, 9]], 0.3: [[4, 9], [6, 9]]}
    assert tuned(found.get, y, list(found)) == 0.2


def test_every_system_converts_every_sentence(task, tables, models):
    systems = tables | networks(models, task, tables["trigram"].search)
    assert tuple(systems) == COUNTED + DECODERS
    found = {name: system.decode(task.test.x) for name, system in systems.items()}
    for texts in found.values():
        assert [len(t) for t in texts] == [len(x) for x in task.test.x]
    # Random weights: two tokens may be as likely to the last bit, which a batch's order decides.
    pairs = zip(found["AR, greedy"], found["draft and verify"], strict=True)
    assert sum(a == b for a, b in pairs) >= 38
    assert systems["draft and verify"].stored == (
        systems["AR, greedy"].stored + systems["SAR, one pass"].stored
    )
    for name, system in systems.items():
        assert system.stored > 0, name
    size = sum(p.numel() for p in models["sar"][0].parameters())
    assert systems["SAR, one pass"].stored == size
    assert models["as written"][0].mask == "causal" and models["sar"][0].mask == "full"


def test_the_dictionary_that_drew_the_text_is_near_its_bayes_limit(task, tables):
    one_pass, limit = limit_rows(task, dictionary_of("words", TINY)[0])
    assert one_pass["sentences"].value <= limit["sentences"].value
    assert one_pass["characters"] == limit["characters"]
    right = hits(tables["dictionary"].decode(task.test.x), task.test.y)
    lengths = np.array(list(map(len, task.test.y)))
    assert abs(limit["characters"].value - character_rate(right, lengths).value) < 0.05
    assert abs(limit["sentences"].value - sentence_rate(right == lengths).value) < 0.2
    assert limit["characters"].low < limit["characters"].value < limit["characters"].high
    # The limit is a mean of probabilities, which vary less than whether a sentence is right.
    wide = sentence_rate(right == lengths)
    assert 0 < limit["sentences"].high - limit["sentences"].low < 0.8 * (wide.high - wide.low)


@pytest.mark.parametrize("kind", ("sar", "ar"))
def test_a_reranker_adds_the_networks_word_to_the_paths(task, tables, models, kind):
    words, model = tables["dictionary + trigram"].search, models[kind][0]
    rerank, x = Reranker(words, model, k=5), task.test.x[0]
    paths = rerank.paths(x)
    assert 1 <= len(paths) <= 5 and paths[0][2] == words.decode([x])[0]
    assert [p[0] for p in paths] == sorted((p[0] for p in paths), reverse=True)
    for _, said, text in paths:  # one text alone, in place of all at once
        nats = loss_of(model, make_batch([x], [text]), "sum")
        assert said == pytest.approx(-float(nats.detach()), abs=1e-4)
    assert rerank.best(paths, 0.0) == paths[0][2]
    assert rerank.best(paths, 1e9) == max(paths, key=lambda p: p[1])[2]
    made = rerank.tuned(task.validation)(task.test.x[:3])
    assert [len(y) for y in made] == [len(x) for x in task.test.x[:3]]


@pytest.mark.parametrize("name, unread", (("Pinyin2Hanzi", "hm"), ("libime", "<unk>")))
def test_an_installed_converter_has_its_own_spelling(task, name, unread):
    source, target = Vocab(["xue", "sheng", "lve", "hm"]), Vocab(["学", "生", "略"])
    peers = bench_pinyin.installed_converters(replace(task, source=source, target=target))
    if name not in peers:
        pytest.skip(f"{name} is not installed")
    unread = source.encode([unread], "map")[0]
    assert peers[name].decode([[4, 5], [4, unread]]) == [[4, 5], [UNKNOWN, UNKNOWN]]


def test_libime_has_no_row_where_it_is_not_installed(task, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(bench_pinyin, "_libime", bench_pinyin._libime.__wrapped__)  # asks anew
    monkeypatch.setattr(bench_pinyin, "LIBIME_WORDS", tmp_path / "sc.dict")
    assert "libime" not in bench_pinyin.installed_converters(task)
    if shutil.which("g++"):  # half installed: the compiler says what is missing
        monkeypatch.setattr(bench_pinyin, "LIBIME_WORDS", tmp_path)
        monkeypatch.setattr(bench_pinyin, "FLAGS", "-nostdinc")
        assert "libime" not in bench_pinyin.installed_converters(task)
        assert "libime.cpp" in capfd.readouterr().err


def test_libime_is_asked_line_by_line_and_its_end_is_an_error():
    code = "print('<' + input() + '>', flush=True); input()"  # in libime's place
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as program:
        assert bench_pinyin._ask(program, ["ni", "hao"]) == "<ni'hao>"
        with pytest.raises(ChildProcessError, match="libime ended, asked for"):
            bench_pinyin._ask(program, ["wo"])


def test_a_table_has_the_mean_over_seeds_and_pairs_with_its_baseline(task, tables):
    systems = {"trigram": [tables["trigram"]], "two": [tables["trigram"], tables["bigram"]]}
    outcomes = measure(systems, task.test, 2)
    assert outcomes["two"].right.shape == (2, 40)
    rows = {row["system"]: row for row in table(outcomes)}
    assert rows["trigram"]["sentences - trigram"] == (0, 0, 0)
    first, second = rows["two"]["seeds"]
    assert first == rows["trigram"]["seeds"][0]
    assert rows["two"]["sentences"].value == pytest.approx((first + second) / 2)
    gain = rows["two"]["sentences - trigram"].value
    assert gain == pytest.approx((second - first) / 2)
    assert "stored" in lines(list(rows.values()))[0]


def test_the_whole_writes_what_it_returns(tmp_path, capsys):
    path = tmp_path / "pinyin.json"
    tables = run(TINY, path, ["words"])
    written = json.loads(path.read_text())
    assert list(written) == list(tables) == ["machine", "words"]
    names = [row["system"] for row in written["words"]]
    assert set(COUNTED + DECODERS) < set(names)
    assert names[-1] == "Bayes limit (exact)" and set(JOINED) <= set(names)
    for row in written["words"]:
        value, low, high = row["sentences"]
        assert low - 1e-9 <= value <= high + 1e-9 and all(map(math.isfinite, row["characters"]))
    assert written["machine"][0]["steps"] == TINY.steps
    printed = capsys.readouterr().out
    assert "WORDS" in printed and all(name in printed for name in names)


def test_a_text_of_ones_own(tmp_path, capsys):
    text = "我爱北京天安门\n他们都是好朋友\n今天天气很好\n明天我们去上海\n老师在学校工作\n".splitlines()
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(text[i % 5] + "一二三四五六七八九十"[i // 10] for i in range(100)), "utf-8")  # fmt: skip
    rows = run(TINY, None, [f"file:{path}"])[f"file:{path}"]
    assert {row["system"] for row in rows} > set(COUNTED)


def test_a_corpus_that_is_none_is_refused_before_anything_is_trained(monkeypatch, capsys):
    monkeypatch.setattr(bench_pinyin, "task_of", None)
    with pytest.raises(ValueError, match="^corpus: expected words, news or file:PATH .*got 'hsk'"):
        run(TINY, None, ["hsk"])


def test_the_command_hands_on_what_it_is_given(monkeypatch, tmp_path, capsys):
    given = []
    monkeypatch.setattr(bench_pinyin, "bench_pinyin", lambda *a: given.append(a))
    threads = str(torch.get_num_threads())
    path = tmp_path / "p.json"
    command = ["bench", "pinyin", "--quick", "--threads", threads, "--json", str(path)]
    assert cli.main([*command, "--corpus", "words", "news"]) == 0
    assert given == [(bench_pinyin.QUICK, path, ["words", "news"])]
    assert cli.main(["bench", "pinyin", "--threads", threads]) == 0
    assert given[1] == (Plan(), None, None)
    assert cli.main(["bench", "pinyin", "--large", "--threads", threads]) == 0
    assert given[2] == (bench_pinyin.LARGE, None, None)
    for wrong, message in (
        (["--corpus", "words"], "unrecognized arguments: --corpus"),
        (["decode", "--large"], "unrecognized arguments: --large"),
        (["pinyin", "--quick", "--large"], "argument --large: not allowed with argument --quick"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["bench", *wrong])
        assert message in capsys.readouterr().err
    assert len(given) == 3


def test_a_plan_reaches_the_networks(task, monkeypatch):
    """Dropout and mixed precision are what ``LARGE`` has more than the other plans."""
    recipes = []

    def train_all(runs):
        for model, _, recipe in runs:
            recipes.append((model.config.dropout, recipe.mixed, recipe.steps, recipe.tokens))
            yield [{"seconds": 0.0}]

    monkeypatch.setattr(bench_pinyin, "train_all", lambda runs: list(train_all(runs)))
    plan = replace(bench_pinyin.LARGE, width=16, layers=1, heads=2)
    assert set(trained(task, plan, 0)) == set(bench_pinyin.NETWORKS)
    assert recipes == [(0.2, True, 1500, 8192)] * len(bench_pinyin.NETWORKS)
