"""The models of the book, each a page, all from one configuration.

=====================  =====================================================  ==================
model                  what it computes                                       document
=====================  =====================================================  ==================
``DualStreamSAR``      p(y_t | x) for all t at once, from x alone             Algorithm 1, 3.2
``EncoderDecoderAR``   p(y_t | y_<t, x), the fair autoregressive baseline     section 2, L_AR
``DecoderLM``          p(x_t | x_<t), no source at all                        section 2
``MaskedModel``        p(y_t | x, the part of y that is shown)                (Ghazvininejad 2019)
``ShiftedLM``          p(x_{t+k} | x_<=t), told the shift k                   section 1.3, SLM
``LengthSAR``          p(T | x) p(y | x, T), in ``lengths.py``                (Gu 2018)
``CTCSAR``             p(y | x), y of any length, in ``lengths.py``           (Libovicky 2018)
``TransitionSAR``      p(y | x) as a chain, in ``transition.py``              (Sun 2019)
=====================  =====================================================  ==================

Blocks are pre-norm (x + f(norm(x)), Xiong 2020) where Vaswani 2017 is post-norm, positions are
rotary, nothing has a bias: the document names none of these, and all of them train as fast or
faster. Both autoregressive models share one protocol, ``start`` and ``step``, which is all that
``decoding.py`` knows of them.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import (
    ContentQueryAttention,
    KeyValueCache,
    attend,
    causal_mask,
    heads,
    padding_mask,
    rotations,
)
from .files import write_atomically, write_json
from .shift import PAD, START, check_lengths, check_range, check_shifts, check_tokens, check_whole


@dataclass(frozen=True)
class Config:
    """Everything that fixes a model's shape. Raises ValueError, naming the field.

    source_vocab, target_vocab: V of x and of y (``DecoderLM`` has a target only).
    width: D. layers: L (per stream; encoder and decoder each). heads: H. hidden: D of the
    feed-forward layer, in multiples of D. max_length: the longest sequence it may see.
    mask, streams, completion: Algorithm 1's open choices, see ``DualStreamSAR``. shifts: K of ``ShiftedLM``.
    upsample: u, how many places ``CTCSAR`` has for each token of x. rank, candidates: see ``TransitionSAR``.
    """

    target_vocab: int
    source_vocab: int = 0
    width: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int = 4
    max_length: int = 512
    dropout: float = 0.0
    mask: str = "causal"
    streams: int = 2
    completion: str = "vocabulary"
    shifts: int = 1
    upsample: int = 3
    rank: int = 32
    candidates: int = 64

    def __post_init__(self):
        sizes = ("target_vocab", "width", "layers", "heads", "hidden", "max_length")
        for name in (*sizes, "shifts", "upsample", "candidates"):
            check_whole(name, getattr(self, name))
        check_whole("rank", self.rank, least=0)
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width: expected a multiple of 2 * heads = {2 * self.heads} (rotary positions turn pairs), "
                f"got {self.width}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {self.dropout!r}")
        for name, allowed in (
            ("mask", ("causal", "full")),
            ("streams", (2, 1)),
            ("completion", ("vocabulary", "copy")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {allowed}, got {getattr(self, name)!r}")


def norm(h: Tensor, gain: Tensor) -> Tensor:
    """Layer norm without a bias. h: (..., D). gain: (D,)."""
    return torch.layer_norm(h, gain.shape, gain)


class Block(nn.Module):
    """One layer: self-attention, then (in a decoder) attention to a source, then feed-forward.

    Weights are (in, out), so that the code reads as the formula, ``x @ W``.
    """

    def __init__(self, config: Config, cross: bool = False):
        super().__init__()
        D, hidden = config.width, config.hidden * config.width
        shapes = {"gain": (D,), "qkv": (D, 3 * D), "out": (D, D)}
        if cross:
            shapes |= {
                "cross_gain": (D,),
                "cross_q": (D, D),
                "cross_kv": (D, 2 * D),
                "cross_out": (D, D),
            }
        shapes |= {"feed_gain": (D,), "feed_in": (D, hidden), "feed_out": (hidden, D)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))
        self.heads, self.dropout = config.heads, config.dropout

    def forward(self, h, turn, mask=None, cache=None, layer=0, memory=None):
        """h: (B, T, D). turn: (3, 1, 1, T, Dh / 2). memory: of a source, or None. Returns (B, T, D).

        With a cache, the T positions follow those already in it and read them too.
        """
        # The plain dict: to look up an attribute of a Module costs a fifth of a product.
        w, H = self._parameters, self.heads

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

    def memory(self, h: Tensor, turn: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What ``forward`` reads of a source h (B, S, D): keys and values (2, B, H, S, Dh), and the mask."""
        return heads(h @ self.cross_kv, turn[1:], self.heads), mask

    def _drop(self, h):
        return F.dropout(h, self.dropout) if self.training and self.dropout else h


