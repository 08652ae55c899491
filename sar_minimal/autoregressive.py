"""The baseline: models that say one token after another, each given those before it (section 2).

``EncoderDecoderAR`` and ``DecoderLM`` share one protocol, ``start`` and ``step``, which is all that
``decoding.py`` knows of them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import KeyValueCache, Mask, causal_mask, check_mask, padding_mask, visible
from .blocks import Config, Memory, Model, Stack, norm
from .checks import Lengths, check_lengths, check_whole
from .data import Batch
from .errors import expect
from .losses import ar_loss
from .shift import START, shift_right


@dataclass
class State:
    """Where a decoding run stands: what was read so far, and the source if there is one."""

    cache: KeyValueCache
    turns: Tensor  # (3, 1, 1, length, Dh / 2), complex
    head: Tensor  # (D, V), laid out for a product with few rows, which is then twice as fast
    memory: list[Memory] | None = None  # per layer

    def reorder(self, rows: Tensor) -> None:
        """Row b goes on from row ``rows[b]``."""
        self.cache.reorder(rows)
        if self.memory is not None:
            self.memory = [
                (kv[:, rows], None if mask is None else mask[rows]) for kv, mask in self.memory
            ]


class Autoregressive(Model):
    """A decoder with a cache: what ``EncoderDecoderAR`` and ``DecoderLM`` share.

    mask: what a token sees of those before it, "causal" for all of them; or a function of T and
    device that returns (T, T) booleans, taken at its word: with one that shows what is to come the
    model cheats, and with one whose first rows depend on T, a cache is no longer sound.
    """

    def __init__(self, config: Config, mask: Mask, cross: bool) -> None:
        super().__init__(config)
        self.mask = check_mask(mask, ["causal"])
        self.start_vocab = config.source_vocab if cross else config.target_vocab  # of ``start``
        self.embed = nn.Parameter(torch.empty(config.target_vocab, config.width))  # also the head
        self.layers = Stack(config, cross)
        self.gain = nn.Parameter(torch.ones(config.width))

    def start(self, x: Tensor, lengths: Lengths, new: int | Tensor) -> tuple[State, Tensor, Tensor]:
        """From x, lengths (B,): a state with room for ``new`` tokens, prompts, their lengths."""
        raise NotImplementedError

    def new_state(self, batch: int, length: int, memory: list[Memory] | None = None) -> State:
        """Room for ``length`` positions of ``batch`` rows."""
        c, E = self.config, self.embed
        fits = f"at most max_length = {c.max_length} tokens in all"
        expect(length <= c.max_length, "new", fits, length)
        cache = KeyValueCache(c.layers, batch, length, c.heads, c.width // c.heads, like=E)
        return State(cache, self.turn(0, length), E.t().contiguous(), memory)

    def step(self, tokens: Tensor, state: State, last: bool = False) -> Tensor:
        """Read (B, T) more tokens. Returns the logits after each, (B, T, V); only after the last,
        (B, 1, V), if ``last``."""
        T, cache = tokens.shape[1], state.cache
        if self.mask == "causal":
            mask = causal_mask(T, past=cache.used, device=tokens.device) if T > 1 else None
        else:
            mask = visible(self.mask, cache.used + T, device=tokens.device)
            mask = None if mask is None else mask.narrow(0, cache.used, T)
        h, turn = F.embedding(tokens, self.embed), state.turns.narrow(3, cache.used, T)
        h = norm(self.layers(h, turn, mask, cache, state.memory), self.gain)  # (B, T, D)
        cache.used += T
        return (h[:, -1:] if last and T > 1 else h) @ state.head

    def _teacher_forced(self, tokens: Tensor, memory: list[Memory] | None = None) -> Tensor:
        """Every position at once, each seeing those before it. Returns logits (B, T, V)."""
        T = tokens.shape[1]
        mask = visible(self.mask, T, device=tokens.device)
        h = F.embedding(tokens, self.embed)
        h = self.layers(h, self.turn(0, T), mask, memory=memory)  # (B, T, D)
        return norm(h, self.gain) @ self.embed.t()


class DecoderLM(Autoregressive):
    """A decoder without a source: p(x_t | x_<t), the document's AR and SAR of section 2."""

    def __init__(self, config: Config, mask: Mask = "causal") -> None:
        super().__init__(config, mask, cross=False)
        self.initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, T) ids, the *input* in either coding of ``shift.py``. Returns logits (B, T,
        V): ``logits[:, t]`` is the next token's, given tokens[:, :t + 1]."""
        self.check_input(tokens, self.config.target_vocab, "tokens")
        return self._teacher_forced(tokens)

    def start(self, x: Tensor, lengths: Lengths, new: int | Tensor) -> tuple[State, Tensor, Tensor]:
        """x: (B, P) prompts. Returns a state with room for ``new`` more, prompts and lengths."""
        own = check_lengths(None, x) if lengths is None else lengths
        return self.new_state(len(x), int((own + new).max()) - 1), x, own


