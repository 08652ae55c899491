"""Runs: a model that is trained with a folder behind it, interruptible, resumed exactly.

A run lives in a folder: ``config.json`` and ``model.safetensors`` (``save``), ``task.json``
(what it was trained on, with its vocabularies), ``metrics.jsonl`` (a line per report), and
``checkpoint.safetensors``, one file that holds all that the next step depends on. A run that was
stopped and resumed ends with the same weights, to the last bit, as one that never stopped.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm.auto import tqdm

from ..autoregressive import Autoregressive
from ..blocks import Config, Model
from ..data import Task, Vocab
from ..errors import Refusal
from ..kinds import KINDS
from ..tasks.files import write_atomically, write_json
from ..training import Recipe, endless, evaluate, new_optimizer, training_steps
from .device import choose_device
from .tables import Row


class DamagedCheckpoint(Refusal):
    """A checkpoint that is not whole, or not one of ours."""


def save(model: Model, folder: str | Path) -> None:
    """Write the weights, ``model.safetensors``, and ``config.json`` to ``folder``."""
    folder, options = Path(folder), model.options
    if callable(options.get("mask")):
        raise Refusal("mask: a function cannot be written to a file; expected 'causal' or 'full'")
    config = {"model": type(model).__name__, "config": asdict(model.config), "options": options}
    write_atomically(folder / "model.safetensors", to_bytes(_stored(model.state_dict())))
    write_json(folder / "config.json", config, indent=2)


def _stored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def load(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model that ``save`` wrote, in evaluation mode.
    Raises FileNotFoundError when nothing is there, DamagedCheckpoint when it is not what it says."""
    config, weights = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    for path in (config, weights):
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: expected a saved model, found no {path.name}")
    models = {kind.model.__name__: kind.model for kind in KINDS.values()}
    with _read(config, "a configuration of ours"):
        stored = json.loads(config.read_text())
        model = _made(models[stored["model"]], **stored)
    with _read(weights, f"the weights of {stored}"):
        model.load_state_dict(from_bytes(weights.read_bytes()))
    return model.to(device).eval()


@contextmanager
def _read(path: Path, what: str) -> Iterator[None]:
    """What goes wrong while ``path`` is read is a DamagedCheckpoint: it is not ``what``."""
    try:
        yield
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path}: not {what} ({error})") from error


def _made(kind: type[Model], config: dict, options: dict | None = None, **_: object) -> Model:
    """A model with new weights. Until 2026-11-27 a configuration held the options of all models."""
    if options is None and isinstance(config, dict):
        foreign = {name for other in KINDS.values() for name in other.model.option_names()}
        options = {name: config[name] for name in kind.option_names() if name in config}
        config = {name: value for name, value in config.items() if name not in foreign}
        if issubclass(kind, Autoregressive):  # it had no mask of its own, whatever was asked for
            options.pop("mask", None)
    return kind(Config(**config), **(options or {}))


@contextmanager
def finish_the_step() -> Iterator[threading.Event]:
    """Ctrl-C sets a flag, so that a run stops between two steps; a second one stops it at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
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
    Raises FileExistsError when ``out`` holds a run already, ValueError when its checkpoint is of
    another configuration, recipe or vocabulary, DamagedCheckpoint when it cannot be read,
    Interrupted after Ctrl-C.
    """
    recipe, (device, reason) = recipe or Recipe(), choose_device()
    for side, vocab, size in _misfits(model, task.source, task.target):
        expected = f"expected {side}_vocab {vocab} as in the task {task.name}"
        raise Refusal(f"model: {expected}, got {size}")
    if not len(task.train):
        raise Refusal("task: expected pairs to train on, its train split has none")
    torch.manual_seed(recipe.seed)
    model.to(device).train()
    run = Run(model, new_optimizer(model, recipe), task, recipe, None if out is None else Path(out))
    run.begin(resume)
    if run.step < recipe.steps:
        if progress:
            parameters = f"{model.number_of_parameters():,} parameters"
            print(f"{type(model).__name__}, {parameters}, on {device} ({reason})")
        hidden = None if progress else True  # None: where standard error is a terminal
        bar = tqdm(total=recipe.steps, initial=run.step, unit="step", disable=hidden, leave=False)
        with finish_the_step() as asked, bar:
            _finish(run, bar, asked)
    model.eval()
    return run.metrics


