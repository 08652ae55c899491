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
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm.auto import tqdm

from ..blocks import Config, Model
from ..checks import Refusal
from ..data import Batch, Task, Vocab
from ..files import write_atomically, write_json
from ..kinds import KINDS
from ..training import (
    Recipe,
    choose_device,
    endless,
    evaluate,
    new_optimizer,
    training_steps,
)

# ---------------------------------------------------------------- a model in a folder


class DamagedCheckpoint(Refusal):
    """A checkpoint that is not whole, or not one of ours."""


def save(model: Model, folder: str | Path) -> None:
    """Write ``model.safetensors`` (the weights) and ``config.json`` (what to read) to ``folder``."""
    folder = Path(folder)
    weights = {
        name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()
    }
    own = model.options
    if callable(own.get("mask")):
        raise Refusal("mask: a function cannot be written to a file; expected 'causal' or 'full'")
    config = {"model": type(model).__name__, "config": asdict(model.config), "options": own}
    write_atomically(folder / "model.safetensors", to_bytes(weights))
    write_json(folder / "config.json", config, indent=2)


def load(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model that ``save`` wrote, in evaluation mode.

    Raises FileNotFoundError when nothing is there, DamagedCheckpoint when it is not what it says.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: expected a saved model, found no {name}")
    models = {kind.model.__name__: kind.model for kind in KINDS.values()}
    try:
        stored = json.loads((folder / "config.json").read_text())
        model = _made(models[stored["model"]], **stored)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DamagedCheckpoint(
            f"{folder / 'config.json'}: not a configuration of ours ({error})"
        ) from error
    try:
        model.load_state_dict(from_bytes((folder / "model.safetensors").read_bytes()))
    except (SafetensorError, RuntimeError) as error:
        raise DamagedCheckpoint(
            f"{folder / 'model.safetensors'}: not the weights of {stored} ({error})"
        ) from error
    return model.to(device).eval()


def _made(kind: type[Model], config: dict, options: dict | None = None, **_) -> Model:
    """A model with new weights. Until 2026-11-27 a configuration held the options of all models."""
    if options is None and isinstance(config, dict):
        foreign = {name for other in KINDS.values() for name in other.model.option_names()}
        options = {name: config[name] for name in kind.option_names() if name in config}
        config = {name: value for name, value in config.items() if name not in foreign}
    return kind(Config(**config), **(options or {}))


# ---------------------------------------------------------------- training


@contextmanager
def finish_the_step():
    """Ctrl-C sets a flag, so that a run stops between two steps; a second one stops it at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # Python delivers signals to the main thread alone
        return

    def on_interrupt(*_):
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
) -> list[dict]:
    """Train ``model`` in place; returns the metrics, one dict per report.

    out: the folder of the run, None to keep nothing. resume: go on from its checkpoint (or begin,
    if there is none). A dict has step, loss (nats per token, mean since the last report or
    resumption), tokens_per_second, seconds, rate, validation (nats per token; None before the end).
    Raises FileExistsError when ``out`` holds a run already, ValueError when its checkpoint is of
    another configuration, recipe or vocabulary, DamagedCheckpoint when it cannot be read,
    Interrupted after Ctrl-C.
    """
    recipe = recipe or Recipe()
    out = None if out is None else Path(out)
    device, reason = choose_device()
    for side, vocab, size in (
        ("source_vocab", task.source, model.config.source_vocab),
        ("target_vocab", task.target, model.config.target_vocab),
    ):
        if len(vocab) != size and not (side == "source_vocab" and size == 0):
            raise Refusal(
                f"model: expected {side} {len(vocab)} as in the task {task.name}, got {size}"
            )
    if not len(task.train):
        raise Refusal("task: expected pairs to train on, its train split has none")
    identity = _identity(model, task, recipe)
    torch.manual_seed(recipe.seed)
    model.to(device).train()
    optimizer = new_optimizer(model, recipe)
    step, metrics, seconds = 0, [], 0.0
    if out is not None:
        if resume and (out / "checkpoint.safetensors").exists():
            step, metrics, seconds = _restore(out, model, optimizer, identity)
            if step >= recipe.steps:
                model.eval()
                return metrics
        elif (out / "config.json").exists() and not resume:
            raise FileExistsError(f"{out}: holds a run already; resume it, or name another folder")
        save(model, out)
        write_task(task, out)
        _write_metrics(out, metrics)  # none from after the checkpoint
    if progress:
        print(
            f"{type(model).__name__}, {model.number_of_parameters():,} parameters, on {device} ({reason})"
        )

    began = time.perf_counter() - seconds  # as if the run had never stopped
    window = Window(device, step, seconds)
    with finish_the_step() as asked, _bar(recipe.steps, step, progress) as bar:
        data = endless(task.train, recipe, step)
        for loss, batch in training_steps(model, data, recipe, optimizer, step):
            step += 1
            window.add(loss, batch)
            bar.update()

            last = step == recipe.steps
            if step % recipe.report == 0 or last:
                seconds = time.perf_counter() - began
                row = window.close(step, seconds) | {"rate": recipe.rate_at(step - 1)}
                row["validation"] = (
                    evaluate(model, task.validation) if last and len(task.validation) else None
                )
                metrics.append(row)
                bar.set_postfix(
                    loss=f"{row['loss']:.3f}", tokens=f"{row['tokens_per_second']:.0f}/s"
                )
                if out is not None:
                    _write_metrics(out, metrics)
            if out is not None and (step % recipe.checkpoint == 0 or last or asked.is_set()):
                _checkpoint(
                    out, model, optimizer, identity, step, metrics, time.perf_counter() - began
                )
                save(model, out)
            if last:
                break
            if asked.is_set():
                where = "" if out is None else f"; the checkpoint in {out} can be resumed"
                raise Interrupted(f"stopped after step {step} of {recipe.steps}{where}")
    model.eval()
    return metrics


class Window:
    """The loss and speed since the last report. The sum stays on the device, so no step waits."""

    def __init__(self, device, step: int, seconds: float):
        self.loss, self.tokens = torch.zeros((), device=device), 0
        self.step, self.seconds = step, seconds

    def add(self, loss: Tensor, batch: Batch) -> None:
        self.loss += loss
        self.tokens += int(batch.y_lengths.sum())

    def close(self, step: int, seconds: float) -> dict:
        row = {
            "step": step,
            "loss": float(self.loss) / (step - self.step),
            "tokens_per_second": self.tokens / max(seconds - self.seconds, 1e-9),
            "seconds": seconds,
        }
        self.__init__(self.loss.device, step, seconds)
        return row


def _bar(steps: int, done: int, progress: bool):
    return tqdm(
        total=steps, initial=done, unit="step", disable=None if progress else True, leave=False
    )


# ---------------------------------------------------------------- what is kept, and found again


# What a checkpoint must agree on before a run may go on from it, in the order it is compared.
def _identity(model: Model, task: Task, recipe: Recipe) -> dict:
    return {
        "model": type(model).__name__,
        "config": asdict(model.config) | model.options,
        "recipe": asdict(recipe),
        "task": {"name": task.name, "options": task.options},
        "source vocabulary": list(task.source.tokens),
        "target vocabulary": list(task.target.tokens),
    }


def _checkpoint(
    out: Path, model: Model, optimizer, identity: dict, step: int, metrics: list, seconds: float
) -> None:
    """One file, replaced in one move: weights, AdamW's averages, random state, where we stand."""
    tensors = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = json.dumps({"step": step, "metrics": metrics, "seconds": seconds, "identity": identity})
    write_atomically(out / "checkpoint.safetensors", to_bytes(tensors, {"about": about}))


def _write_metrics(out: Path, metrics: list[dict]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    write_atomically(out / "metrics.jsonl", lines.encode())


def _restore(out: Path, model: Model, optimizer, identity: dict) -> tuple[int, list[dict], float]:
    path = out / "checkpoint.safetensors"
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        found, step, seconds, metrics = (
            about[key] for key in ("identity", "step", "seconds", "metrics")
        )
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path}: not a checkpoint of ours ({error})") from error
    identity = json.loads(json.dumps(identity))  # tuples are lists once they were stored
    if isinstance(found, dict) and isinstance(
        found.get("config"), dict
    ):  # once it held all options
        found["config"] = {k: v for k, v in found["config"].items() if k in identity["config"]}
    for name, wanted in identity.items():
        if found.get(name) != wanted:
            raise Refusal(
                f"{path}: was made with another {name}: {_difference(found.get(name), wanted)}"
            )
    model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model.")})
    state = optimizer.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(state)
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return step, metrics, seconds


def _difference(found, wanted) -> str:
    """What to change, in a line: the fields that differ, not the whole of both."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [k for k in wanted if found.get(k) != wanted[k]]
        return ", ".join(f"{k} was {found.get(k)!r}, now {wanted[k]!r}" for k in keys)
    if isinstance(found, list) and isinstance(wanted, list):
        return f"{len(found)} tokens then, {len(wanted)} now, {len(set(found) ^ set(wanted))} in one of them only"
    return f"{found!r} then, {wanted!r} now"


def write_task(task: Task, out: Path) -> None:
    """``task.json``: what ``sar decode`` needs to read text in and write text out."""
    about = {
        "name": task.name,
        "options": task.options,
        "source": list(task.source.tokens),
        "target": list(task.target.tokens),
    }
    write_json(out / "task.json", about, ensure_ascii=False, indent=1)


def load_run(
    out: str | Path, device: str | torch.device = "cpu"
) -> tuple[Model, Vocab, Vocab, dict]:
    """What ``train`` left in a folder: the model, its vocabularies, and {"name", "options"} of its task.

    Raises FileNotFoundError or DamagedCheckpoint, naming the file.
    """
    out = Path(out)
    model = load(out, device)
    if not (out / "task.json").is_file():
        raise FileNotFoundError(f"{out}: expected a training run, found no task.json")
    try:
        about = json.loads((out / "task.json").read_text(encoding="utf-8"))
        source, target = Vocab(about.pop("source")), Vocab(about.pop("target"))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{out / 'task.json'}: not a task of ours ({error})") from error
    for side, vocab, size in (
        ("source", source, model.config.source_vocab),
        ("target", target, model.config.target_vocab),
    ):
        if len(vocab) != size:
            raise DamagedCheckpoint(
                f"{out}: task.json has a {side} vocabulary of {len(vocab)} tokens, the model one of {size}"
            )
    return model, source, target, about
