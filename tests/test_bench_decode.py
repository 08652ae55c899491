"""``sar bench decode`` on a tiny grid: what is counted, compared and written. How fast anything is, no test asks."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from sar_minimal.autoregressive import EncoderDecoderAR
from sar_minimal.blocks import Config
from sar_minimal.data import Decoded, Split
from sar_minimal.decoding import greedy
from sar_minimal.kinds import make_model
from sar_minimal.lab import bench_decode, bench_speed, demo
from sar_minimal.lab.bench_decode import (
    DECODERS,
    EXACT,
    Grid,
    agreement,
    calls_of,
    cell,
    documents,
    goals,
    pays_until,
    positions_read,
)
from sar_minimal.lab.bench_step import Models, bytes_read, step_rows
from sar_minimal.tasks import load_task

TINY = Grid(
    lengths=(4, 6), batches=(1, 2), threads=(1,), steps=2, rounds=1, sizes=(400, 0, 300)
)  # fmt: skip
SMALL = {"width": 16, "layers": 1, "heads": 1}


@pytest.fixture(scope="module")
def task():
    return load_task("pinyin", lexicon=300, sizes=TINY.sizes)


@pytest.fixture(scope="module")
def models(task):
    built = {k: make_model(k, task, **SMALL).eval() for k in Models._fields}
    return Models(**built)


@pytest.mark.parametrize(
    "field, value, message",
    (
        ("lengths", (), "lengths: expected at least one number, got none"),
        ("lengths", (8, 0), "lengths: expected"),
        ("batches", (4, 1), "batches: expected each once, in rising order, got"),
        ("threads", (1, 1), "threads: expected each once, in rising order, got"),
        ("steps", 0, "steps: expected"),
        ("budget", 0.0, "budget: expected seconds > 0, got 0.0"),
        ("budget", float("nan"), "budget: expected seconds > 0, got nan"),
    ),
)
def test_a_plan_that_cannot_be_measured_is_refused(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Grid(**{field: value})


def test_documents_are_sentences_in_their_order():
    split = Split([[1, 2], [3, 4, 5], [6]], [[11, 12], [13, 14, 15], [16]])
    joined = documents(split, [3, 1])
    assert joined.x == [[1, 2, 3], [6]] and joined.y == [[11, 12, 13], [16]]
    with pytest.raises(ValueError, match="^lengths: expected at most 6 tokens in all, .* got 9"):
        documents(split, [9])


def test_a_cell_has_every_decoder_and_the_exact_ones_have_greedys_tokens(models, task):
    for B, T in ((1, 4), (2, 6)):
        rows = cell(models, documents(task.test, [T] * B * 4), B, TINY, {})
        assert [row["decoder"] for row in rows] == list(DECODERS)
        by_name = {row["decoder"]: row for row in rows}
        for name in EXACT:
            # Random weights: two tokens may be as likely, to the last bit that a batch's order leaves alone.
            assert by_name[name]["same"] == 1 or by_name[name]["gap"] < 1e-4
        assert by_name["greedy"]["steps"] == by_name["beam 4"]["steps"] == T
        assert by_name["greedy"]["work"] == 1 and by_name["beam 4"]["work"] > 3
        assert by_name["one pass"]["steps"] == by_name["one pass"]["work"] == 1
        assert by_name["mask-predict 4"]["work"] == by_name["mask-predict 4"]["steps"] == min(4, T)
        assert 2 <= by_name["draft and verify"]["steps"] <= T + 1
        assert by_name["greedy"]["times as fast as greedy"] == 1
        for row in rows:
            assert row["ms"] > 0 and 0 <= row["characters"] <= 1


def test_what_would_take_too_long_is_left_out_and_said(models, task):
    test = documents(task.test, [4] * 8)
    before = {"beam 4": (1, 1000.0)}
    rows = {row["decoder"]: row for row in cell(models, test, 2, TINY, before)}
    assert rows["beam 4"]["over budget"] == 1000 * 2 * 4 and "ms" not in rows["beam 4"]
    assert rows["greedy"]["ms"] > 0 and before["greedy"][0] == 2
    assert before["beam 4"] == (1, 1000.0)


def test_a_cell_may_be_too_much_for_all_decoders(models, task):
    """T 512 with 256 documents was: a division by the time of nothing."""
    before = dict.fromkeys([*DECODERS, "bare forward"], (1, 1000.0))
    rows = cell(models, documents(task.test, [4] * 8), 2, TINY, before)
    assert [row["decoder"] for row in rows] == list(DECODERS)
    assert all("over budget" in row and "ms" not in row for row in rows)


def test_what_was_measured_is_kept_when_the_rest_is_not(monkeypatch, tmp_path):
    """Ctrl-C in the second cell leaves the first one's rows in the file."""

    def first_cell_only(models, test, grid):
        yield [{"decoder": "greedy", "T": 4, "B": 1, "threads": 1, "ms": 1.0}]
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_decode, "cells", first_cell_only)
    with pytest.raises(KeyboardInterrupt):
        bench_decode.bench_decode(TINY, tmp_path / "some.json")
    kept = json.loads((tmp_path / "some.json").read_text())
    assert [row["decoder"] for row in kept["decoders"]] == ["greedy"] and kept["training"]


def test_positions_are_counted_and_the_counting_ends(models):
    x = torch.randint(4, models.ar.config.source_vocab, (3, 5))
    with positions_read(models) as read:
        greedy(models.ar, x)
    assert read == [3] * 5
    greedy(models.ar, x)
    assert len(read) == 5


