"""Training: seeded, interruptible, and it learns. That a resumed run is exact is a law (laws.py)."""

import itertools
import json
import math

import pytest
import torch
from laws import TINY, build, ctrl_c, run

from sar_minimal import training
from sar_minimal.data import Split, batch_plan, batches, make_batch
from sar_minimal.kinds import KINDS, loss_of, make_model
from sar_minimal.lab.device import choose_device
from sar_minimal.lab.runs import Interrupted, load_run, train
from sar_minimal.lab.stored import load
from sar_minimal.losses import ar_loss, sar_loss
from sar_minimal.shift import START, shift_right
from sar_minimal.tasks import load_task
from sar_minimal.training import Recipe, endless, evaluate, loss_and_gradients, new_optimizer

TASK = load_task("reverse", **TINY)


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- one run


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_run(kind):
    """The same seed gives the same weights, another one gives others; the time of day plays no part."""
    torch.rand(7)  # what was drawn before does not matter
    (one, _), (two, _) = run(None, kind), run(None, kind)
    assert torch.equal(weights(one), weights(two))
    seeded = make_model(kind, TASK, seed=1, width=16, layers=1, heads=2, max_length=8)
    again = make_model(kind, TASK, seed=0, width=16, layers=1, heads=2, max_length=8)
    assert not torch.equal(weights(seeded), weights(again))
    other, _ = run(None, kind, Recipe(steps=12, tokens=40, warmup=4, report=3, seed=1))
    assert not torch.equal(weights(one), weights(other)), "the seed of the recipe changes nothing"
    assert not one.training, "a trained model is in evaluation mode"


def test_what_a_run_leaves(tmp_path):
    """The folder has the weights that were trained, the task, a row a report, and nothing else."""
    model, rows = run(tmp_path, "ar")
    names = {"config.json", "model.safetensors", "task.json", "metrics.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names | {"checkpoint.safetensors"}
    assert torch.equal(weights(load(tmp_path)), weights(model))
    loaded, source, target, about = load_run(tmp_path)
    assert (source, target) == (TASK.source, TASK.target)
    assert load_task(about["name"], **about["options"]).train == TASK.train
    assert lines(tmp_path) == rows
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    keys = {"step", "loss", "tokens_per_second", "seconds", "rate", "validation"}
    assert all(set(row) == keys for row in rows)
    assert [row["validation"] is None for row in rows] == [True, True, True, False]
    assert rows[-1]["validation"] == evaluate(model, TASK.validation)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds) and all(row["tokens_per_second"] > 0 for row in rows)


def test_reported_loss_is_the_mean_since_the_last_report(monkeypatch):
    """In nats per token: a batch of more tokens counts for more."""
    losses, a_step = [], training.loss_and_gradients

    def keep(model, batch, *rest):
        loss = a_step(model, batch, *rest)
        losses.append((float(loss.detach()), int(batch.y_lengths.sum())))
        return loss

    monkeypatch.setattr(training, "loss_and_gradients", keep)
    _, rows = run(None, "ar", Recipe(steps=8, tokens=40, report=3))
    assert [row["step"] for row in rows] == [3, 6, 8]
    for row, part in zip(rows, (losses[:3], losses[3:6], losses[6:]), strict=True):
        nats, tokens = sum(loss * n for loss, n in part), sum(n for _, n in part)
        assert row["loss"] == pytest.approx(nats / tokens, abs=1e-5)


def test_every_pair_once_a_pass(monkeypatch):
    """Each pass over the data reads every pair once, in an order of its own."""
    seen, a_step = [], training.loss_and_gradients

    def keep(model, batch, *rest):
        seen.append([tuple(filter(None, row)) for row in batch.x.tolist()])  # without PAD = 0
        return a_step(model, batch, *rest)

    monkeypatch.setattr(training, "loss_and_gradients", keep)
    n = len(batch_plan(TASK.train, 40))
    run(None, "ar", Recipe(steps=2 * n, tokens=40))
    one, two = (list(itertools.chain(*part)) for part in (seen[:n], seen[n:]))
    assert one != two
    assert sorted(one) == sorted(two) == sorted(map(tuple, TASK.train.x))


# ---------------------------------------------------------------- stopped and resumed


