"""Algorithm 1, what the document proposes: two streams over x, content-query attention, one pass.

``DualStreamSAR`` computes p(y_t | x) for all t at once, from x alone (section 3.2). Below the model
stand its loss and its decoder.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Mask, attend, check_mask, heads, visible
from .blocks import Config, Model, Stack, decoder, log_softmax, norm
from .checks import Lengths, New, check_new, check_type, check_whole
from .data import Batch, Decoded
from .errors import Refusal, expect
from .losses import ar_loss

OTHER_LENGTHS = "for other lengths predict T (LengthSAR) or say blanks (CTCSAR)"


class ContentQueryAttention(nn.Module):
    """CQA of Algorithm 1: the query stream asks, the content stream answers (section 3.2).

    The document feeds CQA's output to a softmax and never says what shape it has. As attention
    *weights* it is (T, S), as attention *output* (T, D); a distribution over tokens must be (T, V).
    Both readings are here, ``forward`` for the second and ``scores`` for the first, and
    ``DualStreamSAR`` completes each to (T, V).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.q = nn.Parameter(torch.empty(width, width))
        self.kv = nn.Parameter(torch.empty(width, 2 * width))
        self.out = nn.Parameter(torch.empty(width, width))

    def forward(self, content: Tensor, query: Tensor, turn: Tensor, mask: Tensor | None) -> Tensor:
        """content, query: (B, T, D). turn: (3, 1, 1, T, Dh / 2). Returns (B, T, D)."""
        q = heads(query @ self.q, turn[:1], self.heads)[0]
        return attend(q, heads(content @ self.kv, turn[1:], self.heads), mask) @ self.out

    def scores(self, content: Tensor, query: Tensor, turn: Tensor, mask: Tensor | None) -> Tensor:
        """content, query: (B, T, D). Returns how much t asks for s, all heads, (B, T, S)."""
        q = heads(query @ self.q, turn[:1], self.heads)[0]
        k = heads(content @ self.kv, turn[1:], self.heads)[0]
        scores = torch.einsum("bhtd,bhsd->bts", q, k) / math.sqrt(self.width)
        if mask is not None:
            mask = mask[:, 0] if mask.dim() == 4 else mask  # there is no axis of heads here
            scores = scores.masked_fill(~mask, -math.inf)
        return scores