class EncoderDecoderAR(Autoregressive):
    """The fair baseline: an encoder that sees all of x, a decoder that sees y_<t (Vaswani 2017).

    L encoder and L decoder layers, so 28 L D^2 weights in the blocks beside the 24 L D^2 + 4 D^2
    of ``DualStreamSAR`` with the same configuration (hidden = 4).
    """

    def __init__(self, config: Config, mask: Mask = "causal") -> None:
        super().__init__(config, mask, cross=True)
        check_whole("source_vocab", config.source_vocab)
        self.source_embed = nn.Parameter(torch.empty(config.source_vocab, config.width))
        self.encoder = Stack(config)
        self.encoder_gain = nn.Parameter(torch.ones(config.width))
        self.initialise()

    def forward(self, x: Tensor, y_in: Tensor, lengths: Lengths = None) -> Tensor:
        """Teacher forcing. x: (B, S). y_in: (B, T), the target read one step later
        (``shift_right``). lengths: (B,) of x, None when no row is padded. Returns logits (B, T,
        V)."""
        own = self.check_source(x, lengths)
        self.check_input(y_in, self.config.target_vocab, "y_in")
        expect(len(y_in) == len(x), "y_in", f"{len(x)} rows as in x", len(y_in))
        return self._teacher_forced(y_in, self.encode(x, None if lengths is None else own))

    def encode(self, x: Tensor, lengths: Lengths = None) -> list[Memory]:
        """What each decoder layer reads of the source: per layer (keys and values, mask)."""
        mask = None if lengths is None else padding_mask(lengths, x.shape[1])
        turn = self.turn(0, x.shape[1])
        h = F.embedding(x, self.source_embed)  # (B, S, D)
        h = norm(self.encoder(h, turn, mask), self.encoder_gain)
        return [layer.memory(h, turn, mask) for layer in self.layers]

    def start(self, x: Tensor, lengths: Lengths, new: int | Tensor) -> tuple[State, Tensor, Tensor]:
        """x: (B, S) sources. Returns a state with room for ``new`` tokens, the prompt ``<s>``."""
        start = torch.full((len(x), 1), START, device=x.device)
        most = int(torch.as_tensor(new).max())
        state = self.new_state(len(x), most, self.encode(x, lengths))  # the last token is not read
        return state, start, torch.ones_like(start[:, 0])


def teacher_forced_loss(model: Autoregressive, batch: Batch, reduction: str = "mean") -> Tensor:
    """L_AR in nats: y read one step later, given x (``EncoderDecoderAR``) or alone (``DecoderLM``).

    reduction: as of ``ar_loss``.
    """
    y_in = shift_right(batch.y, START)
    if isinstance(model, EncoderDecoderAR):
        return ar_loss(model(batch.x, y_in, batch.lengths), batch.y, reduction)
    return ar_loss(model(y_in), batch.y, reduction)
