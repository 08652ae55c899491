"""Who reads whom, asked of the model itself: gradients instead of drawings.

A mask says what a layer may read; what an output depends on in the end is a question for the chain
rule. The gradient of output t with respect to what stands at position s is exactly 0 when no path
leads from s to t, and is not 0, but for accidents of measure zero, when one does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .algorithm1 import DualStreamSAR
from .autoregressive import Autoregressive, EncoderDecoderAR
from .blocks import Model
from .checks import check_tokens, check_type, check_whole
from .errors import expect


@contextmanager
def fed(block: nn.Module, h: Tensor) -> Iterator[None]:
    """While it lasts, ``block`` reads h (B, T, D) in place of what it would.

    Raises Refusal, when the model is called, if that has another shape.
    """

    def replace(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        shape = tuple(inputs[0].shape)
        expect(h.shape == shape, "h", f"shape {shape}", tuple(h.shape))
        return (h, *inputs[1:])

    handle = block.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def entrances(model: Model, side: str) -> list[tuple[nn.Module, Tensor]]:
    """The first blocks that read ``side``, "source" (x) or "output" (y, or a language model's own
    text), each with its embedding table. Algorithm 1 has two on the source, and none on the
    output."""
    expect(side in ("source", "output"), "side", "'source' or 'output'", side)
    if isinstance(model, DualStreamSAR):
        pairs = zip(model.streams, model.embed, strict=True)
        return [(next(stack.children()), E) for stack, E in pairs] if side == "source" else []
    if isinstance(model, Autoregressive) and side == "output":
        return [(model.layers[0], model.embed)]
    if isinstance(model, EncoderDecoderAR):
        return [(model.encoder[0], model.source_embed)]
    check_type(model, Autoregressive, what="a DualStreamSAR, an EncoderDecoderAR or a DecoderLM")
    return []


def influence(
    model: Model, inputs: Sequence[Tensor], side: str, tokens: Tensor, probes: int = 4
) -> Tensor:
    """How much the logits at t depend on the token at s of ``side``: (T, S), 0 for not at all.

    inputs: what the model is called with, batches of 1; ``tokens`` (1, S) is the one of them on
    that side. An entry estimates the Frobenius norm of d logits_t / d embedding_s by ``probes``
    random directions of the logits (Hutchinson 1990): E |J' r|^2 = |J|^2 for standard normal r.
    """
    check_tokens(tokens)
    check_whole("probes", probes)
    expect(len(tokens) == 1, "tokens", "a batch of 1", len(tokens))
    T, S = inputs[-1].shape[1], tokens.shape[1]
    squares = torch.zeros(T, S)
    generator = torch.Generator().manual_seed(0)
    for block, table in entrances(model, side):
        h = table[tokens].detach().requires_grad_()  # (1, S, D)
        with fed(block, h):
            logits = model(*inputs)[0]  # (T, V)
        for t in range(T):
            for _ in range(probes):
                r = torch.randn(logits.shape[1], generator=generator).to(logits)
                (gradient,) = torch.autograd.grad(logits[t] @ r, h, retain_graph=True)
                squares[t] += gradient[0].square().sum(-1).cpu() / probes
    return squares.sqrt()
