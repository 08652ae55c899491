"""``sar bench faults``: the package attacked on purpose, in figures.

One argument of a public function wrong at a time; decoders against each other on batches whose rows
have little in common; the files of a run with a bit flipped or their ends cut off; runs killed at
random and resumed; disks that are full. Nothing may be silently wrong, hang or crash. An error is
*obscure* if it does not come from a check of ours: it need not say which argument was wrong.
"""

import inspect
import math
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import (
    algorithm1,
    bounds,
    data,
    decoding,
    influence,
    languages,
    lengths,
    losses,
    masked,
    shift,
    shifted,
    speculation,
    theory,
    transition,
)
from ..blocks import Config
from ..counting.kneser_ney import KneserNey
from ..counting.ngram import NGram
from ..errors import MissingPackage, Refusal
from ..kinds import KINDS, make_model
from ..tasks import load_task
from ..training import Recipe, fit
from .runs import load_run, train
from .tables import Row
from .timing import seconds

LONGEST = 10  # seconds; what takes longer hangs
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 7, 2**40, 10**30, 1.5, -0.5, math.nan, math.inf, "", "x", b"x", (), [], [[]],
    [[4.7]], {}, [None], object(), len, torch.zeros(0), torch.zeros(0, 5).long(), torch.ones(2, 5),
    torch.full((2, 5), 99), torch.full((2, 5), -1), torch.full((2, 5), -100),
    torch.full((2, 5), math.nan), torch.ones(2, 5) > 0, torch.ones(3, 5).long(),
    torch.ones(2, 3).long(), torch.ones(2, 5, 2).long(), torch.tensor([5, 6]), torch.tensor([0, 5]),
    torch.tensor([5.0, 3.0]), torch.tensor(3), torch.ones(2, 5) * 1j, np.ones((2, 5)), np.int64(3),
)  # fmt: skip