class DualStreamSAR(Model):
    """Algorithm 1: two embeddings of x, L layers on each, content-query attention, softmax, argmax.

    mask: "causal" is the document's, position t reads x_1..x_t; "full" reads all of x; a function
    of T and device that returns (T, T) booleans. streams: 1 feeds one stream to both sides of CQA
    (give it 2 L layers for equal parameters). completion: "vocabulary" projects what CQA read to V;
    "copy" spreads CQA's weights over the tokens of x, which needs one vocabulary for both sides.

    CQA carries the layers' mask (else a causal model would see the future at its last step) and,
    like every attention layer of a Transformer, adds to the stream that asked. The document does
    not say which loss trains it; the book uses the cross-entropy of each y_t given x.
    """

    COPY_FLOOR = 1e-6  # spread evenly over V, so that a token which x lacks has a finite loss

    def __init__(
        self,
        config: Config,
        mask: Mask = "causal",
        streams: int = 2,
        completion: str = "vocabulary",
    ) -> None:
        super().__init__(config)
        check_whole("source_vocab", config.source_vocab)
        expect(streams in (2, 1), "streams", "one of (2, 1)", streams)
        completions = ("vocabulary", "copy")
        expect(completion in completions, "completion", f"one of {completions}", completion)
        self.mask, self.completion = check_mask(mask, ("causal", "full")), completion
        S, V = config.source_vocab, config.target_vocab
        one = completion != "copy" or S == V
        expect(one, "source_vocab", f"target_vocab {V}, as completion='copy' needs", S)
        self.embed = nn.ParameterList(
            torch.empty(config.source_vocab, config.width) for _ in range(streams)
        )  # E_c, E_q
        self.streams = nn.ModuleList(Stack(config) for _ in range(streams))
        self.gains = nn.ParameterList(torch.ones(config.width) for _ in range(streams))
        self.cqa = ContentQueryAttention(config.width, config.heads)
        if completion == "vocabulary":
            self.gain = nn.Parameter(torch.ones(config.width))
            self.head = nn.Parameter(torch.empty(config.width, config.target_vocab))
        self.initialise()

    @property
    def options(self) -> dict[str, Any]:
        return super().options | {"streams": len(self.streams)}

    def forward(
        self, x: Tensor, lengths: Lengths = None, hint: Tensor | None = None, trusted: bool = False
    ) -> Tensor:
        """x: (B, T) ids. lengths: (B,), None when no row is padded. Returns logits (B, T, V).

        hint: (B, T, D), or (B, 1, D) for all positions, added to what the query stream reads
        (``MaskedModel``'s and ``ShiftedLM``'s; Algorithm 1 has none).
        """
        if not trusted:
            own = self.check_source(x, lengths)
            lengths = None if lengths is None else own
        fits = hint is None or len(self.streams) > 1
        expect(fits, "hint", "two streams to be read by the second", 1)
        T, turn = x.shape[1], self.turn(0, x.shape[1])
        mask = visible(self.mask, T, lengths, x.device)

        H: list[Tensor] = []  # H_L^c, H_L^q
        for embed, layers, gain in zip(self.embed, self.streams, self.gains, strict=True):
            h = F.embedding(x, embed)  # (B, T, D)
            if hint is not None and H:  # the second
                h = h + hint
            H.append(norm(layers(h, turn, mask), gain))
        content, query = H[0], H[-1]

        if self.completion == "copy":
            return self._copy(x, self.cqa.scores(content, query, turn, mask))
        read = query + self.cqa(content, query, turn, mask)  # (B, T, D)
        return norm(read, self.gain) @ self.head  # (B, T, V)

    def _copy(self, x: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, T, S) over positions. Returns log p over tokens, (B, T, V)."""
        B, T, S = scores.shape
        p = scores.new_zeros(B, T, self.config.target_vocab)
        p = p.scatter_add(2, x[:, None].expand(B, T, S), scores.softmax(-1).nan_to_num())
        return torch.log((1 - self.COPY_FLOOR) * p + self.COPY_FLOOR / self.config.target_vocab)


def one_pass_loss(model: DualStreamSAR, batch: Batch, reduction: str = "mean") -> Tensor:
    """Cross-entropy of y_t given x, in nats; nothing is shifted, y is never an input.

    reduction: as of ``ar_loss``. Raises Refusal unless each row of y is as long as x.
    """
    check_as_long(batch)
    return ar_loss(model(batch.x, batch.lengths), batch.y, reduction)


def check_as_long(batch: Batch) -> None:
    """Raise Refusal unless each row of y is as long as x."""
    if batch.x.shape != batch.y.shape or bool((batch.x_lengths != batch.y_lengths).any()):
        got = f"{batch.x_lengths.tolist()[:4]} and {batch.y_lengths.tolist()[:4]} ..."
        equal = "Algorithm 1 makes one token of y for each of x, so their lengths must be equal"
        raise Refusal(f"y: {equal}; got {got}; {OTHER_LENGTHS}")


@decoder
def one_pass(model: DualStreamSAR, x: Tensor, lengths: Lengths = None, new: New = None) -> Decoded:
    """Algorithm 1's last line: the most probable token at every position, each on its own.

    x: (B, T) ids. lengths: (B,), None when every row is full. T tokens in, T tokens out. new: as
    many as x has, or None, which is the same; other lengths are for the models of ``lengths.py``.
    Raises Refusal on wrong input, or a model that needs its own output.
    """
    log_q, own = given_x(model, x, lengths)
    if new is not None and bool(((asked := check_new(new, own)) != own).any()):
        expected = f"expected {own.tolist()[:4]} or None, got {asked.tolist()[:4]}"
        raise Refusal(f"new: one_pass makes one token for each of x, {expected}; {OTHER_LENGTHS}")
    log_probs, tokens = log_q.max(-1)  # (B, T) each
    return Decoded.of(tokens, log_probs, own, 1)


def given_x(model: DualStreamSAR, x: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor]:
    """log p(y_t | x), (B, T, V), and each row's length, (B,)."""
    check_type(model, DualStreamSAR, what="a model of y given x alone (DualStreamSAR)")
    own = model.check_source(x, lengths)
    return log_softmax(model(x, None if lengths is None else own, trusted=True)), own
