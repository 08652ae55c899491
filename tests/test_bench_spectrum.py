"""The fourteen points: scores against brute force, and a measurement that goes on where it was stopped."""

import json
import math
from dataclasses import replace

import pytest
import torch

from sar_minimal.kinds import make_model
from sar_minimal.lab import bench_spectrum as module
from sar_minimal.lab.bench_spectrum import conditionals, scored, summary, truth_of
from sar_minimal.tasks import load_task
from sar_minimal.tasks.applications import APPLICATIONS

SIZES = (40, 10, 30)


def pair(**options):
    task = load_task("application", **options, sizes=SIZES)
    size = {"width": 16, "layers": 1, "heads": 2}
    return (
        task,
        make_model("sar", task, 0, mask="full", **size).eval(),
        make_model("ar", task, 0, **size).eval(),
    )


@pytest.mark.parametrize("application", ("questions", "speech"))
@pytest.mark.parametrize("together", (False, True))
def test_losses_by_hand(application, together):
    """The expected losses of untrained networks, summed over every y that is possible, one x at a time."""
    task, sar, ar = pair(application=application, together=together)
    found = scored(sar, ar, task, torch.Generator().manual_seed(0))
    different = list(dict.fromkeys(map(tuple, task.test.x)))
    one = each = 0.0
    with torch.inference_mode():
        for x in different:
            texts = APPLICATIONS[application].answers(task.source.decode(x), together)
            for text, p in texts.items():
                row, y = torch.tensor([x]), torch.tensor([task.target.encode(text)])
                one -= p * float(sar(row).log_softmax(-1).gather(2, y[..., None]).sum())
                each -= p * float(conditionals(ar, row, y).log().gather(2, y[..., None]).sum())
    known = truth_of(task).known
    n = len(different)
    assert found["excess, one pass"] == pytest.approx(
        one / n - known.entropy - known.correlation, abs=1e-4
    )
    assert found["excess, step by step"] == pytest.approx(each / n - known.entropy, abs=1e-4)
    apart = found["excess, one pass"] - found["excess, step by step"]
    assert found["gap"] == pytest.approx(known.correlation + apart, abs=1e-9)


@pytest.mark.parametrize("together", (False, True))
def test_perfect_networks_lie_on_the_curves(monkeypatch, together):
    """With the true conditionals the scores are the table's: gap C, and as many rejections."""
    task, _, ar = pair(application="questions", together=together)
    truth = truth_of(task)
    of, rows, p = truth.rows
    at = {tuple(x.tolist()): i for i, x in enumerate(truth.x)}

    def sar(x):
        return truth.each[[at[tuple(row.tolist())] for row in x]].log()

    def given(x, y):  # p(. | y_<t, x), by sums over the rows of the table
        found = torch.zeros(*y.shape, truth.each.shape[2], dtype=torch.float64)
        for b, (question, text) in enumerate(zip(x, y, strict=True)):
            mine = of == at[tuple(question.tolist())]
            for t in range(y.shape[1]):
                fits = mine & (rows[:, :t] == text[:t]).all(1)
                found[b, t].index_add_(0, rows[fits, t], p[fits] / p[fits].sum())
        return found

    def drawn(ar, x, generator):
        which = [
            torch.multinomial(
                torch.where(of == at[tuple(row.tolist())], p, 0.0), 1, generator=generator
            )
            for row in x
        ]
        return type("Decoded", (), {"tokens": rows[torch.cat(which)]})

    monkeypatch.setattr(module, "conditionals", lambda ar, x, y: given(x, y))
    monkeypatch.setattr(
        module, "log_likelihood", lambda ar, x, y: given(x, y).log().gather(2, y[..., None])[..., 0]
    )
    monkeypatch.setattr(module, "sample", drawn)
    perfect = drawn(ar, torch.tensor(task.test.x), torch.Generator().manual_seed(1))
    monkeypatch.setattr(module, "greedy", lambda ar, x: perfect)
    found = scored(sar, ar, task, torch.Generator().manual_seed(0))
    known = truth.known
    assert (
        found["maximum, step by step"] == 1.0
        and module.possible(task, perfect.tokens.flip(0)) < 0.9
    )
    assert found["gap"] == pytest.approx(known.correlation, abs=1e-9)
    assert found["rejections"] == pytest.approx(known.rejections, abs=1e-9)  # each row has as many
    assert found["valid"] == 1.0 if not together else abs(found["valid"] - known.valid) < 0.3