def _finish(run: "Run", bar: tqdm, asked: threading.Event) -> None:
    """The steps that are left. Raises Interrupted, behind a checkpoint, once it was ``asked``."""
    recipe, validation = run.recipe, run.task.validation
    began = time.perf_counter() - run.seconds  # as if the run had never stopped
    data, window = endless(run.task.train, recipe, run.step), Window(run.step, run.seconds)
    for value, batch in training_steps(run.model, data, recipe, run.optimizer, run.step):
        run.step, run.seconds = run.step + 1, time.perf_counter() - began
        window.loss, window.tokens = window.loss + value, window.tokens + int(batch.y_lengths.sum())
        bar.update()
        last = run.step == recipe.steps
        if run.step % recipe.report == 0 or last:
            loss = float(window.loss) / (run.step - window.step)
            speed = window.tokens / max(run.seconds - window.seconds, 1e-9)
            row: Row = {"step": run.step, "loss": loss, "tokens_per_second": speed}
            row |= {"seconds": run.seconds, "rate": recipe.rate_at(run.step - 1)}
            window, judged = Window(run.step, run.seconds), last and len(validation)
            run.report(row | {"validation": evaluate(run.model, validation) if judged else None})
            bar.set_postfix(loss=f"{loss:.3f}", tokens=f"{speed:.0f}/s")
            run.seconds = time.perf_counter() - began
        if run.step % recipe.checkpoint == 0 or last or asked.is_set():
            run.keep()
        if last:
            return
        if asked.is_set():
            resumed = f"; the checkpoint in {run.out} can be resumed" if run.out else ""
            raise Interrupted(f"stopped after step {run.step} of {recipe.steps}{resumed}")


def _misfits(model: Model, source: Vocab, target: Vocab) -> list[tuple[str, int, int]]:
    """(side, tokens of the vocabulary, of the model) where they differ. No source fits all."""
    c = model.config
    sides = [("source", len(source), c.source_vocab or len(source))]
    sides += [("target", len(target), c.target_vocab)]
    return [(side, vocab, size) for side, vocab, size in sides if vocab != size]


@dataclass
class Window:
    """What happened since the last report, which was after ``step`` steps and ``seconds``."""

    step: int
    seconds: float
    tokens: int = 0
    loss: float | Tensor = 0.0  # the sum stays on the device, so no step waits


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
    def identity(self) -> dict:
        """What a checkpoint must agree on before a run may go on from it, in this order."""
        model, task = self.model, self.task
        return {
            "model": type(model).__name__,
            "config": asdict(model.config) | model.options,
            "recipe": asdict(self.recipe),
            "task": {"name": task.name, "options": task.options},
            "source vocabulary": list(task.source.tokens),
            "target vocabulary": list(task.target.tokens),
        }

    def begin(self, resume: bool) -> None:
        """Go on from the checkpoint if there is one, else begin the folder."""
        if self.out is None:
            return
        if resume and (self.out / "checkpoint.safetensors").exists():
            self._restore(self.out / "checkpoint.safetensors")
            if self.step >= self.recipe.steps:
                return
        elif (self.out / "config.json").exists() and not resume:
            where = f"{self.out}: holds a run already"
            raise FileExistsError(f"{where}; resume it, or name another folder")
        save(self.model, self.out)
        vocabularies = {"source": self.task.source.tokens, "target": self.task.target.tokens}
        about = {"name": self.task.name, "options": self.task.options} | vocabularies
        write_json(self.out / "task.json", about, ensure_ascii=False, indent=1)
        self.report()  # none from after the checkpoint

    def report(self, *rows: Row) -> None:
        """Add to the metrics, and write all of them."""
        self.metrics.extend(rows)
        if self.out is not None:
            lines = "".join(json.dumps(row) + "\n" for row in self.metrics)
            write_atomically(self.out / "metrics.jsonl", lines.encode())

    def keep(self) -> None:
        """One file, replaced in one move: weights, AdamW's averages, random state, place."""
        if self.out is None:
            return
        tensors = {f"model.{name}": weight for name, weight in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        about = {name: getattr(self, name) for name in ("step", "metrics", "seconds", "identity")}
        stored = to_bytes(_stored(tensors), {"about": json.dumps(about)})
        write_atomically(self.out / "checkpoint.safetensors", stored)
        save(self.model, self.out)

    def _restore(self, path: Path) -> None:
        with _read(path, "a checkpoint of ours"), safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            theirs, stands = about["identity"], [about[n] for n in ("step", "seconds", "metrics")]
        ours = json.loads(json.dumps(self.identity))  # tuples are lists once they were stored
        # Until 2026-11-27 a configuration held the options of all models.
        with suppress(TypeError, KeyError, AttributeError):
            config = theirs["config"].items()
            theirs["config"] = {name: v for name, v in config if name in ours["config"]}
            if isinstance(self.model, Autoregressive) and "rank" in dict(config):
                theirs["config"]["mask"] = "causal"  # it had no mask of its own
        for name, wanted in ours.items():
            if theirs.get(name) != wanted:
                apart = _difference(theirs.get(name), wanted)
                raise Refusal(f"{path}: was made with another {name}: {apart}")
        weights = {n[6:]: tensor for n, tensor in tensors.items() if n.startswith("model.")}
        self.model.load_state_dict(weights)
        state = self.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                state["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(state)
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.step, self.seconds, self.metrics = stands


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
    model, path = load(out, device), out / "task.json"
    if not path.is_file():
        raise FileNotFoundError(f"{out}: expected a training run, found no task.json")
    with _read(path, "a task of ours"):
        about = json.loads(path.read_text(encoding="utf-8"))
        source, target = Vocab(about.pop("source")), Vocab(about.pop("target"))
    for side, vocab, size in _misfits(model, source, target):
        has = f"task.json has a {side} vocabulary of {vocab} tokens"
        raise DamagedCheckpoint(f"{out}: {has}, the model one of {size}")
    return model, source, target, about
