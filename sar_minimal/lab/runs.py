"""Runs: a model that is trained with a folder behind it, interruptible, resumed exactly.

A run lives in a folder: ``config.json`` and ``model.safetensors`` (``save``), ``task.json``
(what it was trained on, with its vocabularies), ``metrics.jsonl`` (a line per report), and
``checkpoint.safetensors``, one file that holds all that the next step depends on. A run that was
stopped and resumed ends with the same weights, to the last bit, as one that never stopped, on the
same kind of device with as many threads and the same torch; where these differ, a warning says so.

The checkpoint holds a checksum of all that it has, as the model does (``stored.py``).
"""

import hashlib
import json
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm.auto import tqdm

from ..autoregressive import Autoregressive
from ..blocks import Model
from ..data import Batch, Split, Task, Vocab, batches
from ..errors import Refusal, expect
from ..kinds import loss_of
from ..tasks.files import locked, remove_partial, write_atomically, write_json
from ..training import Recipe, endless, evaluate, new_optimizer, training_steps
from . import stored
from .device import choose_device
from .tables import Row


class Diverged(RuntimeError):
    """Training came to a loss, gradients or weights that are no numbers; these are not kept."""


@contextmanager
def finish_the_step() -> Iterator[threading.Event]:
    """Ctrl-C sets a flag, so that a run stops between two steps; a second one stops it at once."""
    asked = threading.Event()
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as nohup and shells in scripts do
    if ignored or threading.current_thread() is not threading.main_thread():
        yield asked  # Python delivers signals to the main thread alone
        return

    def on_interrupt(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came; the checkpoint is written and the run can be resumed."""


def train(
    model: Model,
    task: Task,
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> list[Row]:
    """Train ``model`` in place; returns the metrics, one dict per report.

    out: the folder of the run, None to keep nothing. resume: go on from its checkpoint (or begin,
    if there is none). A dict has step, loss (nats per token, mean since the last report or
    resumption), tokens_per_second, seconds, rate, validation (nats per token; None before the end).
    Nothing is written before it is known that the model takes these pairs. Raises FileExistsError
    when ``out`` holds a run already or another process trains there, ValueError when its checkpoint
    is of another configuration, recipe, vocabulary or of other pairs, DamagedCheckpoint when it
    cannot be read, Diverged when the loss is no number any more, Interrupted after Ctrl-C.
    """
    recipe, (device, reason) = recipe or Recipe(), choose_device()
    expect(out is None or str(out), "out", "a folder", out)
    for side, vocab, size in _misfits(model, task.source, task.target):
        expected = f"expected {side}_vocab {vocab} as in the task {task.name}"
        raise Refusal(f"model: {expected}, got {size}")
    if not len(task.train):
        raise Refusal("task: expected pairs to train on, its train split has none")
    model.to(device).train()
    run = Run(model, new_optimizer(model, recipe), task, recipe, None if out is None else Path(out))
    run.try_out()
    with nullcontext() if run.out is None else locked(run.out):
        torch.manual_seed(recipe.seed)
        run.begin(resume)
        if run.step < recipe.steps:
            if progress:
                parameters = f"{model.number_of_parameters():,} parameters"
                print(f"{type(model).__name__}, {parameters}, on {device} ({reason})")
            # None: where standard error is a terminal.
            hidden = None if progress and sys.stderr else True
            shown: dict[str, Any] = {"disable": hidden, "leave": False, "unit": "step"}
            bar = tqdm(total=recipe.steps, initial=run.step, **shown)
            with finish_the_step() as asked, bar:
                _finish(run, bar, asked)
    model.eval()
    return run.metrics


def _extremes(split: Split) -> Split:
    """The pairs that a model refuses if it refuses any: the longest x, y, and y beside its x."""
    sizes = [(len(x), len(y), len(y) / len(x)) for x, y in zip(split.x, split.y, strict=True)]
    return split.take({max(range(len(sizes)), key=lambda i: sizes[i][n]) for n in range(3)})


def _finish(run: "Run", bar: tqdm, asked: threading.Event) -> None:
    """The steps that are left. Raises Interrupted, behind a checkpoint, once it was ``asked``."""
    recipe, validation = run.recipe, run.task.validation
    began = time.perf_counter() - run.seconds  # as if the run had never stopped
    data = endless(run.task.train, recipe, run.step)
    # Since the last report. The sum stays on the device, so that no step waits for it.
    summed: float | Tensor = 0.0
    tokens, since = 0, run.seconds
    for value, batch in _steps(run, data):
        run.step, run.seconds = run.step + 1, time.perf_counter() - began
        read = int(batch.y_lengths.sum())
        summed, tokens = summed + value * read, tokens + read
        bar.update()
        last = run.step == recipe.steps
        if run.step % recipe.report == 0 or last:
            loss, speed = float(summed) / tokens, tokens / max(run.seconds - since, 1e-9)
            row: Row = {"step": run.step, "loss": loss, "tokens_per_second": speed}
            row |= {"seconds": run.seconds, "rate": recipe.rate_at(run.step - 1)}
            summed, tokens, since = 0.0, 0, run.seconds
            judged = last and len(validation)
            row["validation"] = evaluate(run.model, validation) if judged else None
            if not all(map(math.isfinite, (loss, row["validation"] or 0.0))):
                raise run.diverged("its loss")
            run.report(row)
            bar.set_postfix(loss=f"{loss:.3f}", tokens=f"{speed:.0f}/s")
            run.seconds = time.perf_counter() - began
        if run.step % recipe.checkpoint == 0 or last or asked.is_set():
            run.keep()
        if last:
            return
        if asked.is_set():
            resumed = f"; the checkpoint in {run.out} can be resumed" if run.out else ""
            raise Interrupted(f"stopped after step {run.step} of {recipe.steps}{resumed}")


def _steps(run: "Run", data: Iterator[Batch]) -> Iterator[tuple[Tensor, Batch]]:
    try:
        yield from training_steps(run.model, data, run.recipe, run.optimizer, run.step)
    except RuntimeError as error:
        if "non-finite" not in str(error):  # torch's words for gradients
            raise
        raise run.diverged("the gradient of its loss") from error


def _misfits(model: Model, source: Vocab, target: Vocab) -> list[tuple[str, int, int]]:
    """(side, tokens of the vocabulary, of the model) where they differ. No source fits all."""
    c = model.config
    sides = [("source", len(source), c.source_vocab or len(source))]
    sides += [("target", len(target), c.target_vocab)]
    return [(side, vocab, size) for side, vocab, size in sides if vocab != size]


@dataclass
class Run:
    """How far a run is, and what of it lies in its folder ``out``, None to keep nothing."""

    model: Model
    optimizer: torch.optim.Optimizer
    task: Task
    recipe: Recipe
    out: Path | None
    step: int = 0
    seconds: float = 0.0
    metrics: list[Row] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on before a run may go on from it, in this order."""
        model, task = self.model, self.task
        return {
            "model": type(model).__name__,
            "config": asdict(model.config) | model.options,
            "recipe": asdict(self.recipe),
            "task": {"name": task.name, "options": task.options},
            "source vocabulary": list(task.source.tokens),
            "target vocabulary": list(task.target.tokens),
            "set of pairs": self.pairs,
        }

    @cached_property
    def pairs(self) -> str:
        """A checksum of what is read: the name of a corpus does not say that it was edited."""
        made = hashlib.blake2b(digest_size=16)
        for split in (self.task.train, self.task.validation):
            for rows in (split.x, split.y):
                made.update(np.array([len(rows), *map(len, rows)], np.int64).data)
                made.update(np.fromiter(chain.from_iterable(rows), np.int64).data)
        return made.hexdigest()

    @property
    def machine(self) -> dict[str, Any]:
        """What the last bit of the weights depends on beside ``identity``."""
        device = next(self.model.parameters()).device.type
        threads = torch.get_num_threads() if device == "cpu" else None
        return {"device": device, "threads": threads, "torch": torch.__version__}

    @property
    def about(self) -> dict[str, Any]:
        """What stands in ``task.json``."""
        vocabularies = {"source": self.task.source.tokens, "target": self.task.target.tokens}
        return {"name": self.task.name, "options": self.task.options} | vocabularies

    def try_out(self) -> None:
        """Raise what training would, for want of a loss or a file, before anything is written."""
        device, task = next(self.model.parameters()).device, self.task
        if self.out is not None:
            stored.configuration(self.model)
            try:
                json.dumps(self.about, ensure_ascii=False).encode()
            except (TypeError, UnicodeEncodeError) as error:
                what = "options that can be written as JSON, in UTF-8"
                raise Refusal(f"task: expected {what}, got {task.options!r} ({error})") from error
        with torch.inference_mode():
            loss_of(self.model, next(batches(task.train, self.recipe.tokens)).to(device))
        for split in filter(len, (task.train, task.validation)):
            evaluate(self.model, _extremes(split))

    def begin(self, resume: bool) -> None:
        """Go on from the checkpoint if there is one, else begin the folder. Weights are written
        when there are some to keep: a folder that has none holds no run, whatever else it has."""
        if self.out is None:
            return
        checkpoint, weights = (self.out / f"{n}.safetensors" for n in ("checkpoint", "model"))
        if not resume and (weights.exists() or checkpoint.exists()):
            where = f"{self.out}: holds a run already"
            raise FileExistsError(f"{where}; resume it, or name another folder")
        if resume and weights.exists() and not checkpoint.exists():
            where = f"{self.out}: holds a model but no checkpoint.safetensors to resume from"
            raise FileExistsError(f"{where}; name another folder")
        remove_partial(self.out)
        if checkpoint.exists():
            self._restore(checkpoint)
            # It may have been stopped before it came to it.
            stored.save(self.model, self.out, self.about)
        else:
            write_json(self.out / "config.json", stored.configuration(self.model), indent=2)
        write_json(self.out / "task.json", self.about, ensure_ascii=False, indent=1)
        self.report()  # none from after the checkpoint

    def diverged(self, what: str) -> Diverged:
        rate = self.recipe.rate_at(max(0, min(self.step, self.recipe.steps) - 1))
        hint = f"at a rate of {rate:.3g}; try a lower --rate than {self.recipe.rate:.3g}"
        return Diverged(f"after step {self.step} {what} is non-finite, {hint}")

    def report(self, *rows: Row) -> None:
        """Add to the metrics, and write all of them."""
        self.metrics.extend(rows)
        if self.out is not None:
            lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.metrics)
            write_atomically(self.out / "metrics.jsonl", lines.encode())

    def keep(self) -> None:
        """The weights, and one file, replaced in one move, with all that the next step depends on.
        The weights go first, so that no checkpoint is ahead of them, but not where there is no
        checkpoint yet: a model without one looks like somebody else's."""
        if wrong := stored.not_finite(self.model.state_dict()):
            raise self.diverged(wrong)
        if self.out is None:
            return
        tensors = {f"model.{name}": weight for name, weight in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        tensors = stored.on_cpu(tensors)
        names = ("step", "metrics", "seconds", "identity", "machine")
        about = {name: getattr(self, name) for name in names}
        metadata = {"about": json.dumps(about), "checksum": stored.digest(about, tensors)}
        made, checkpoint = to_bytes(tensors, metadata), self.out / "checkpoint.safetensors"
        if first := not checkpoint.exists():
            write_atomically(checkpoint, made)
        stored.save(self.model, self.out, self.about)
        if not first:
            write_atomically(checkpoint, made)

    def _restore(self, path: Path) -> None:
        ours = json.loads(json.dumps(self.identity))  # tuples are lists once they were stored
        with stored.reading(path, "a checkpoint of ours"):
            expect(path.is_file(), "checkpoint", "a file", "something else")
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                about = stored.metadata_of(metadata, "about", "checksum")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if "checksum" in metadata:
                stored.check_same(stored.digest(about, tensors), metadata["checksum"])
            theirs = {"set of pairs": self.pairs} | about["identity"]  # of old ones, nobody knows
            step, seconds, metrics = (about[n] for n in ("step", "seconds", "metrics"))
            steps, dicts = self.recipe.steps, all(isinstance(row, dict) for row in metrics)
            expect(type(step) is int and 0 < step, "step", "a whole number >= 1", step)
            expect(isinstance(seconds, float), "seconds", "a number", seconds)
            expect(isinstance(metrics, list) and dicts, "metrics", "a list of rows", metrics)
        # Until 2026-11-27 a configuration held the options of all models.
        with suppress(TypeError, KeyError, AttributeError):
            config = theirs["config"].items()
            theirs["config"] = {name: v for name, v in config if name in ours["config"]}
            if isinstance(self.model, Autoregressive) and "rank" in dict(config):
                theirs["config"]["mask"] = "causal"  # it had no mask of its own
        with suppress(TypeError, KeyError):  # no weight depends on these
            theirs["recipe"] |= {name: ours["recipe"][name] for name in ("report", "checkpoint")}
            if about["identity"]["set of pairs"] == self.pairs:  # wherever their file lies now
                theirs["task"] |= {"options": ours["task"]["options"]}
        for name, wanted in ours.items():
            if theirs.get(name) != wanted:
                apart = _difference(theirs.get(name), wanted) + HINTS.get(name, "")
                raise Refusal(f"{path}: was made with another {name}: {apart}")
        with stored.reading(path, "a checkpoint of ours"):
            expect(step <= steps, "step", f"at most {steps}", step)
            self._set(tensors)
        self.step, self.seconds, self.metrics = step, seconds, metrics
        if about.get("machine", self.machine) != self.machine:
            apart = _difference(about["machine"], self.machine)
            ends = "the weights will not be, to the last bit, those of a run that never stopped"
            warnings.warn(f"{path}: resumed on another machine ({apart}): {ends}", stacklevel=4)

    def _set(self, tensors: Mapping[str, Tensor]) -> None:
        """The model, AdamW and the random state from those of a checkpoint."""
        weights = {n[6:]: tensor for n, tensor in tensors.items() if n.startswith("model.")}
        if wrong := stored.not_finite(tensors):
            raise ValueError(f"{wrong} has numbers that are not finite")
        expected = {name: weight.dtype for name, weight in self.model.state_dict().items()}
        types = {name: weight.dtype for name, weight in weights.items()}
        expect(types == expected, "weights", "those of the model", types)
        self.model.load_state_dict(weights)
        state, shapes = self.optimizer.state_dict(), [w.shape for w in self.model.parameters()]
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                state["state"].setdefault(int(index), {})[key] = tensor
        expect(state["state"], "adam", "averages", "none")
        for index, averages in state["state"].items():
            found = {key: tensor.shape for key, tensor in averages.items()}
            whole = {"step": torch.Size(), "exp_avg": shapes[index], "exp_avg_sq": shapes[index]}
            expect(found == whole, f"adam.{index}", str(whole), found)
        self.optimizer.load_state_dict(state)
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])