class Model(nn.Module):
    """What they share: the configuration, the start of training, the checks on input."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        turns = rotations(config.max_length, config.width // config.heads)
        self.register_buffer("turns", turns, persistent=False)  # (3, 1, 1, max_length, Dh / 2, 2)

    def turn(self, first: int, last: int) -> Tensor:
        """The rotations of positions first..last - 1, complex, (3, 1, 1, last - first, Dh / 2)."""
        return torch.view_as_complex(self.turns.narrow(3, first, last - first))

    def initialise(self) -> None:
        """Normal weights of standard deviation 0.02, the ends of each residual branch scaled down
        by 1 / sqrt(2 L), so that the sum over L layers starts at the size of one (GPT-2)."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                shrink = math.sqrt(2 * self.config.layers) if name.endswith("out") else 1.0
                nn.init.normal_(weight, std=0.02 / shrink)

    def check_input(self, tokens: Tensor, vocab: int, name: str) -> None:
        """Raise unless tokens is (B, T) of ids below ``vocab``, no longer than the model's maximum."""
        check_tokens(tokens, name)
        if tokens.shape[1] > self.config.max_length:
            raise ValueError(
                f"{name}: the model's max_length is {self.config.max_length}, got {tokens.shape[1]} tokens"
            )
        check_range(tokens, vocab, name)

    def number_of_parameters(self) -> int:
        return sum(weight.numel() for weight in self.parameters())


