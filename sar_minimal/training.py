"""One training loop for every model: seeded, interruptible, resumed exactly.

A run lives in a folder: ``config.json`` and ``model.safetensors`` (``models.save``), ``task.json``
(what it was trained on, with its vocabularies), ``metrics.jsonl`` (a line per report), and
``checkpoint.safetensors``, one file that holds all that the next step depends on. A run that was
stopped and resumed ends with the same weights, to the last bit, as one that never stopped.
"""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .files import write_atomically, write_json
from .lengths import CTCSAR, LengthSAR, ctc_loss, length_loss
from .losses import ar_loss, slm_loss
from .models import (
    Config,
    DamagedCheckpoint,
    DecoderLM,
    DualStreamSAR,
    EncoderDecoderAR,
    MaskedModel,
    Model,
    ShiftedLM,
    load,
    save,
)
from .shift import IGNORE, PAD, START, check_whole, shift_right
from .tasks import Batch, Split, Task, Vocab, batch_plan, batches
from .transition import TransitionSAR, transition_loss


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises ValueError, naming the field.

    steps: optimiser steps. tokens: at most so many in a batch, padding included. rate: the highest
    learning rate, reached after ``warmup`` steps, then down a cosine to 0. decay: AdamW's.
    clip: the largest gradient norm. short: so many of the steps come first, on the shortest third of the
    pairs alone: a model that has to find out where in x to look does so sooner where there is little to
    look at (a curriculum, Bengio 2009). report: steps between two lines of metrics. checkpoint: steps
    between two checkpoints. mixed: multiply in bfloat16 and attend by the fused kernels, for wide models on a GPU.
    It is off by default: a GPU then learns what a CPU learns (see ``loss_and_gradients``).
    """

    steps: int = 1000
    tokens: int = 1024
    rate: float = 4e-3
    warmup: int = 50
    decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    short: int = 0
    report: int = 100
    checkpoint: int = 500
    mixed: bool = False

    def __post_init__(self):
        for name in ("steps", "tokens", "report", "checkpoint"):
            check_whole(name, getattr(self, name))
        for name in ("rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected > 0, got {getattr(self, name)!r}")
        for name in ("warmup", "decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected >= 0, got {getattr(self, name)!r}")
        check_whole("short", self.short, least=0)
        if not isinstance(self.mixed, bool):
            raise ValueError(f"mixed: expected True or False, got {self.mixed!r}")
        if self.short > self.steps:
            raise ValueError(f"short: expected at most steps = {self.steps}, got {self.short}")

    def rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..., steps - 1."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * done))


def choose_device() -> tuple[torch.device, str]:
    """Where to compute, and why: ``SAR_DEVICE`` if set, else a GPU if there is one, else the CPU.

    Raises ValueError when ``SAR_DEVICE`` names a device that does not work here.
    """
    wish = os.environ.get("SAR_DEVICE")
    if wish:
        try:
            torch.empty(1, device=wish)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"SAR_DEVICE: expected a device of this machine, got {wish!r} ({reason})"
            ) from error
        return torch.device(wish), f"SAR_DEVICE={wish}"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    return torch.device("cpu"), f"no CUDA GPU found, {torch.get_num_threads()} threads"


KINDS = {
    "sar": DualStreamSAR,
    "ar": EncoderDecoderAR,
    "lm": DecoderLM,
    "masked": MaskedModel,
    "shifted": ShiftedLM,
    "length": LengthSAR,
    "ctc": CTCSAR,
    "transition": TransitionSAR,
}


def make_model(kind: str, task: Task, seed: int = 0, **options) -> Model:
    """A new model with the vocabularies of ``task``, its weights drawn from ``seed``.

    kind: "sar" (DualStreamSAR), "ar" (EncoderDecoderAR), "lm" (DecoderLM), "masked" (MaskedModel),
    "shifted" (ShiftedLM), "length" (LengthSAR), "ctc" (CTCSAR) or "transition" (TransitionSAR). options:
    ``Config``'s.
    """
    if kind not in KINDS:
        raise ValueError(f"model: expected one of {', '.join(KINDS)}, got {kind!r}")
    config = Config(target_vocab=len(task.target), source_vocab=len(task.source), **options)
    torch.manual_seed(seed)
    return KINDS[kind](config)


def loss_of(model: Model, batch: Batch, reduction: str = "mean") -> Tensor:
    """Each model's own training loss, in nats: the only place that pairs a model with a loss.

    ``DualStreamSAR``: cross-entropy of y_t given x; nothing is shifted, y is never an input.
    ``MaskedModel``: cross-entropy of the hidden tokens, see ``hide``. The others read y one step later:
    L_AR, for ``DecoderLM`` without x; ``ShiftedLM`` L_SLM, see ``draw_shifts``. ``LengthSAR`` and ``CTCSAR``
    have losses of their own, in ``lengths.py``, and so has ``TransitionSAR``, in ``transition.py``.
    """
    if isinstance(model, LengthSAR):
        return length_loss(model, batch, reduction)
    if isinstance(model, CTCSAR):
        return ctc_loss(model, batch, reduction)
    if isinstance(model, TransitionSAR):
        return transition_loss(model, batch, reduction)
    lengths = None if bool((batch.x_lengths == batch.x.shape[1]).all()) else batch.x_lengths
    if isinstance(model, DualStreamSAR | MaskedModel):
        if batch.x.shape != batch.y.shape or bool((batch.x_lengths != batch.y_lengths).any()):
            raise ValueError(
                "y: Algorithm 1 makes one token of y for each of x, so their lengths must be equal; got "
                f"{batch.x_lengths.tolist()[:4]} and {batch.y_lengths.tolist()[:4]} ...; for other "
                "lengths predict T (LengthSAR) or say blanks (CTCSAR)"
            )
        if isinstance(model, MaskedModel):
            shown, targets = hide(batch, model.mask_id, everything=not model.training)
            return ar_loss(model(batch.x, shown, lengths), targets, reduction)
        return ar_loss(model(batch.x, lengths), batch.y, reduction)
    y_in = shift_right(batch.y, START)
    if isinstance(model, ShiftedLM):
        shifts = draw_shifts(batch, model.config.shifts if model.training else 1)
        # y_in stands one step behind y already, so 1 is the shift of 0 against y.
        return slm_loss(model(y_in, shifts), batch.y, shifts - 1, reduction)
    logits = model(batch.x, y_in, lengths) if isinstance(model, EncoderDecoderAR) else model(y_in)
    return ar_loss(logits, batch.y, reduction)


def hide(batch: Batch, mask_id: int, everything: bool = False) -> tuple[Tensor, Tensor]:
    """What a masked model reads of y and what it is asked for, (B, T) each (Ghazvininejad 2019).

    In each row a number of tokens from 1 to all, every number equally likely, and then which; drawn
    from torch's own random state, which a checkpoint keeps. everything: hide all, as in evaluation,
    where the loss is that of the first pass and owes nothing to chance. The rest is IGNORE.
    """
    B, T = batch.y.shape
    past_end = batch.y == IGNORE
    number = (1 + torch.rand(B).to(batch.y.device) * batch.y_lengths).long()  # of the CPU, always
    order = torch.rand(B, T).to(batch.y.device).masked_fill(past_end, 2.0)  # padding comes last
    hidden = (order.argsort(1).argsort(1) < number[:, None]) | everything
    shown = batch.y.masked_fill(hidden, mask_id).masked_fill(past_end, PAD)
    return shown, batch.y.masked_fill(~hidden, IGNORE)


def draw_shifts(batch: Batch, K: int) -> Tensor:
    """A shift for each row, (B,), every one from 1 to K equally likely, or to the row's length if that is
    less: further on it has no token. Drawn from torch's own random state, which a checkpoint keeps.
    With K = 1, as in evaluation, the loss is that of a language model and owes nothing to chance."""
    most = batch.y_lengths.clamp(max=K)
    return 1 + (torch.rand(len(most)).to(most.device) * most).long()


@torch.inference_mode()
def evaluate(model: Model, split: Split, tokens: int = 8192) -> float:
    """The loss over a whole split, in nats per token."""
    if not len(split):
        raise ValueError("split: expected at least one pair, got none")
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total, count = 0.0, 0
    for batch in batches(split, tokens):
        total += float(loss_of(model, batch.to(device), "sum"))
        count += int((batch.y != IGNORE).sum())
    model.train(was_training)
    return total / count


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
            raise ValueError(
                f"model: expected {side} {len(vocab)} as in the task {task.name}, got {size}"
            )
    if not len(task.train):
        raise ValueError("task: expected pairs to train on, its train split has none")
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
        for batch in _endless(task.train, recipe, step):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate_at(step)
            loss = loss_and_gradients(model, batch.to(device), optimizer, recipe.mixed)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip, error_if_nonfinite=True)
            optimizer.step()
            step += 1
            window.add(loss.detach(), batch)
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


def new_optimizer(model: Model, recipe: Recipe = Recipe()) -> torch.optim.AdamW:  # noqa: B008 (frozen)
    """AdamW (Loshchilov 2019), in one kernel where there is one."""
    device = next(model.parameters()).device
    return torch.optim.AdamW(
        model.parameters(),
        lr=recipe.rate,
        weight_decay=recipe.decay,
        betas=(0.9, 0.98),
        fused=device.type in ("cpu", "cuda"),
    )


def loss_and_gradients(
    model: Model, batch: Batch, optimizer: torch.optim.Optimizer, mixed: bool = False
) -> Tensor:
    """The loss of one batch, its gradients left in the model.

    Attention is done by plain products: with sequences as short as the book's, a training step on a CPU is
    1.2 times as fast as with the fused kernels, which are made for long ones. mixed: bfloat16, and whatever
    kernel torch picks. So trained on an H200, two of three models of chapter 6 learned only in part what all
    three learn on a CPU (LOG.md, 27 November 2026).
    """
    plain = nullcontext() if mixed else sdpa_kernel(SDPBackend.MATH)
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=mixed), plain:
        loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    return loss


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


def _endless(split: Split, recipe: Recipe, step: int) -> Iterator[Batch]:
    """The batches from ``step`` on: first of the shortest third, then of all, see ``Recipe.short``."""
    if step < recipe.short:
        yield from islice(_passes(shortest(split), recipe, step), recipe.short - step)
    yield from _passes(split, recipe, max(0, step - recipe.short))


def _passes(split: Split, recipe: Recipe, step: int) -> Iterator[Batch]:
    """Pass after pass over ``split``, each in an order of its own; where y is not as long as x, the order
    decides how many batches it takes."""
    epoch = 0
    while step >= (number := len(batch_plan(split, recipe.tokens, (recipe.seed, epoch)))):
        epoch, step = epoch + 1, step - number
    while True:
        yield from batches(split, recipe.tokens, (recipe.seed, epoch), skip=step)
        epoch, step = epoch + 1, 0


def shortest(split: Split) -> Split:
    """The third of the pairs with the shortest x, at least one, in the order of ``split``."""
    by_length = sorted(range(len(split)), key=lambda i: len(split.x[i]))
    kept = sorted(by_length[: max(1, len(split) // 3)])
    return split.take(kept)


def _bar(steps: int, done: int, progress: bool):
    from tqdm.auto import tqdm

    return tqdm(
        total=steps, initial=done, unit="step", disable=None if progress else True, leave=False
    )


# What a checkpoint must agree on before a run may go on from it, in the order it is compared.
def _identity(model: Model, task: Task, recipe: Recipe) -> dict:
    return {
        "model": type(model).__name__,
        "config": asdict(model.config),
        "recipe": asdict(recipe),
        "task": {"name": task.name, "options": task.options},
        "source vocabulary": list(task.source.tokens),
        "target vocabulary": list(task.target.tokens),
    }


def _checkpoint(
    out: Path, model: Model, optimizer, identity: dict, step: int, metrics: list, seconds: float
) -> None:
    """One file, replaced in one move: weights, AdamW's averages, random state, where we stand."""
    from safetensors.torch import save as to_bytes

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
    from safetensors import SafetensorError, safe_open

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
    for name, wanted in identity.items():
        if found.get(name) != wanted:
            raise ValueError(
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