HINTS = {
    "recipe": "; it sets the rate of each step: to train longer, name another folder",
    "set of pairs": "; the text or the task was changed since",
}


def _difference(theirs: object, ours: object) -> str:
    """What to change, in a line: the fields that differ, not the whole of both."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = [name for name in ours if theirs.get(name) != ours[name]]
        return ", ".join(f"{n} was {theirs.get(n)!r}, now {ours[n]!r}" for n in names)
    if isinstance(theirs, list) and isinstance(ours, list):
        apart = f"{len(set(theirs) ^ set(ours))} in one of them only"
        return f"{len(theirs)} tokens then, {len(ours)} now, {apart}"
    return f"{theirs!r} then, {ours!r} now"


def load_run(
    out: str | Path, device: torch.device | str = "cpu"
) -> tuple[Model, Vocab, Vocab, dict[str, Any]]:
    """What ``train`` left: the model, its vocabularies, {"name", "options"} of its task.
    Raises FileNotFoundError or DamagedCheckpoint, naming the file."""
    out = Path(out)
    (model, sums), path = stored.load_checked(out, device), out / "task.json"
    if not path.is_file():
        raise FileNotFoundError(f"{out}: expected a training run, found no task.json")
    with stored.reading(path, "a task of ours"):
        about = json.loads(path.read_text(encoding="utf-8"))
        found = stored.digest(about)
        source, target = Vocab(about.pop("source")), Vocab(about.pop("target"))
        types = {name: type(value) for name, value in about.items()}
        expect(types == {"name": str, "options": dict}, "task", "a name and options", about)
    for side, vocab, size in _misfits(model, source, target):
        has = f"task.json has a {side} vocabulary of {vocab} tokens"
        raise stored.DamagedCheckpoint(f"{out}: {has}, the model one of {size}")
    with stored.reading(path, "a task of ours"):
        stored.check_same(found, sums.get("task", found))
    return model, source, target, about
