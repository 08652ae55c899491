"""What the benchmarks compute, on tiny sizes. How fast anything is, no test asks."""

import io
import json
import sys

import pytest
import torch

from sar_minimal.algorithm1 import DualStreamSAR
from sar_minimal.blocks import Config
from sar_minimal.data import Batch, convert
from sar_minimal.kinds import make_model
from sar_minimal.lab import bench_speed, demo, timing
from sar_minimal.lab.tables import as_text
from sar_minimal.tasks import load_task
from sar_minimal.training import loss_and_gradients, new_optimizer


@pytest.fixture(scope="module")
def task():
    return load_task("pinyin", sizes=(60, 5, 12))


@pytest.fixture(scope="module")
def models(task):
    small = {"width": 16, "layers": 1, "heads": 1}
    kinds = {"sar": {"mask": "full"}, "ar": {}}
    return [make_model(kind, task, **small, **own).eval() for kind, own in kinds.items()]


def test_operations_are_those_of_the_formula():
    """A product of (N, a) by (a, b) is 2 N a b of them, and the backward pass does it twice more, once for
    each factor: 6 N a b. With N = B T, two streams, layers L, width D, hidden m D, vocabulary V:

    - blocks: qkv 3 D^2, out D^2, feed-forward 2 m D^2, for each of 2 L layers;
    - content-query attention: 4 D^2; head: D V;
    - attention itself: q k' and weights times v, 2 * B T^2 D products in each of 2 L + 1 places.
    """
    c = Config(target_vocab=50, source_vocab=40, width=32, layers=2, heads=2)
    model, B, T, L = DualStreamSAR(c, mask="full").train(), 3, 8, 2 * c.layers
    lengths = torch.full((B,), T)
    batch = Batch(torch.randint(4, 40, (B, T)), lengths, torch.randint(4, 50, (B, T)), lengths)
    optimizer = new_optimizer(model)
    weights = (L * (4 + 2 * c.hidden) + 4) * c.width**2 + c.width * c.target_vocab
    formula = 6 * B * T * weights + 6 * (L + 1) * 2 * B * T * T * c.width
    counted = timing.operations(lambda: loss_and_gradients(model, batch, optimizer))
    assert counted == pytest.approx(formula, rel=0.02)


def test_ratio_is_of_neighbours():
    assert timing.ratio([2.0, 8.0, 6.0], [1.0, 2.0, 2.0]) == 3.0


def test_turns_are_taken():
    called = []
    times = timing.in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 2)
    assert "".join(called) == "ababab" and [len(t) for t in times.values()] == [2, 2]


def test_a_split_is_converted_in_its_own_order(task, models):
    sar, _ = models
    found = convert(demo.neural_decoders(*models)["SAR, one pass"], task.test)
    for x, y in zip(task.test.x, found, strict=True):
        assert y == sar(torch.tensor([x]))[0].argmax(-1).tolist()


def test_every_row_of_the_table_is_measured(task, models):
    rows = demo.compare(task, *models, {"sar": 1.0, "ar": 2.0}, sample=3)
    assert len(rows) == 7 and [row.get("seconds") for row in rows] == [None] * 4 + [1.0, 2.0, 2.0]
    for row in rows:
        assert 0 <= row["sentences"] <= row["characters"] <= 1 and row["ms"] > 0
    longest = sum(map(len, task.test.x[:3])) / 3
    assert [r["steps"] for r in rows if "steps" in r] == [1, longest, longest]
    head, _, *lines = as_text(rows).splitlines()
    assert len(lines) == 7 and "characters" in head and f"{rows[-1]['parameters']:,}" in lines[-1]


def test_the_prompt_answers_and_survives_a_typing_error(task, models, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("wo ai xyzzy\nwo ai bei jing\n\n"))
    demo.prompt(task, demo.neural_decoders(*models), "cpu")
    lines = capsys.readouterr().out
    assert "xyzzy" in lines and lines.count("1 steps") == 1 and lines.count("4 steps") == 2


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="bench: expected one of speed, theory, faults, got 'all'"):
        bench_speed.bench("all")


def test_what_was_measured_is_printed_and_written_row_by_row(monkeypatch, tmp_path, capsys):
    def parts():
        yield {"a": 1.23456, "b": "x"}
        raise KeyboardInterrupt

    monkeypatch.setitem(bench_speed.PARTS, "speed", parts)
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        bench_speed.bench("speed", tmp_path / "bench.json", threads)
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["speed"] == [{"a": 1.23456, "b": "x"}] and kept["machine"][0]["threads"] == threads
    assert "a 1.23  b x\n" in capsys.readouterr().out
