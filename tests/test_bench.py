"""What the benchmarks compute, on tiny sizes. How fast anything is, no test asks."""

import io
import sys

import pytest
import torch

from sar_minimal.algorithm1 import DualStreamSAR
from sar_minimal.blocks import Config
from sar_minimal.data import convert
from sar_minimal.kinds import make_model
from sar_minimal.lab import bench_speed, demo, timing
from sar_minimal.tasks import load_task


@pytest.fixture(scope="module")
def task():
    return load_task("pinyin", sizes=(60, 5, 12))


@pytest.fixture(scope="module")
def models(task):
    small = {"width": 16, "layers": 1, "heads": 1}
    kinds = {"sar": {"mask": "full"}, "ar": {}}
    return [make_model(kind, task, **small, **own).eval() for kind, own in kinds.items()]


def test_operations_are_counted_as_the_docstring_says():
    """Against torch's own counter, which sees the products of one forward and backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    from sar_minimal.data import Batch
    from sar_minimal.training import loss_and_gradients, new_optimizer

    config = Config(target_vocab=50, source_vocab=40, width=32, layers=2, heads=2)
    model, B, T = DualStreamSAR(config, mask="full").train(), 3, 8
    lengths = torch.full((B,), T)
    batch = Batch(torch.randint(4, 40, (B, T)), lengths, torch.randint(4, 50, (B, T)), lengths)
    with FlopCounterMode(display=False) as counter:
        loss_and_gradients(model, batch, new_optimizer(model))
    assert bench_speed.training_flops(config, B, T) == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )


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


def test_every_row_of_the_table_is_measured(task, models, capsys):
    rows = demo.table(task, *models, {"SAR": 1.0, "AR": 2.0}, sample=3)
    assert len(rows) == 7
    for row in rows:
        assert 0 <= row["sentences"] <= row["characters"] <= 1 and row["ms"] > 0
    longest = sum(map(len, task.test.x[:3])) / 3
    assert [r["steps"] for r in rows if r["steps"]] == [1, longest, longest]
    demo.print_table(rows)
    assert len(capsys.readouterr().out.splitlines()) == 9


def test_the_prompt_answers_and_survives_a_typing_error(task, models, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("wo ai xyzzy\nwo ai bei jing\n\n"))
    demo.prompt(task, demo.neural_decoders(*models), "cpu")
    lines = capsys.readouterr().out
    assert "xyzzy" in lines and lines.count("1 steps") == 1 and lines.count("4 steps") == 2


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="bench: expected one of speed, theory, got 'all'"):
        bench_speed.bench("all")