@pytest.mark.parametrize("at", (1, 4, 6, 11))
def test_ctrl_c_then_resume(tmp_path, at):
    """Ctrl-C ends the step it came in; the checkpoint is of that step, and the metrics go on from it."""
    with (
        ctrl_c(at),
        pytest.raises(Interrupted, match=f"stopped after step {at} of 12; the checkpoint"),
    ):
        run(tmp_path)
    assert [row["step"] for row in lines(tmp_path)] == [step for step in (3, 6, 9) if step <= at]
    with ctrl_c(at):  # counted anew: a second stop, unless the run ends before
        try:
            _, rows = run(tmp_path, resume=True)
        except Interrupted:
            _, rows = run(tmp_path, resume=True)
    assert rows == lines(tmp_path) and [row["step"] for row in rows] == [3, 6, 9, 12]
    assert math.isfinite(sum(row["loss"] for row in rows))


def test_ctrl_c_without_a_folder():
    with ctrl_c(2), pytest.raises(Interrupted, match="stopped after step 2 of 12$"):
        run(None)


def test_what_can_be_decoded_after_ctrl_c(tmp_path):
    """The weights beside the checkpoint are of the same step, not those that training began with."""
    recipe = Recipe(steps=12, tokens=40, warmup=4, checkpoint=100)
    with ctrl_c(6), pytest.raises(Interrupted):
        run(tmp_path, recipe=recipe)
    fresh = make_model("sar", TASK, width=16, layers=1, heads=2, max_length=8)
    assert not torch.equal(weights(load(tmp_path)), weights(fresh))


