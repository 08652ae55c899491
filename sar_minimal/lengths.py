"""Pairs whose lengths differ: two repairs of a model that makes one token of y for each of x.

==============  ==============================================  ==================================
model           how S tokens of x become T of y                 what is known of T
==============  ==============================================  ==================================
``LengthSAR``   T is said first, then x is copied to T places   p(T | x): a choice, before y
``CTCSAR``      x is copied u times, some outputs are blank     nothing: whatever is left, <= u S
==============  ==============================================  ==================================

Both then run Algorithm 1 once, with the full mask. Copies are alike, and rotary positions are
relative, so a source of one token repeated would say the same everywhere: both put ``<s>`` in front
of the copies, from where each position can count. y is the task's, its end token included where it
has one, so that nats per token compare with the autoregressive model's, which learns T as the place
of that token.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .algorithm1 import DualStreamSAR
from .attention import padding_mask
from .blocks import Config, Model, decoder, log_softmax, norm
from .checks import (
    Lengths,
    New,
    check_lengths,
    check_new,
    check_range,
    check_tokens,
    check_type,
    check_whole,
)
from .data import Batch, Decoded
from .errors import Refusal, expect
from .losses import ar_loss, reduced
from .shift import IGNORE, PAD, START, neighbours, past_end, shift_right


def uniform_copy(x: Tensor, S: Tensor, T: Tensor) -> Tensor:
    """Rows of x, S (B,) tokens long, stretched to T (B,): place t reads x[floor(t S / T)] (Gu
    2018). Returns (B, max T), PAD behind T.

    >>> uniform_copy(torch.tensor([[5, 6, 7]]), torch.tensor([3]), torch.tensor([5])).tolist()
    [[5, 5, 6, 6, 7]]
    """
    t = torch.arange(int(T.max()), device=x.device)
    place = (t * S[:, None] // T[:, None]).clamp(max=x.shape[1] - 1)  # (B, max T)
    return x.gather(1, place).masked_fill(past_end(T, len(t)), PAD)


class LengthSAR(Model):
    """p(T | x), then p(y_t | x, T) for all t at once: a predicted length (Lee 2018; Gu 2018).

    Algorithm 1 reads ``<s>`` and x stretched to T by ``uniform_copy``. T is said by a head over
    ``<s>``, out of Algorithm 1's content stream, which reads x as it is for this. ``max_length``
    bounds S and T.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.streams = _algorithm_1(config, config.max_length, config.target_vocab)
        self.head = nn.Parameter(torch.empty(config.width, config.max_length))
        self.initialise()

    def forward(
        self, x: Tensor, T: Tensor, lengths: Lengths = None, trusted: bool = False
    ) -> Tensor:
        """x: (B, S) ids. T: (B,) integers, how long y is. lengths: (B,) of x, None when no row is
        padded. Returns logits (B, max T, V)."""
        if not trusted:
            lengths = self.check_source(x, lengths)
            T = check_new(T, lengths, "T", self.config.max_length)
        assert lengths is not None  # who is trusted gives them
        stretched = _marked(uniform_copy(x, lengths, T), T)
        return neighbours(self.streams(*stretched, trusted=True))[1]  # behind <s>

    def length_logits(self, x: Tensor, lengths: Lengths = None) -> Tensor:
        """log p(T | x) of T = 1, 2, ..., up to a constant: (B, max_length) from x (B, S)."""
        x, own = _marked(x, self.check_source(x, lengths))
        s = self.streams
        turn, mask = s.turn(0, x.shape[1]), padding_mask(own, x.shape[1])
        h = s.streams[0](F.embedding(x, s.embed[0]), turn, mask)  # (B, 1 + S, D)
        return norm(h[:, 0], s.gains[0]) @ self.head


