"""A language model that is told the shift: section 1.3's pre-training, and a guess of K tokens."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .algorithm1 import DualStreamSAR
from .blocks import Config, Model, decoder, log_softmax
from .checks import Lengths, check_lengths, check_per_row, check_type, check_whole
from .data import Batch, Decoded
from .losses import slm_loss
from .shift import START, shift_right


class ShiftedLM(Model):
    """p(x_{t+k} | x_1..x_t) for a shift k in 1..K that it is told: section 1.3's pre-training.

    It is Algorithm 1 with a hint: x is its own target, and the query stream reads x and, added to
    that, the embedding of k. The content stream does not know k. At k = 1 it is a language model,
    at k = 1..K together it guesses K tokens in one pass, each on its own (future n-gram, Qi 2020;
    multi-token prediction, Gloeckle 2024). shifts: K.
    """

    def __init__(self, config: Config, shifts: int = 1) -> None:
        super().__init__(config)
        check_whole("shifts", shifts)
        self.shifts = shifts
        self.streams = DualStreamSAR(replace(config, source_vocab=config.target_vocab))
        self.embed = nn.Parameter(torch.empty(shifts, config.width))
        self.initialise()

    def forward(self, tokens: Tensor, shifts: Tensor, trusted: bool = False) -> Tensor:
        """tokens: (B, T) ids. shifts: (B,) integers in 1..K, one per row. Returns logits (B, T, V):
        ``logits[b, t]`` is the token's ``shifts[b]`` steps after tokens[b, t], given tokens[b, :t +
        1]."""
        if not trusted:
            self.check_input(tokens, self.config.target_vocab, "tokens")
            check_per_row(shifts, len(tokens), "shifts", self.shifts)
        hint = F.embedding(shifts - 1, self.embed)[:, None]
        return self.streams(tokens, hint=hint, trusted=True)

    def ahead(self, tokens: Tensor, lengths: Lengths = None) -> Tensor:
        """The K tokens behind each row's end, in one pass: logits (B, K, V) from tokens (B, T)."""
        self.check_input(tokens, self.config.target_vocab, "tokens")
        B, K = len(tokens), self.shifts
        shifts = torch.arange(1, K + 1, device=tokens.device).repeat(B)  # (B K,)
        last = (check_lengths(lengths, tokens) - 1).repeat_interleave(K)
        logits = self(tokens.repeat_interleave(K, 0), shifts, trusted=True)  # (B K, T, V)
        return logits[torch.arange(B * K, device=tokens.device), last].view(B, K, -1)


def shifted_loss(model: ShiftedLM, batch: Batch, reduction: str = "mean") -> Tensor:
    """L_SLM of y in nats, each row under a shift of its own, see ``draw_shifts``; x is not read.

    reduction: as of ``ar_loss``.
    """
    y_in = shift_right(batch.y, START)
    shifts = draw_shifts(batch, model.shifts if model.training else 1)
    # y_in stands one step behind y already, so 1 is the shift of 0 against y.
    return slm_loss(model(y_in, shifts), batch.y, shifts - 1, reduction)


def draw_shifts(batch: Batch, K: int) -> Tensor:
    """A shift for each row, (B,), every one from 1 to K equally likely, or to the row's length if
    that is less: further on it has no token. Drawn from torch's own random state, which a
    checkpoint keeps. With K = 1, as in evaluation, the loss is that of a language model and owes
    nothing to chance."""
    most = batch.y_lengths.clamp(max=K)
    return 1 + (torch.rand(len(most)).to(most.device) * most).long()


@decoder
def look_ahead(model: ShiftedLM, x: Tensor, lengths: Lengths = None) -> Decoded:
    """The K tokens behind each row of x (B, T) in one pass, each shift's most probable.

    lengths: (B,) of x, None when every row is full. tokens: (B, K). steps: 1. What is said at k = 1
    is the language model's; further on nobody has seen what lies between, so take it as a draft.
    Raises Refusal on wrong input.
    """
    check_type(model, ShiftedLM)
    log_probs, tokens = log_softmax(model.ahead(x, lengths)).max(-1)  # (B, K) each
    return Decoded(tokens, log_probs, tokens.new_full((len(tokens),), tokens.shape[1]), 1)