def public() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    """Public functions, each with arguments that are right."""
    task = load_task("copy", symbols=8, sizes=(40, 4, 4), min_length=5, max_length=5)
    size = {"width": 16, "heads": 2, "layers": 1, "max_length": 32}
    m = {kind: make_model(kind, task, **size) for kind in KINDS}
    x, two, logits = torch.randint(4, 12, (2, 5)), torch.tensor([5, 3]), torch.zeros(2, 5, 12)
    rows = {"x": x, "lengths": two}
    step = rows | {"model": m["ar"], "new": 3, "end_id": 7}
    p = torch.full((2, 2), 0.25)
    return [
        (shift.shift_right, {"tokens": x, "start_id": 1}),
        (shift.shifted_targets, {"tokens": x, "k": 1}),
        (losses.ar_loss, {"logits": logits, "tokens": x, "reduction": "mean"}),
        (losses.sar_loss, {"logits": logits, "tokens": x, "reduction": "none"}),
        (losses.slm_loss, {"logits": logits, "tokens": x, "shifts": torch.tensor([1, 2])}),
        (algorithm1.one_pass, rows | {"model": m["sar"], "new": None}),
        (decoding.greedy, step),
        (decoding.sample, step | {"temperature": 1.0, "top_k": 3}),
        (decoding.beam, step | {"width": 2}),
        (decoding.log_likelihood, rows | {"model": m["ar"], "y": x}),
        (speculation.jacobi, step | {"window": 4}),
        (speculation.draft_and_verify, step | {"draft": m["shifted"], "temperature": None}),
        (masked.mask_predict, rows | {"model": m["masked"], "iterations": 2}),
        (shifted.look_ahead, rows | {"model": m["shifted"]}),
        (lengths.length_pass, rows | {"model": m["length"], "new": None, "beam": 2}),
        (lengths.ctc_pass, rows | {"model": m["ctc"]}),
        (lengths.collapse, {"way": x, "blank_id": 9, "lengths": two}),
        (transition.transition_pass, rows | {"model": m["transition"], "k": 3}),
        (influence.influence, {"model": m["sar"], "inputs": (x[:1],), "side": "source", "tokens": x[:1]}),
        (theory.every, {"symbols": 3, "length": 2}),
        (theory.exact_loss, {"p": p, "log_q": torch.full((2, 2, 2), 0.5).log()}),
        (languages.HomophoneLanguage, {"initial": [0.5, 0.5], "transition": p * 2, "syllable_of": [0, 1]}),
        (languages.HomophoneLanguage.random, {"hanzi": 4, "syllables": 2, "sharpness": 1.0}),
        (languages.CoherenceLanguage, {"words": 2, "dialects": 2, "tell": 0.1}),
        (bounds.bounds_of, {"language": languages.CoherenceLanguage(2), "length": 2, "method": None}),
        (Config, {"target_vocab": 9, "width": 16, "heads": 2, "layers": 1, "dropout": 0.1, "max_length": 9}),
        (Recipe, {"steps": 9, "tokens": 9, "rate": 0.1, "warmup": 1, "decay": 0.1, "clip": 1.0, "short": 1}),
        (make_model, {"kind": "sar", "task": task, "seed": 0, "width": 16, "mask": "full", "streams": 1}),
        (data.Vocab, {"tokens": ("a", "b")}),
        (data.Split, {"x": [[4]], "y": [[5]]}),
        (data.make_batch, {"xs": [[4, 5]], "ys": [[5]]}),
        (data.batch_plan, {"split": task.train, "tokens": 64, "seed": 1}),
        (data.batches, {"split": task.train, "tokens": 64, "seed": 1, "skip": 1}),
        (data.accuracy, {"predicted": [[4]], "target": [[5]]}),
        (fit, {"model": m["sar"], "data": [data.make_batch([[4]], [[5]])], "recipe": Recipe(steps=1)}),
        (load_task, {"name": "copy", "symbols": 4, "sizes": (9, 1, 1), "seed": 1, "max_length": 5}),
        (load_task, {"name": "numerals", "digits": 2, "sizes": (9, 1, 1)}),
        (KneserNey, {"ys": [[4, 5, 6]], "order": 2, "vocabulary": 9}),
        (NGram, {"split": task.train, "order": 2, "vocabulary": 12}),
    ]  # fmt: skip


def wrong_arguments(rounds: int, rng: random.Random) -> Row:
    """``rounds`` of the calls with one wrong argument (0: all of them)."""
    calls, found = public(), Counter[str]()
    every = [(call, right, key, w) for call, right in calls for key in right for w in WRONG]
    for call, right, key, wrong in rng.sample(every, rounds or len(every)):
        found[_outcome(partial(call, **right | {key: wrong}))] += 1
    kinds = ("refused", "accepted", "NaN", "obscure", "hangs")
    return {"faults": "one argument wrong", "tried": found.total()} | {k: found[k] for k in kinds}