class CTCSAR(Model):
    """p(y | x), summed over the ways to say y in u S places (CTC; Graves 2006).

    Algorithm 1 reads ``<s>`` and each token of x ``upsample`` = u times (Libovicky 2018); its
    vocabulary has one token more, the blank. What it says is *collapsed*: equal neighbours become
    one token, then blanks go. Each place is still on its own given x, but y is not: its tokens
    share their ways.
    """

    def __init__(self, config: Config, upsample: int = 3) -> None:
        super().__init__(config)
        check_whole("upsample", upsample)
        self.upsample, places = upsample, upsample * config.max_length
        self.streams = _algorithm_1(config, places, config.target_vocab + 1)
        self.initialise()

    @property
    def blank_id(self) -> int:
        """The blank, the id behind y's vocabulary."""
        return self.config.target_vocab

    def forward(self, x: Tensor, lengths: Lengths = None, trusted: bool = False) -> Tensor:
        """x: (B, S) ids. lengths: (B,), None when all are full. Returns logits (B, u S, V + 1)."""
        if not trusted:
            lengths = self.check_source(x, lengths)
        assert lengths is not None  # who is trusted gives them
        copies = _marked(x.repeat_interleave(self.upsample, 1), self.upsample * lengths)
        return neighbours(self.streams(*copies, trusted=True))[1]  # behind <s>


def _algorithm_1(config: Config, places: int, vocab: int) -> DualStreamSAR:
    check_whole("source_vocab", config.source_vocab, least=2)  # <s> is the second
    return DualStreamSAR(replace(config, max_length=1 + places, target_vocab=vocab), mask="full")


