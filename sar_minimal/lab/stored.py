"""Models on disk: weights and configuration, with checksums, so that damage is noticed.

``model.safetensors`` holds checksums of the weights, the configuration and, of a run, the task.
Folders from before 2026-11-27 have none.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..autoregressive import Autoregressive
from ..blocks import Config, Model
from ..errors import Refusal, expect
from ..kinds import KINDS
from ..tasks.files import write_atomically, write_json
from .device import out_of_memory


class DamagedCheckpoint(Refusal):
    """A checkpoint that is not whole, or not one of ours."""


def save(model: Model, folder: str | Path, task: dict | None = None) -> None:
    """Write the weights, ``model.safetensors``, and ``config.json`` to ``folder``.

    task: what stands in its ``task.json``, for a checksum of it. Raises Refusal, before anything is
    written, for a mask that is a function and for weights that are not finite.
    """
    folder, config, weights = Path(folder), configuration(model), on_cpu(model.state_dict())
    if wrong := not_finite(weights):
        raise Refusal(f"model: expected finite weights, {wrong} has others")
    sums = {"weights": digest(tensors=weights), "config": digest(config)}
    sums |= {"task": digest(task)} if task is not None else {}
    made = to_bytes(weights, {"checksums": json.dumps(sums)})
    write_atomically(folder / "model.safetensors", made)
    write_json(folder / "config.json", config, indent=2)


def configuration(model: Model) -> dict[str, Any]:
    """What ``config.json`` says. Raises Refusal for what could not be made again from it."""
    if callable(model.options.get("mask")):
        raise Refusal("mask: a function cannot be written to a file; expected 'causal' or 'full'")
    _check_buffers(model)
    config = asdict(model.config)
    return {"model": type(model).__name__, "config": config, "options": model.options}


LARGEST = 1 << 30  # bytes of rotary positions: no file has them, so it could ask for any number


def _check_buffers(model: Model) -> None:
    size, got = sum(buffer.nbytes for buffer in model.buffers()), model.config.max_length
    expect(size <= LARGEST, "max_length", f"rotary positions of at most {LARGEST} bytes", got)


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As they are written."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with a NaN or an infinity; "" if there is none."""
    return next((name for name, t in tensors.items() if not bool(t.isfinite().all())), "")


def digest(value: object = None, tensors: Mapping[str, Tensor] | None = None) -> str:
    """A checksum of JSON and of tensors on the CPU, their names, types and shapes."""
    made = hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted((tensors or {}).items()):
        made.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        made.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def check_same(found: str, stored: str) -> None:
    """Raise ValueError unless a checksum is the one that was stored."""
    if found != stored:
        raise ValueError("its checksum is another: it was damaged or changed")


def load(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model that ``save`` wrote, in evaluation mode. Raises FileNotFoundError when nothing is
    there, DamagedCheckpoint when it is not what it says."""
    return load_checked(Path(folder), device)[0]


def load_checked(folder: Path, device: str | torch.device) -> tuple[Model, dict[str, str]]:
    """The model, and the checksums that its weights came with."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    for path in (config, weights):
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: expected a saved model, found no {path.name}")
    with reading(config, "a configuration of ours"):
        stored = json.loads(config.read_text())
        kind = {kind.model.__name__: kind.model for kind in KINDS.values()}[stored["model"]]
    what = f"the weights of {stored}"
    with reading(weights, what), safe_open(weights, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}
        shapes = {name: list(part.get_shape()) for name, part in parts.items()}
        types = {str(part.get_dtype()) for part in parts.values()}
        sums = metadata_of(file.metadata(), "checksums") or {}
    with reading(config, "a configuration of ours"):
        layers, most = stored["config"].get("layers", 1), len(shapes)
        expect(isinstance(layers, int) and layers <= most, "layers", f"at most {most}", layers)
        with torch.device("meta"):  # so far there is nothing but shapes
            empty = _made(kind, **stored)
        _check_buffers(empty)
    with reading(weights, what):
        for name, weight in empty.state_dict().items():
            expect(shapes.get(name) == list(weight.shape), name, weight.shape, shapes.get(name))
        expect(types <= {"F16", "BF16", "F32", "F64"}, "weights", "floating point", sorted(types))
        tensors = from_bytes(weights.read_bytes())
        if wrong := not_finite(tensors):
            raise ValueError(f"{wrong} has numbers that are not finite")
        if sums:
            check_same(digest(tensors=tensors), sums["weights"])
        model = _made(kind, **stored)
        model.load_state_dict(tensors)
    with reading(config, "a configuration of ours"):
        if sums:
            check_same(digest(stored), sums["config"])
    return model.to(device).eval(), sums


def metadata_of(found: dict[str, str] | None, *names: str) -> Any:
    """Of a file of tensors, what stands under the first of ``names``; None if it has nothing."""
    if found is not None and not set(found) <= set(names):
        raise ValueError(f"expected metadata {names}, got {sorted(found)}")
    return None if found is None else json.loads(found[names[0]])


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """What goes wrong while ``path`` is read is a DamagedCheckpoint: it is not ``what``."""
    try:
        yield
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
            ArithmeticError) as error:  # fmt: skip
        if out_of_memory(error, sizes=False):
            raise
        why = " ".join(str(error).split())
        raise DamagedCheckpoint(f"{path}: not {_short(what)} ({_short(why)})") from error


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else text[:most] + " ..."


def _made(kind: type[Model], config: dict, options: dict | None = None, **_: object) -> Model:
    """A model with new weights. Until 2026-11-27 a configuration held the options of all models."""
    if options is None and isinstance(config, dict):
        foreign = {name for other in KINDS.values() for name in other.model.option_names()}
        options = {name: config[name] for name in kind.option_names() if name in config}
        config = {name: value for name, value in config.items() if name not in foreign}
        if issubclass(kind, Autoregressive):  # it had no mask of its own, whatever was asked for
            options.pop("mask", None)
    return kind(Config(**config), **(options or {}))
