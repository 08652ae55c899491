"""What the models of the book are built from: a configuration, a block, and what they share.

Blocks are pre-norm (x + f(norm(x)), Xiong 2020) where Vaswani 2017 is post-norm, positions are
rotary, nothing has a bias: the document names none of these, and all of them train as fast or
faster.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import KeyValueCache, attend, heads, rotations
from .checks import Lengths, check_lengths, check_range, check_tokens, check_whole
from .errors import expect

P = ParamSpec("P")
R = TypeVar("R")
Memory = tuple[Tensor, Tensor | None]  # keys and values of a source, (2, B, H, S, Dh), its mask


@dataclass(frozen=True)
class Config:
    """Everything that fixes a model's shape. Raises Refusal, naming the field.

    source_vocab, target_vocab: V of x and of y (``DecoderLM`` has a target only).
    width: D. layers: L (per stream; encoder and decoder each). heads: H. hidden: the
    feed-forward layer is hidden * D wide. max_length: the longest sequence it sees. dropout: < 1.
    What one model alone has to choose is an argument of its class, see ``Model.options``.
    """

    target_vocab: int
    source_vocab: int = 0
    width: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int = 4
    max_length: int = 512
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_whole("target_vocab", self.target_vocab, least=2)  # <s> is the second
        check_whole("max_length", self.max_length, most=2**20)  # rotations take room from the start
        for name in ("width", "layers", "heads", "hidden"):
            check_whole(name, getattr(self, name))
        check_whole("source_vocab", self.source_vocab, least=0)
        pair = 2 * self.heads
        what = f"a multiple of 2 * heads = {pair} (rotary positions turn pairs)"
        expect(self.width % pair == 0, "width", what, self.width)
        fits = isinstance(self.dropout, int | float) and 0 <= self.dropout < 1
        expect(fits, "dropout", "0 <= dropout < 1", self.dropout)


def decoder(function: Callable[P, R]) -> Callable[P, R]:
    """A function of models to tokens: no gradients, no dropout, whatever mode they are in."""

    @functools.wraps(function)
    @torch.inference_mode()
    def decode(*arguments: P.args, **options: P.kwargs) -> R:
        models = [m for m in (*arguments, *options.values()) if isinstance(m, Model)]
        training = [part for model in models for part in model.modules() if part.training]
        for part in training:  # each on its own: some may be frozen
            part.training = False
        try:
            return function(*arguments, **options)
        finally:
            for part in training:
                part.training = True

    return decode


def log_softmax(logits: Tensor) -> Tensor:
    """log p over the last axis, in nats, never in less than float32."""
    return (logits.float() if logits.itemsize < 4 else logits).log_softmax(-1)


def norm(h: Tensor, gain: Tensor) -> Tensor:
    """Layer norm without a bias. h: (..., D). gain: (D,)."""
    return torch.layer_norm(h, gain.shape, gain)


class Block(nn.Module):
    """One layer: self-attention, then (in a decoder) attention to a source, then feed-forward.

    Weights are (in, out), so that the code reads as the formula, ``x @ W``.
    """

    cross_kv: Tensor

    def __init__(self, config: Config, cross: bool = False) -> None:
        super().__init__()
        D, hidden = config.width, config.hidden * config.width
        shapes: dict[str, tuple[int, ...]] = {"gain": (D,), "qkv": (D, 3 * D), "out": (D, D)}
        if cross:
            shapes |= {"cross_gain": (D,), "cross_q": (D, D)}
            shapes |= {"cross_kv": (D, 2 * D), "cross_out": (D, D)}
        shapes |= {"feed_gain": (D,), "feed_in": (D, hidden), "feed_out": (hidden, D)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))
        self.heads, self.dropout = config.heads, config.dropout

    def forward(
        self,
        h: Tensor,
        turn: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
        memory: Memory | None = None,
    ) -> Tensor:
        """h: (B, T, D). turn: (3, 1, 1, T, Dh / 2). memory: a source's, or None. Returns (B, T, D).

        With a cache, the T positions follow those already in it and read them too.
        """
        # The plain dict: to look up an attribute of a Module costs a fifth of a product.
        w: dict[str, Tensor] = self._parameters  # type: ignore[assignment]  # none of them None
        H = self.heads

        qkv = heads(norm(h, w["gain"]) @ w["qkv"], turn, H)  # (3, B, H, T, Dh)
        q, kv = qkv[0], qkv[1:]
        if cache is not None:
            kv = cache.append(layer, kv)
        h = h + self._drop(attend(q, kv, mask) @ w["out"])

        if memory is not None:
            kv, source_mask = memory
            q = heads(norm(h, w["cross_gain"]) @ w["cross_q"], turn[:1], H)[0]
            h = h + self._drop(attend(q, kv, source_mask) @ w["cross_out"])

        feed = F.relu(norm(h, w["feed_gain"]) @ w["feed_in"])
        return h + self._drop(feed @ w["feed_out"])

    def memory(self, h: Tensor, turn: Tensor, mask: Tensor | None) -> Memory:
        """What ``forward`` reads of a source h (B, S, D): (2, B, H, S, Dh), and the mask."""
        return heads(h @ self.cross_kv, turn[1:], self.heads), mask

    def _drop(self, h: Tensor) -> Tensor:
        return F.dropout(h, self.dropout) if self.training and self.dropout else h


class Stack(nn.ModuleList):
    """The L layers of one stream."""

    def __init__(self, config: Config, cross: bool = False) -> None:
        super().__init__(Block(config, cross) for _ in range(config.layers))

    def __iter__(self) -> Iterator[Block]:
        return super().__iter__()  # type: ignore[return-value]  # ModuleList says Module

    def forward(
        self,
        h: Tensor,
        turn: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        memory: list[Memory] | None = None,
    ) -> Tensor:
        """h: (B, T, D), through all of them, as ``Block`` takes it. Returns (B, T, D)."""
        for n, block in enumerate(self._modules.values()):  # the plain dict, as in ``Block``
            h = block(h, turn, mask, cache, n, None if memory is None else memory[n])
        return h


class Model(nn.Module):
    """What they share: the configuration, the start of training, the checks on input.

    ``forward`` is a door: it checks what it is given. A decoder, a door of its own, calls it
    with ``trusted``, so that nothing is checked twice: on a GPU each check waits for the device.
    """

    turns: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        turns = rotations(config.max_length, config.width // config.heads)
        self.register_buffer("turns", turns, persistent=False)  # (3, 1, 1, max_length, Dh / 2, 2)

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """What its constructor takes beside ``config``."""
        return tuple(inspect.signature(cls.__init__).parameters)[2:]  # behind self and config

    @property
    def options(self) -> dict[str, Any]:
        """The values of ``option_names``, as the constructor takes them."""
        return {name: getattr(self, name) for name in self.option_names()}

    def turn(self, first: int, last: int) -> Tensor:
        """The rotations of positions first..last - 1, complex, (3, 1, 1, last - first, Dh / 2)."""
        turns = self.turns.narrow(3, first, last - first)
        return torch.view_as_complex(turns.float() if turns.itemsize < 4 else turns)

    def initialise(self) -> None:
        """Normal weights of standard deviation 0.02, the ends of each residual branch scaled down
        by 1 / sqrt(2 L), so that the sum over L layers starts at the size of one (GPT-2)."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                shrink = math.sqrt(2 * self.config.layers) if name.endswith("out") else 1.0
                nn.init.normal_(weight, std=0.02 / shrink)

    def check_input(self, tokens: Tensor, vocab: int, name: str) -> None:
        """Raise unless tokens is (B, T) of ids below ``vocab``, T at most max_length."""
        check_tokens(tokens, name)
        T, most = tokens.shape[1], self.config.max_length
        expect(T <= most, name, f"at most max_length = {most} tokens", T)
        check_range(tokens, vocab, name)

    def check_source(self, x: Tensor, lengths: Lengths) -> Tensor:
        """The lengths of x (B, S), (B,), once both are what they should be."""
        self.check_input(x, self.config.source_vocab, "x")
        return check_lengths(lengths, x)

    def number_of_parameters(self) -> int:
        return sum(weight.numel() for weight in self.parameters())