def _marked(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """``<s>`` in front of each row, and the rows' lengths with it."""
    return F.pad(x, (1, 0), value=START), lengths + 1


def length_loss(model: LengthSAR, batch: Batch, reduction: str = "mean") -> Tensor:
    """-log p(T, y | x) in nats: cross-entropy of the tokens, x stretched to the true T, and of T.

    reduction: "mean" per token of y, "sum", or "none": (B, T), where T's term stands with each
    row's first token. Raises Refusal for a y that is longer than the model's max_length, and as
    ``ar_loss`` does.
    """
    lengths, T = batch.x_lengths, batch.y_lengths
    each = ar_loss(model(batch.x, T, lengths), batch.y, "none")  # (B, T)
    of_length = F.cross_entropy(
        model.length_logits(batch.x, lengths).float(), T.long() - 1, reduction="none"
    )
    each = each + F.pad(of_length[:, None], (0, each.shape[1] - 1))  # on the first token
    return reduced(each, batch.y, reduction)


def ctc_loss(model: CTCSAR, batch: Batch, reduction: str = "mean") -> Tensor:
    """-log p(y | x) in nats, over all ways to say y, by torch's own forward algorithm.

    reduction: "mean" per token of y, "sum", or "none": (B, T), a row's loss in equal parts on its
    tokens, since CTC has no terms for each. Raises Refusal for a y that does not fit: T tokens, and
    a blank between each two equal neighbours, need as many of the u S places.
    """
    targets = batch.y.masked_fill(batch.y == IGNORE, PAD)
    check_range(targets, model.blank_id, "y")
    places, T = model.upsample * batch.x_lengths, batch.y_lengths
    token, following = neighbours(batch.y)
    twice = (token == following) & (following != IGNORE)
    needed = T + twice.sum(1)
    if bool((needed > places).any()):
        row = int((needed > places).nonzero()[0])
        room = f"upsample * S = {model.upsample} * {int(batch.x_lengths[row])} places in row {row}"
        got = f"{int(T[row])} tokens and {int(twice[row].sum())} blanks between equal neighbours"
        raise Refusal(f"y: expected at most {room}, got {got}; a larger upsample has room for them")
    log_p = model(batch.x, batch.x_lengths).float().log_softmax(-1)  # (B, u S, V + 1)
    total = F.ctc_loss(log_p.transpose(0, 1), targets, places, T, model.blank_id, "none")  # (B,)
    each = (total / T)[:, None].expand(batch.y.shape).masked_fill(batch.y == IGNORE, 0.0)
    return reduced(each, batch.y, reduction)


@decoder
def length_pass(
    model: LengthSAR, x: Tensor, lengths: Lengths = None, new: New = None, beam: int = 1
) -> Decoded:
    """The likeliest length, then the most probable token at each of its positions, each on its own.

    x: (B, S) ids. lengths: (B,), None when every row is full. new: the length of y, an int or (B,);
    None lets the model say it, which is one of the ``reads``. beam: try so many of the likeliest
    lengths in one batch and keep the one with the largest log p(T | x) + sum_t log p(y_t | x, T).
    log_probs: of the tokens given T, without p(T | x). steps: 1. reads: 1, for x is read for its
    length before; 0 when new is given. Raises Refusal on wrong input.
    """
    check_type(model, LengthSAR)
    check_whole("beam", beam)
    own, B, K = model.check_source(x, lengths), len(x), min(beam, model.config.max_length)
    if new is not None:
        expect(beam == 1, "beam", "1 when new is given", beam)
        T = check_new(new, own, "new", model.config.max_length)
        log_p = torch.zeros(B, 1, device=x.device)
    else:
        log_p, T = log_softmax(model.length_logits(x, own)).topk(K)  # (B, K) each
        T = T.flatten() + 1
        x, own = x.repeat_interleave(K, 0), own.repeat_interleave(K)
    value, tokens = log_softmax(model(x, T, own, trusted=True)).max(-1)  # (B K, max T) each
    behind = past_end(T, tokens.shape[1])
    tokens, value = tokens.masked_fill(behind, PAD), value.masked_fill(behind, 0.0)
    score = log_p + value.sum(1).view(B, -1)  # (B, K)
    best = score.argmax(1) + torch.arange(B, device=x.device) * score.shape[1]
    longest = int(T[best].max())
    return Decoded(tokens[best, :longest], value[best, :longest], T[best], 1, int(new is None))


@decoder
def ctc_pass(model: CTCSAR, x: Tensor, lengths: Lengths = None) -> Decoded:
    """The most probable output at each of the u S places, collapsed: the best way.

    x: (B, S) ids. lengths: (B,), None when every row is full. lengths of the result: whatever is
    left, 0 when all is blank. log_probs: each token's share of the way that was taken, log p of its
    places and of the blanks behind it (before the first token: with it). So a row that says
    anything sums to log p(way | x), which is at most log p(y | x), the sum over all ways
    (``ctc_loss``). steps: 1. Raises Refusal on wrong input.
    """
    check_type(model, CTCSAR)
    own = model.check_source(x, lengths)
    places = model.upsample * own
    value, way = log_softmax(model(x, own, trusted=True)).max(-1)  # (B, u S) each
    value = value.masked_fill(past_end(places, way.shape[1]), 0.0)
    tokens, of, T = collapse(way, model.blank_id, places)
    log_probs = torch.zeros_like(value).scatter_add(1, of, value)[:, : tokens.shape[1]]
    return Decoded.of(tokens, log_probs, T, 1)


def collapse(way: Tensor, blank_id: int, lengths: Lengths = None) -> tuple[Tensor, Tensor, Tensor]:
    """Equal neighbours become one token, then blanks go: a blank keeps two equals apart.

    way: (B, N) ids. lengths: (B,) of it, None when every row is full. Returns the tokens (B, T),
    PAD behind each row's end; which of them each place belongs to, (B, N): its own, or the last
    before it (the first, where there is none); and how many there are, (B,), from 0 on.

    >>> tokens, of, T = collapse(torch.tensor([[9, 5, 5, 9, 5, 6, 9]]), blank_id=9)
    >>> tokens.tolist(), of.tolist(), T.tolist()
    ([[5, 5, 6]], [[0, 0, 0, 0, 1, 2, 2]], [3])
    """
    check_tokens(way, "way")
    check_whole("blank_id", blank_id, least=0)
    N = way.shape[1]
    before = shift_right(way, blank_id)
    behind = past_end(check_lengths(lengths, way), N)
    kept = (way != before) & (way != blank_id) & ~behind  # (B, N)
    T, of = kept.sum(1), (kept.cumsum(1) - 1).clamp(min=0)
    first = (~kept).long().argsort(dim=1, stable=True)[:, : int(T.max())]  # kept places, in order
    return way.gather(1, first).masked_fill(past_end(T, first.shape[1]), PAD), of, T