def test_it_goes_on_where_it_was_stopped(monkeypatch, tmp_path, capsys):
    asked = []

    def points(task, together, seeds):
        asked.append((task, together))
        if asked[2:] == [("summary", False)]:
            raise KeyboardInterrupt
        exact = {"C": 2.0 * together, "valid, exact": 1 - 0.5 * together, "rejections, exact": 1.0}
        found = {"gap": 2.0 * together + 0.03, "valid": 0.5, "rejections": 1.05}
        return [{"task": task, "together": together, "seed": s} | exact | found for s in seeds]

    monkeypatch.setattr(module, "points", points)
    file, tasks = tmp_path / "points.json", ["translation", "summary"]
    with pytest.raises(KeyboardInterrupt):
        module.bench_spectrum(file, (1, 2), tasks)
    assert len(json.loads(file.read_bytes())["spectrum"]) == 4
    tables = module.bench_spectrum(file, (1, 2), tasks)
    assert asked == [("translation", False), ("translation", True), ("summary", False)] + [
        ("summary", w) for w in (False, True)
    ]
    assert len(tables["spectrum"]) == 8 and "translation, together" in capsys.readouterr().out
    within = [
        [row[f"{name} within"] for name in ("gap", "valid", "rejections")]
        for row in tables["summary"]
    ]
    assert within == 2 * [[False, False, True], [True, True, True]]
    with pytest.raises(ValueError, match="points.json: holds points of other settings"):
        module.bench_spectrum(file, (3,), tasks)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="other.json: expected points of sar bench spectrum"):
        module.bench_spectrum(tmp_path / "other.json", (1, 2), tasks)


def test_tolerances_are_those_set_before():
    assert (module.GAP, module.REJECTIONS, module.RARE) == ((0.02, 0.01), 0.06, 0.01)
    rows = [{"task": "t", "together": True, "C": 4.0, "valid, exact": 0.1, "rejections, exact": 1.0,
             "gap": gap, "valid": 0.1, "rejections": 1.0} for gap in (4.0, 4.11)]  # fmt: skip
    (row,) = summary(rows)
    assert row["gap within"] and row["gap"] == 4.055
    (row,) = summary([r | {"gap": 4.061} for r in rows])
    assert not row["gap within"]
    error = 2 * math.sqrt(0.1 * 0.9 / 2000)
    for shift, within in ((0.99, True), (1.01, False)):
        (row,) = summary([r | {"valid": 0.1 + shift * error} for r in rows])
        assert row["valid within"] == within


def test_no_task_has_a_token_as_rare_as_a_leak():
    for application, together in ((a, t) for a in APPLICATIONS for t in (False, True)):
        truth = truth_of(
            load_task("application", application=application, together=together, sizes=SIZES)
        )
        assert float(truth.each[truth.each > 0].min()) > 5 * module.RARE


def test_two_networks_are_trained_and_scored(monkeypatch):
    monkeypatch.setattr(
        module, "load_task", lambda name, **options: load_task(name, **options, sizes=SIZES)
    )
    rows = module.points("captions", True, (0, 1), (4, 4))
    assert [row["seed"] for row in rows] == [0, 1] and rows[0]["gap"] != rows[1]["gap"]
    assert all(row["steps, one pass"] in (4, 8) and row["C"] > 2 for row in rows)
    assert replace(module.RECIPE, seed=1).seed == 1
