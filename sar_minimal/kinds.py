"""The models of the book, one row each: what it is, what trains it, what decodes it.

Whoever trains, decodes, stores or compares models asks here; a new one is a file and a row.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .algorithm1 import DualStreamSAR, one_pass, one_pass_loss
from .autoregressive import DecoderLM, EncoderDecoderAR, teacher_forced_loss
from .blocks import Config, Model
from .checks import check_type, check_whole
from .data import Batch, Decoded, Task
from .decoding import greedy
from .errors import Refusal, WrongType, expect
from .lengths import CTCSAR, LengthSAR, ctc_loss, ctc_pass, length_loss, length_pass
from .masked import MaskedModel, mask_predict, masked_loss
from .shifted import ShiftedLM, look_ahead, shifted_loss
from .transition import TransitionSAR, transition_loss, transition_pass


class Kind(NamedTuple):
    """loss: of (model, batch, reduction), in nats. decode: of (model, x, lengths, ...)."""

    model: type[Model]
    loss: Callable[..., Tensor]
    decode: Callable[..., Decoded]


KINDS = {
    "sar": Kind(DualStreamSAR, one_pass_loss, one_pass),
    "ar": Kind(EncoderDecoderAR, teacher_forced_loss, greedy),
    "lm": Kind(DecoderLM, teacher_forced_loss, greedy),
    "masked": Kind(MaskedModel, masked_loss, mask_predict),
    "shifted": Kind(ShiftedLM, shifted_loss, look_ahead),
    "length": Kind(LengthSAR, length_loss, length_pass),
    "ctc": Kind(CTCSAR, ctc_loss, ctc_pass),
    "transition": Kind(TransitionSAR, transition_loss, transition_pass),
}


def make_model(kind: str, task: Task, seed: int = 0, **options: Any) -> Any:
    """A new model of a kind with the vocabularies of ``task``, its weights drawn from ``seed``.

    kind: of ``KINDS``. options: ``Config``'s, and those of the kind's own class. Raises Refusal,
    saying what there is, on another kind or on an option that the kind does not have.
    """
    check_type(task, Task, "task")
    check_whole("seed", seed, least=0, most=2**63 - 1)
    expect(isinstance(kind, str) and kind in KINDS, "model", f"one of {', '.join(KINDS)}", kind)
    model, vocabularies = KINDS[kind].model, {"source_vocab", "target_vocab"}
    shared = {field.name for field in fields(Config)} - vocabularies
    own = {name: options.pop(name) for name in model.option_names() if name in options}
    if unknown := [name for name in options if name not in shared]:
        has = [*model.option_names(), *sorted(shared)]
        raise Refusal(
            f"{unknown[0]}: the kind {kind!r} has no such option; it has {', '.join(has)}"
        )
    config = Config(target_vocab=len(task.target), source_vocab=len(task.source), **options)
    torch.manual_seed(seed)
    return model(config, **own)


def kind_of(model: Model) -> Kind:
    """The row of a model. Raises WrongType for one that has none."""
    for kind in KINDS.values():
        if isinstance(model, kind.model):
            return kind
    names = ", ".join(kind.model.__name__ for kind in KINDS.values())
    raise WrongType(f"model: expected one of {names}, got {type(model).__name__}")


def loss_of(model: Model, batch: Batch, reduction: str = "mean") -> Tensor:
    """Each model's own training loss, in nats. reduction: as of ``ar_loss``."""
    return kind_of(model).loss(model, batch, reduction)