def _outcome(call: Callable[[], Any]) -> str:
    """What comes of a call that takes LONGEST seconds at most."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST)
    try:
        made = call()
        made = next(made) if inspect.isgenerator(made) else made
        values = (made, *getattr(made, "__dict__", {}).values())
        nan = any(isinstance(v, torch.Tensor) and v.isnan().any() for v in values)
        return "NaN" if nan else "accepted"
    except TimeoutError:
        return "hangs"
    except (Refusal, MissingPackage):
        return "refused"
    except Exception:
        return "obscure"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _too_long(*_: Any) -> None:
    raise TimeoutError


def rows_alone(rounds: int, rng: random.Random) -> Row:
    """Random prompts of 1 to 30 tokens, 1 to 8 new ones, ends, narrow windows: do Jacobi, draft and
    verify and beam of width 1 say what greedy says of each row alone?"""
    task = load_task("copy", symbols=8, sizes=(9, 1, 1))
    tried = wrong = 0
    for seed in range(rounds):
        size = {"width": 16, "heads": 2, "layers": 2, "max_length": 40}
        lm, draft = (make_model(kind, task, seed, **size).double() for kind in ("lm", "shifted"))
        with torch.no_grad():
            for weight in lm.parameters():
                weight.mul_(6)  # loud: fresh weights say nearly nothing
        B, window = rng.randint(1, 5), rng.choice((1, 2, 3, 32))
        own, new = ([rng.randint(1, most) for _ in range(B)] for most in (30, 8))
        x, end = torch.randint(4, 12, (B, max(own))), rng.choice((None, 7))
        n = torch.tensor(own)
        options: dict[str, Any] = {"new": torch.tensor(new), "end_id": end}
        made = (
            decoding.beam(lm, x, n, width=1, **options),
            speculation.jacobi(lm, x, n, window=window, **options),
            speculation.draft_and_verify(lm, x, draft, n, window=window, **options),
        )
        for b in range(B):
            row = x[b : b + 1, : own[b]]
            alone = decoding.greedy(lm, row, new=new[b], end_id=end).tokens[0].tolist()
            for decoded in made:
                tried += 1
                wrong += decoded.tokens[b, : decoded.lengths[b]].tolist() != alone
    return {"faults": "rows of a batch, alone", "tried": tried, "silently wrong": wrong}


def damaged_files(rounds: int, rng: random.Random) -> Row:
    """A bit of a run's file flipped, or its end cut off: is it noticed, or the model the same?"""
    found = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "run"
        model, names = _small_run(out, 3), ("config.json", "model.safetensors", "task.json")
        before = {out / name: (out / name).read_bytes() for name in names}
        for _ in range(rounds):
            path = rng.choice(list(before))
            raw = bytearray(before[path])
            if rng.random() < 0.3:
                raw = raw[: rng.randrange(len(raw))]
            else:
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            path.write_bytes(raw)
            try:
                loaded, source, target, about = load_run(out)
                ours, theirs = model.state_dict(), loaded.state_dict()
                same = all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
                same = same and about["name"] == "copy" and len(target) == len(source)
                found["harmless" if same else "silently wrong"] += 1
            except Refusal:
                found["noticed"] += 1
            except Exception:
                found["obscure"] += 1
            path.write_bytes(before[path])
    return {"faults": "damaged files", "tried": found.total()} | dict(found)


def _small_run(out: Path, steps: int = 40, checkpoint: int = 4, resume: bool = False) -> Any:
    torch.set_num_threads(1)
    task = load_task("copy", symbols=8, sizes=(200, 4, 4))
    model = make_model("sar", task, width=16, heads=2, layers=1, max_length=32, dropout=0.1)
    recipe = Recipe(steps=steps, tokens=64, checkpoint=checkpoint, report=4)
    train(model, task, recipe, out, resume, progress=False)
    return model


def killed_runs(rounds: int, rng: random.Random, full: bool = False) -> Row:
    """Runs killed at a random moment, or (``full``) on a disk that takes no more at a random size,
    and then resumed: are the weights those of a run that was left alone?"""
    found, fork = Counter[str](), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        took = seconds(partial(_small_run, whole))
        expected = (whole / "model.safetensors").read_bytes()
        for n in range(rounds):
            out = Path(name) / str(n)
            limit = rng.randrange(200_000) if full else None
            child = fork.Process(target=_in_child, args=(out, limit))
            child.start()
            if not full:
                time.sleep(rng.random() * took)
                child.kill()
            child.join()
            found["stopped"] += child.exitcode != 0
            _small_run(out, resume=True)
            same = (out / "model.safetensors").read_bytes() == expected
            found["same" if same else "silently wrong"] += 1
    return {"faults": "full disks" if full else "killed runs", "tried": rounds} | dict(found)


def _in_child(out: Path, limit: int | None) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    _small_run(out)


def bench_faults() -> Iterator[Row]:
    """All of it, in minutes. One row each, with how many were tried."""
    rng = random.Random(0)
    yield wrong_arguments(0, rng)
    yield rows_alone(2000, rng)
    yield damaged_files(1000, rng)
    yield killed_runs(100, rng)
    yield killed_runs(40, rng, full=True)