class DualStreamSAR(Model):
    """Algorithm 1: two embeddings of x, L layers on each, content-query attention, softmax, argmax.

    Options (``Config``): ``mask="causal"`` is the document's, position t reads x_1..x_t;
    ``"full"`` reads all of x. ``streams=1`` feeds one stream to both sides of CQA (give it 2L
    layers for equal parameters). ``completion="vocabulary"`` projects what CQA read to V;
    ``"copy"`` spreads CQA's weights over the tokens that stand in x, which needs one vocabulary
    for both sides.

    CQA carries the layers' mask (else a causal model would see the future at its last step) and,
    like every attention layer of a Transformer, adds to the stream that asked. The document does
    not say which loss trains it; the book uses the cross-entropy of each y_t given x.
    """

    COPY_FLOOR = 1e-6  # spread evenly over V, so that a token which x lacks has a finite loss

    def __init__(self, config: Config):
        super().__init__(config)
        check_whole("source_vocab", config.source_vocab)
        if config.completion == "copy" and config.source_vocab != config.target_vocab:
            raise ValueError(
                "completion='copy' needs one vocabulary for x and y, got source_vocab "
                f"{config.source_vocab} and target_vocab {config.target_vocab}"
            )
        self.embed = nn.ParameterList(
            torch.empty(config.source_vocab, config.width) for _ in range(config.streams)
        )  # E_c, E_q
        self.streams = nn.ModuleList(
            nn.ModuleList(Block(config) for _ in range(config.layers))
            for _ in range(config.streams)
        )
        self.gains = nn.ParameterList(torch.ones(config.width) for _ in range(config.streams))
        self.cqa = ContentQueryAttention(config.width, config.heads)
        if config.completion == "vocabulary":
            self.gain = nn.Parameter(torch.ones(config.width))
            self.head = nn.Parameter(torch.empty(config.width, config.target_vocab))
        self.initialise()

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, hint: Tensor | None = None
    ) -> Tensor:
        """x: (B, T) ids. lengths: (B,), None when no row is padded. Returns logits (B, T, V).

        hint: (B, T, D), or (B, 1, D) for all positions, added to what the query stream reads
        (``MaskedModel``'s and ``ShiftedLM``'s; Algorithm 1 has none).
        """
        self.check_input(x, self.config.source_vocab, "x")
        T, turn = x.shape[1], self.turn(0, x.shape[1])
        if lengths is not None:
            lengths = check_lengths(lengths, x)
        if self.config.mask == "causal":
            mask = causal_mask(T, device=x.device)  # padding lies after the end: out of sight
        else:
            mask = None if lengths is None else padding_mask(lengths, T)

        H = []  # H_L^c, H_L^q
        for embed, layers, gain in zip(self.embed, self.streams, self.gains, strict=True):
            h = F.embedding(x, embed)  # (B, T, D)
            if hint is not None and H:  # the second
                h = h + hint
            for layer in layers:
                h = layer(h, turn, mask)
            H.append(norm(h, gain))
        content, query = H[0], H[-1]

        if self.config.completion == "copy":
            return self._copy(x, self.cqa.scores(content, query, turn, mask))
        read = query + self.cqa(content, query, turn, mask)  # (B, T, D)
        return norm(read, self.gain) @ self.head  # (B, T, V)

    def _copy(self, x: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, T, S) over positions. Returns log p over tokens, (B, T, V)."""
        B, T, S = scores.shape
        p = scores.new_zeros(B, T, self.config.target_vocab)
        p = p.scatter_add(2, x[:, None].expand(B, T, S), scores.softmax(-1))
        return torch.log((1 - self.COPY_FLOOR) * p + self.COPY_FLOOR / self.config.target_vocab)


class MaskedModel(Model):
    """p(y_t | x, the tokens of y that are shown): a conditional masked model (Ghazvininejad 2019).

    It is Algorithm 1 with a hint: its query stream reads x and, added to that, the embedding of the
    part of y that is shown. MASK stands where y is hidden and adds nothing, so with all of y hidden
    this *is* Algorithm 1. Everyone sees everyone: ``mask``, ``streams`` and ``completion`` of the
    configuration are not looked at.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        choices = {"mask": "full", "streams": 2, "completion": "vocabulary"}
        self.streams = DualStreamSAR(replace(config, **choices))
        self.embed = nn.Parameter(torch.empty(config.target_vocab, config.width))
        self.initialise()

    @property
    def mask_id(self) -> int:
        """MASK, the id behind y's vocabulary."""
        return self.config.target_vocab

    def forward(self, x: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x: (B, T) ids. y: (B, T) ids, ``mask_id`` where hidden. lengths: (B,) of both, None when no
        row is padded. Returns logits (B, T, V); they say nothing of use where y is shown."""
        check_tokens(x, "x")
        self.check_input(y, self.config.target_vocab + 1, "y")
        if y.shape != x.shape:
            raise ValueError(f"y: expected shape {tuple(x.shape)} as x, got {tuple(y.shape)}")
        hidden = (y == self.mask_id)[..., None]
        hint = F.embedding(y.masked_fill(hidden[..., 0], PAD), self.embed).masked_fill(hidden, 0.0)
        return self.streams(x, lengths, hint)


class ShiftedLM(Model):
    """p(x_{t+k} | x_1..x_t) for a shift k in 1..K that it is told: section 1.3's pre-training, made precise.

    It is Algorithm 1 with a hint: x is its own target, and the query stream reads x and, added to
    that, the embedding of k. The content stream does not know k. At k = 1 it is a language model, at
    k = 1..K together it guesses K tokens in one pass, each on its own (future n-gram, Qi 2020;
    multi-token prediction, Gloeckle 2024). ``mask``, ``streams`` and ``completion`` of the
    configuration are not looked at.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        choices = {"mask": "causal", "streams": 2, "completion": "vocabulary"}
        choices["source_vocab"] = config.target_vocab
        self.streams = DualStreamSAR(replace(config, **choices))
        self.embed = nn.Parameter(torch.empty(config.shifts, config.width))
        self.initialise()

    def forward(self, tokens: Tensor, shifts: Tensor) -> Tensor:
        """tokens: (B, T) ids. shifts: (B,) integers in 1..K, one per row. Returns logits (B, T, V):
        ``logits[b, t]`` is the token's ``shifts[b]`` steps after tokens[b, t], given tokens[b, :t + 1]."""
        self.check_input(tokens, self.config.target_vocab, "tokens")
        check_shifts(shifts, tokens, self.config.shifts)
        return self.streams(tokens, hint=F.embedding(shifts - 1, self.embed)[:, None])

    def ahead(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The K tokens behind each row's own end, in one pass: logits (B, K, V) from tokens (B, T)."""
        check_tokens(tokens, "tokens")
        B, K = len(tokens), self.config.shifts
        shifts = torch.arange(1, K + 1, device=tokens.device).repeat(B)  # (B K,)
        last = (check_lengths(lengths, tokens) - 1).repeat_interleave(K)
        logits = self(tokens.repeat_interleave(K, 0), shifts)  # (B K, T, V)
        return logits[torch.arange(B * K, device=tokens.device), last].view(B, K, -1)


@dataclass
class State:
    """Where a decoding run stands: what was read so far, and the source if there is one."""

    cache: KeyValueCache
    turns: Tensor  # (3, 1, 1, length, Dh / 2), complex
    head: Tensor  # (D, V), laid out for a product with few rows, which is then twice as fast
    memory: list | None = None  # per layer: (2, B, H, S, Dh), mask (B, 1, 1, S) or None

    def reorder(self, rows: Tensor) -> None:
        """Row b goes on from row ``rows[b]``."""
        self.cache.reorder(rows)
        if self.memory is not None:
            self.memory = [
                (kv[:, rows], None if mask is None else mask[rows]) for kv, mask in self.memory
            ]


class Autoregressive(Model):
    """A decoder with a cache: what ``EncoderDecoderAR`` and ``DecoderLM`` share."""

    def __init__(self, config: Config, cross: bool):
        super().__init__(config)
        self.embed = nn.Parameter(torch.empty(config.target_vocab, config.width))  # also the head
        self.layers = nn.ModuleList(Block(config, cross) for _ in range(config.layers))
        self.gain = nn.Parameter(torch.ones(config.width))

    def new_state(self, batch: int, length: int, memory: list | None = None) -> State:
        """Room for ``length`` positions of ``batch`` rows."""
        if length > self.config.max_length:
            raise ValueError(
                f"new: the model's max_length is {self.config.max_length}, got {length} tokens in all"
            )
        c, E = self.config, self.embed
        cache = KeyValueCache(c.layers, batch, length, c.heads, c.width // c.heads, like=E)
        return State(cache, self.turn(0, length), E.t().contiguous(), memory)

    def step(self, tokens: Tensor, state: State, last: bool = False) -> Tensor:
        """Read (B, T) more tokens. Returns the logits after each, (B, T, V); only after the last,
        (B, 1, V), if ``last``."""
        T, cache = tokens.shape[1], state.cache
        mask = causal_mask(T, past=cache.used, device=tokens.device) if T > 1 else None
        turn = state.turns.narrow(3, cache.used, T)
        h = self._read(tokens, turn, mask, state.memory, cache)
        cache.used += T
        return (h[:, -1:] if last and T > 1 else h) @ state.head

    def _read(self, tokens, turn, mask, memory, cache=None):
        h = F.embedding(tokens, self.embed)  # (B, T, D)
        for n, layer in enumerate(self.layers):
            h = layer(h, turn, mask, cache, n, None if memory is None else memory[n])
        return norm(h, self.gain)

    def _teacher_forced(self, tokens, memory):
        """Every position at once, each seeing those before it. Returns logits (B, T, V)."""
        T = tokens.shape[1]
        h = self._read(tokens, self.turn(0, T), causal_mask(T, device=tokens.device), memory)
        return h @ self.embed.t()


class DecoderLM(Autoregressive):
    """A decoder without a source: p(x_t | x_<t), the document's AR and SAR of section 2."""

    def __init__(self, config: Config):
        super().__init__(config, cross=False)
        self.initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, T) ids, the *input* in either coding of ``shift.py``. Returns logits (B, T, V):
        ``logits[:, t]`` is the next token's, given tokens[:, :t + 1]."""
        self.check_input(tokens, self.config.target_vocab, "tokens")
        return self._teacher_forced(tokens, None)

    def start(self, x: Tensor, lengths: Tensor, new: int) -> tuple[State, Tensor, Tensor]:
        """x: (B, P) prompts. Returns a state with room for ``new`` tokens more, prompts and lengths."""
        self.check_input(x, self.config.target_vocab, "x")
        return self.new_state(len(x), x.shape[1] + new), x, lengths


class EncoderDecoderAR(Autoregressive):
    """The fair baseline: an encoder that sees all of x, a decoder that sees y_<t (Vaswani 2017).

    L encoder and L decoder layers, so 28 L D^2 weights in the blocks beside the 24 L D^2 + 4 D^2
    of ``DualStreamSAR`` with the same configuration (hidden = 4).
    """

    def __init__(self, config: Config):
        super().__init__(config, cross=True)
        check_whole("source_vocab", config.source_vocab)
        self.source_embed = nn.Parameter(torch.empty(config.source_vocab, config.width))
        self.encoder = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.encoder_gain = nn.Parameter(torch.ones(config.width))
        self.initialise()

    def forward(self, x: Tensor, y_in: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Teacher forcing. x: (B, S). y_in: (B, T), the target read one step later
        (``shift_right``). lengths: (B,) of x, None when no row is padded. Returns logits (B, T, V)."""
        self.check_input(x, self.config.source_vocab, "x")
        self.check_input(y_in, self.config.target_vocab, "y_in")
        if len(y_in) != len(x):
            raise ValueError(f"y_in: expected {len(x)} rows as in x, got {len(y_in)}")
        return self._teacher_forced(y_in, self.encode(x, lengths))

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> list:
        """What each decoder layer reads of the source: per layer (keys and values, mask)."""
        mask = None if lengths is None else padding_mask(check_lengths(lengths, x), x.shape[1])
        turn = self.turn(0, x.shape[1])
        h = F.embedding(x, self.source_embed)  # (B, S, D)
        for layer in self.encoder:
            h = layer(h, turn, mask)
        h = norm(h, self.encoder_gain)
        return [layer.memory(h, turn, mask) for layer in self.layers]

    def start(self, x: Tensor, lengths: Tensor, new: int) -> tuple[State, Tensor, Tensor]:
        """x: (B, S) sources. Returns a state with room for ``new`` tokens, and the prompt ``<s>``."""
        self.check_input(x, self.config.source_vocab, "x")
        start = torch.full((len(x), 1), START, device=x.device)
        return (
            self.new_state(len(x), 1 + new, self.encode(x, lengths)),
            start,
            torch.ones_like(start[:, 0]),
        )


MODELS = {
    model.__name__: model
    for model in (DualStreamSAR, EncoderDecoderAR, DecoderLM, MaskedModel, ShiftedLM)
}


def save(model: Model, folder: str | Path) -> None:
    """Write ``model.safetensors`` (the weights) and ``config.json`` (what to read) to ``folder``."""
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    weights = {
        name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()
    }
    config = {"model": type(model).__name__, "config": asdict(model.config)}
    write_atomically(folder / "model.safetensors", to_bytes(weights))
    write_json(folder / "config.json", config, indent=2)


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not whole, or not one of ours."""


def load(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model that ``save`` wrote, in evaluation mode.

    Raises FileNotFoundError when nothing is there, DamagedCheckpoint when it is not what it says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    from . import lengths, transition  # noqa: F401 (their models go to MODELS)

    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: expected a saved model, found no {name}")
    try:
        stored = json.loads((folder / "config.json").read_text())
        model = MODELS[stored["model"]](Config(**stored["config"]))
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