def test_crash_between_checkpoints(tmp_path, monkeypatch):
    """A run that died is resumed from its last checkpoint; what it had reported since is not kept."""
    whole, _ = run(None, "ar")
    a_step, count = training.loss_and_gradients, itertools.count(1)

    def die(*arguments):
        if next(count) == 8:
            raise MemoryError
        return a_step(*arguments)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(training, "loss_and_gradients", die)
        run(tmp_path, "ar")
    assert [row["step"] for row in lines(tmp_path)] == [3, 6]  # the checkpoint is of step 4
    resumed, rows = run(tmp_path, "ar", resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert (
        [row["step"] for row in rows] == [row["step"] for row in lines(tmp_path)] == [3, 6, 9, 12]
    )


def test_resume_of_nothing_and_of_a_finished_run(tmp_path):
    one, rows = run(tmp_path, resume=True)  # there is nothing: it begins
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    two, again = run(tmp_path, resume=True)  # there is nothing left to do
    assert torch.equal(weights(one), weights(two)) and rows == again
    assert not two.training and (tmp_path / "checkpoint.safetensors").read_bytes() == before


# ---------------------------------------------------------------- the parts


def test_each_model_has_its_loss():
    """Algorithm 1 is trained on y given x, nothing shifted; the others on y read one step later."""
    batch = make_batch([[4, 5, 6], [7, 8]], [[6, 5, 4], [8, 7]])
    n, y, y_in = batch.x_lengths, batch.y, shift_right(batch.y, START)
    for name, logits in (
        ("sar-causal-2-vocabulary", lambda model: model(batch.x, n)),
        ("sar-full-1-vocabulary", lambda model: model(batch.x, n)),
        ("ar", lambda model: model(batch.x, y_in, n)),
        ("lm", lambda model: model(y_in)),
    ):
        model = build(name)
        assert loss_of(model, batch) == ar_loss(logits(model), y), name


@pytest.mark.parametrize(
    "name",
    ("sar-full-2-vocabulary", "ar", "lm", "masked", "shifted", "transition", "length", "ctc"),
)
def test_evaluate(name):
    """Nats per token over a split do not depend on the batches, and leave the model as it was."""
    model, split = build(name, dropout=0.5).train(), TASK.test
    model_state = model.training
    found = evaluate(model, split)
    assert model.training is model_state
    model.eval()
    total, count = 0.0, 0
    for x, y in zip(split.x, split.y, strict=True):
        pair = make_batch([x], [y])
        total, count = total + loss_of(model, pair, "sum").item(), count + len(y)
    assert found == pytest.approx(total / count, abs=1e-5)
    assert found == pytest.approx(evaluate(model, split, tokens=8), abs=1e-5)


def test_the_shortest_third():
    """``short`` steps on a third of the pairs, none longer than one that is left out; then on all."""
    for n in (1, 2, 7, 30):
        split = Split(TASK.train.x[:n], TASK.train.y[:n])
        first = next(endless(split, Recipe(tokens=10_000, short=1)))  # all that there is
        kept = first.x_lengths.tolist()
        assert sorted(kept) == sorted(map(len, split.x))[: max(1, n // 3)]
        rows = {tuple(x[:S]) for x, S in zip(first.x.tolist(), kept, strict=True)}
        assert rows <= {tuple(x) for x in split.x}
    with pytest.raises(ValueError, match="short: expected at most steps = 5, got 6"):
        Recipe(steps=5, short=6)
    with pytest.raises(ValueError, match="short: expected a whole number >= 0, got 0.5"):
        Recipe(short=0.5)


def test_rate():
    """Up in a line for ``warmup`` steps, then down a cosine to 0."""
    recipe = Recipe(steps=100, warmup=10, rate=1.0)
    rates = [recipe.rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0 == max(rates)
    assert rates[55] == pytest.approx(0.5)  # half way down
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001
    assert Recipe(steps=5, warmup=0, rate=1.0).rate_at(0) == 1.0
    assert Recipe(steps=5, warmup=10, rate=1.0).rate_at(4) == 0.5  # stopped while it still rose


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_by_hand(kind):
    """Five steps of ``train`` are five steps of AdamW written out, nothing left over between them.

    The first two are on the shortest third of the pairs, and their order and that of all start anew.
    """
    recipe = Recipe(steps=5, tokens=40, warmup=2, clip=0.5, decay=0.1, seed=3, short=2)
    model, _ = run(None, kind, recipe, dropout=0.0)
    own = {"shifts": 3} if kind == "shifted" else {}
    mine = make_model(kind, TASK, width=16, layers=1, heads=2, max_length=8, **own)
    optimizer = torch.optim.AdamW(mine.parameters(), weight_decay=0.1, betas=(0.9, 0.98))
    torch.manual_seed(3)
    by_length = sorted(range(len(TASK.train)), key=lambda i: len(TASK.train.x[i]))
    third = TASK.train.take(sorted(by_length[: len(TASK.train) // 3]))
    first = batches(third, 40, seed=(3, 0))
    rest = batches(TASK.train, 40, seed=(3, 0))
    for step, batch in enumerate(
        itertools.chain(itertools.islice(first, 2), itertools.islice(rest, 3))
    ):
        optimizer.zero_grad()
        loss_of(mine, batch).backward()
        torch.nn.utils.clip_grad_norm_(mine.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = recipe.rate_at(step)
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(mine), atol=1e-4, rtol=0)


def test_the_rate_is_used():
    """A step of AdamW moves a weight by at most about its rate: no rate, no movement."""
    start = make_model("ar", TASK, width=16, layers=1, heads=2, max_length=8)
    model, _ = run(
        None, "ar", Recipe(steps=1, tokens=40, rate=1e-3, warmup=10, decay=0.0), dropout=0.0
    )
    moved = (weights(model) - weights(start)).abs().max()
    assert moved == pytest.approx(1e-4, rel=0.01)


def test_clipping(monkeypatch):
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def keep(parameters, limit, **options):
        parameters = list(parameters)
        clip(parameters, limit, **options)
        norms.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm())

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
    run(None, "ar", Recipe(steps=3, tokens=40, clip=0.01))
    assert [float(norm) for norm in norms] == pytest.approx([0.01] * 3, rel=1e-3)


def test_device(monkeypatch, capsys):
    """SAR_DEVICE is the one place to choose a device, and the choice is printed with its reason."""
    monkeypatch.setenv("SAR_DEVICE", "cpu")
    assert choose_device() == (torch.device("cpu"), "SAR_DEVICE=cpu")
    model = make_model("lm", TASK, width=16, layers=1, heads=2)
    train(model, TASK, Recipe(steps=1))
    assert "on cpu (SAR_DEVICE=cpu)" in capsys.readouterr().out
    monkeypatch.delenv("SAR_DEVICE")
    device, reason = choose_device()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu") and reason
    monkeypatch.setenv("SAR_DEVICE", "")  # set, but to nothing
    assert choose_device()[0] == device


def test_no_progress_no_noise(capsys):
    run(None)
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- it learns


@pytest.mark.parametrize("kind, options", (("ar", {}), ("sar", {"mask": "full"}), ("masked", {})))
@pytest.mark.parametrize("name", ("reverse", "sort"))
def test_it_learns(name, kind, options):
    """150 steps take a model from chance, ln 8 = 2.08 nats a token, to less than half of it."""
    task = load_task(name, symbols=8, min_length=5, max_length=5, sizes=(4000, 100, 100))
    model = make_model(kind, task, width=32, layers=2, heads=2, max_length=8, **options)
    rows = train(model, task, Recipe(steps=150, tokens=640, rate=1e-2, warmup=20), progress=False)
    assert rows[-1]["validation"] < 1.0 < math.log(8)


def test_a_causal_mask_cannot_reverse():
    """The document's mask hides what the first half of a reversed sequence copies: half of ln 8 stays."""
    task = load_task("reverse", symbols=8, min_length=4, max_length=4, sizes=(3000, 400, 100))
    model = make_model("sar", task, width=32, layers=2, heads=2, max_length=8)
    rows = train(model, task, Recipe(steps=150, tokens=640, rate=1e-2, warmup=20), progress=False)
    bound = math.log(8) / 2
    assert 0.95 * bound < rows[-1]["validation"] < 1.3 * bound


def test_mixed_precision_is_a_choice():
    """Full precision is the default on every device; a recipe that asks for mixed gets other weights."""
    task = load_task("sort", sizes=(40, 5, 5))
    runs = {}
    for mixed in (False, True):
        model = make_model("sar", task, width=32, layers=1, heads=2)
        recipe = Recipe(steps=3, **({"mixed": True} if mixed else {}))
        runs[mixed] = train(model, task, recipe, progress=False)[-1]["loss"]
    assert runs[True] != runs[False] and abs(runs[True] - runs[False]) < 0.02 * runs[False]


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_is_near_full_precision(kind):
    """``Recipe.mixed``: bfloat16 products, and losses that are summed in float32."""
    task = load_task("sort", sizes=(40, 5, 5))
    model = make_model(kind, task, width=32, layers=2, heads=2)
    batch = next(batches(task.train, 256))
    optimizer, losses = new_optimizer(model), []
    for mixed in (False, True):
        torch.manual_seed(0)  # of what a masked model hides
        losses.append(loss_and_gradients(model, batch, optimizer, mixed).detach())
    full, mixed = losses
    assert mixed.dtype == torch.float32 and mixed != full
    torch.testing.assert_close(mixed, full, rtol=0.02, atol=0)
    assert all(
        weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None
    )


# ---------------------------------------------------------------- the loop on its own


def test_fit_is_the_loop_of_train():
    """``fit`` on the batches that ``train`` reads ends with the same weights; it says the loss of each step."""
    recipe = Recipe(steps=6, tokens=40, warmup=2, report=1)
    trained, rows = run(None, "ar", recipe, dropout=0.0)
    model = make_model("ar", TASK, width=16, layers=1, heads=2, max_length=8)
    torch.manual_seed(recipe.seed)
    losses = training.fit(model, training.endless(TASK.train, recipe, 0), recipe)
    assert torch.equal(weights(model), weights(trained)) and not model.training
    assert losses == pytest.approx([row["loss"] for row in rows])


def test_fit_takes_any_loss_and_wants_all_its_batches():
    model, x = make_model("lm", TASK, width=16, layers=1, heads=2), torch.tensor([[4, 5, 6, 7]])
    recipe = Recipe(steps=40, warmup=1, rate=1e-2)
    losses = training.fit(model, itertools.repeat(x), recipe, lambda m, x: sar_loss(m(x), x))
    assert losses[-1] < 0.2 * losses[0]
    with pytest.raises(ValueError, match="^data: expected 40 batches as in recipe, got 2"):
        training.fit(model, [x, x], recipe, lambda m, x: sar_loss(m(x), x))