def test_agreement_looks_at_the_first_difference():
    def decoded(tokens, values):
        lengths = torch.full((len(tokens),), len(tokens[0]))
        return Decoded(torch.tensor(tokens), torch.tensor(values), lengths, 1)

    one = decoded([[4, 5, 6], [4, 4, 4]], [[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]])
    other = decoded([[4, 7, 9], [4, 4, 4]], [[-1.0, -2.5, -9.0], [-7.0, -1.0, -1.0]])
    assert agreement([one], [one]) == (1, 0)
    same, gap = agreement([one], [other])
    assert same == pytest.approx(4 / 6) and gap == pytest.approx(0.5)


def test_operations_of_a_step_are_those_of_the_formula():
    """A product with P weights is 2 P B of them. L layers have 6 D^2 weights in attention (qkv and out, and
    the source's q and out) and 2 m D^2 in the feed-forward, the head D V; attention is 2 products of D
    numbers with each of t + S positions."""
    c = Config(target_vocab=50, source_vocab=40, width=32, layers=2, heads=2)
    model, T = EncoderDecoderAR(c).eval(), 6
    weights = c.layers * (6 + 2 * c.hidden) * c.width**2 + c.width * c.target_vocab
    for row in step_rows(model, (1, 3), T, rounds=1):
        B, t = row["B"], (T + 1) / 2
        read = bytes_read(c, B, T, t)
        formula = 2 * (weights * B + c.layers * 2 * c.width * B * (t + T))
        assert row["FLOP / byte"] * read == pytest.approx(formula, rel=0.02)
        assert read < 4 * (model.number_of_parameters() + 2 * 2 * B * (t + T) * 32)
        assert row["bound ms"] == max(row["reading ms"], row["arithmetic ms"])
        assert row["longest"] in ("calls", "reading", "arithmetic")


def test_the_largest_batch_that_pays_is_found():
    def row(decoder, B, fast):
        return {"decoder": decoder, "B": B, "T": 8, "threads": 1, "times as fast as greedy": fast}

    cells = [row("jacobi", 1, 3.0), row("jacobi", 16, 1.2), row("jacobi", 64, 0.5)]
    cells += [row("one pass", 1, 9.0), row("one pass", 64, 2.0), row("mask-predict 4", 1, 0.9)]
    found = {r["decoder"]: r["T 8"] for r in pays_until(cells)}
    assert found == {"jacobi": "16", "one pass": "64+", "mask-predict 4": "never"}


def test_a_goal_is_met_or_said_by_how_much_not():
    draft = {"decoder": "draft and verify", "B": 1, "T": 8, "threads": 1}
    cells = [
        draft | {"times as fast as greedy": 2.0, "same": 1.0, "gap": 0.0},
        draft | {"times as fast as greedy": 4.0, "same": 0.9, "gap": 0.5},
        {"decoder": "one pass", "B": 1, "T": 8, "threads": 1, "one pass / bare forward": 1.1},
    ]
    rows = goals(cells, [{"greedy, batch": 1, "threads": 1, "transformers / ours": 6.0}])
    assert [r["met"] for r in rows] == [True, False, False, True]
    assert rows[1]["by"] == "-20 %" and "tokens differ by 0.5 nats" in rows[2]["by"]


def test_the_whole_is_printed_written_and_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "FLAGSHIP", SMALL)
    monkeypatch.setattr(bench_speed, "_peers", lambda *_: {})
    json_path, png_path = tmp_path / "d.json", tmp_path / "d.png"
    threads = torch.get_num_threads()
    try:
        tables = bench_decode.bench_decode(TINY, json_path, png_path)
    finally:
        torch.set_num_threads(threads)
    cells = tables["decoders"]
    assert len(cells) == 2 * 2 * len(DECODERS)
    assert {(r["T"], r["B"]) for r in cells} == {(4, 1), (4, 2), (6, 1), (6, 2)}
    assert all(r["gap"] < bench_decode.TIE for r in cells if r["decoder"] in EXACT)
    assert json.loads(json_path.read_text()) == json.loads(json.dumps(tables))
    assert png_path.read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 2
    said = capsys.readouterr().out
    for name in ("TRAINING", "DECODERS", "PEERS", "A STEP", "PAYS UNTIL B", "GOALS"):
        assert f"\n{name}. " in said
    assert calls_of(1, 4) == 32 and calls_of(64, 64) == 1


def test_on_a_gpu_only_the_decoders_are_compared(monkeypatch, models, task, tmp_path):
    """The other tables are about a CPU. A device without memory stands in for a GPU: nothing is decoded."""
    moved = []

    def cells(models, test, grid):
        moved.append((next(models.ar.parameters()).device.type, grid.threads))
        names, ratios = ("greedy", "one pass"), (1.0, 3.0)
        for T in grid.lengths:
            yield [
                {"decoder": n, "T": T, "B": B, "threads": 1, "times as fast as greedy": r}
                for B in grid.batches
                for n, r in zip(names, ratios, strict=True)
            ]

    pair = Models(*(copy.deepcopy(model) for model in models))
    monkeypatch.setattr(bench_decode, "choose_device", lambda: (torch.device("meta"), ""))
    monkeypatch.setattr(bench_decode, "flagships", lambda grid: (task, pair, {}))
    monkeypatch.setattr(bench_decode, "cells", cells)
    threads = torch.get_num_threads()
    try:
        tables = bench_decode.bench_decode(
            replace(TINY, threads=(1, 2)), png_path=tmp_path / "d.png"
        )
    finally:
        torch.set_num_threads(threads)
    assert moved == [("meta", (1,))] and tables["machine"][0]["device"] == "meta"
    assert set(tables) == {"machine", "training", "decoders", "pays until B"}
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
