"""A masked model: all tokens at once, and then some of them again, given the others (mask-predict).

It has no autoregressive model to agree with: it is one pass, and then some that correct it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .algorithm1 import DualStreamSAR, check_as_long
from .blocks import Config, Model, decoder, log_softmax
from .checks import Lengths, check_type, check_whole
from .data import Batch, Decoded
from .errors import expect
from .losses import ar_loss
from .shift import IGNORE, PAD, past_end


class MaskedModel(Model):
    """p(y_t | x, the tokens of y that are shown): a conditional masked model (Ghazvininejad 2019).

    It is Algorithm 1 with a hint: its query stream reads x and, added to that, the embedding of the
    part of y that is shown. MASK stands where y is hidden and adds nothing, so with all of y hidden
    this *is* Algorithm 1. Everyone sees everyone.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.streams = DualStreamSAR(config, mask="full")
        self.embed = nn.Parameter(torch.empty(config.target_vocab, config.width))
        self.initialise()

    @property
    def mask_id(self) -> int:
        """MASK, the id behind y's vocabulary."""
        return self.config.target_vocab

    def forward(
        self, x: Tensor, y: Tensor, lengths: Lengths = None, trusted: bool = False
    ) -> Tensor:
        """x: (B, T) ids. y: (B, T) ids, ``mask_id`` where hidden. lengths: (B,) of both, None when
        no row is padded. Returns logits (B, T, V); they say nothing of use where y is shown."""
        if not trusted:
            own = self.check_source(x, lengths)
            self.check_input(y, self.config.target_vocab + 1, "y")
            expect(y.shape == x.shape, "y", f"shape {tuple(x.shape)} as x", tuple(y.shape))
            lengths = None if lengths is None else own
        hidden = (y == self.mask_id)[..., None]
        hint = F.embedding(y.masked_fill(hidden[..., 0], PAD), self.embed).masked_fill(hidden, 0.0)
        return self.streams(x, lengths, hint, trusted=True)


def masked_loss(model: MaskedModel, batch: Batch, reduction: str = "mean") -> Tensor:
    """Cross-entropy of the hidden tokens, in nats, see ``hide``; in evaluation all are hidden.

    reduction: as of ``ar_loss``. Raises Refusal unless each row of y is as long as x.
    """
    check_as_long(batch)
    shown, targets = hide(batch, model.mask_id, everything=not model.training)
    return ar_loss(model(batch.x, shown, batch.lengths), targets, reduction)


def hide(batch: Batch, mask_id: int, everything: bool = False) -> tuple[Tensor, Tensor]:
    """What a masked model reads of y and what it is asked for, (B, T) each (Ghazvininejad 2019).

    In each row a number of tokens from 1 to all, every number equally likely, and then which; drawn
    from torch's own random state, which a checkpoint keeps. everything: hide all, as in evaluation,
    where the loss is that of the first pass and owes nothing to chance. The rest is IGNORE.
    """
    B, T = batch.y.shape
    padding = batch.y == IGNORE
    number = (1 + torch.rand(B).to(batch.y.device) * batch.y_lengths).long()  # of the CPU, always
    order = torch.rand(B, T).to(batch.y.device).masked_fill(padding, 2.0)  # comes last
    hidden = (order.argsort(1).argsort(1) < number[:, None]) | everything
    shown = batch.y.masked_fill(hidden, mask_id).masked_fill(padding, PAD)
    return shown, batch.y.masked_fill(~hidden, IGNORE)


@decoder
def mask_predict(
    model: MaskedModel, x: Tensor, lengths: Lengths = None, iterations: int = 4
) -> Decoded:
    """Say all tokens, hide the least certain, say those again, ... (Ghazvininejad 2019).

    Iteration i = 0, 1, ... hides n (iterations - i) / iterations, rounded down, of a row's n
    tokens: all at first, so that 1 iteration is one pass, then linearly fewer, those of the lowest
    probability. x: (B, T) ids. lengths: (B,), None when every row is full. T tokens in, T tokens
    out. steps: the iterations that had something to say. log_probs: what each token had when it was
    said last, given those shown then; their sum is no log-likelihood of y. Raises Refusal
    on wrong input.
    """
    check_type(model, MaskedModel)
    check_whole("iterations", iterations, most=2**16)
    own = model.check_source(x, lengths)
    behind, lengths = past_end(own, x.shape[1]), None if lengths is None else own
    tokens = torch.full(x.shape, PAD, device=x.device)
    log_probs = torch.zeros(x.shape, device=x.device)
    for i in range(iterations):
        number = own * (iterations - i) // iterations  # (B,)
        # Rounded, so that of equals the earlier is hidden, not the one that rounding errors pick.
        certain = log_probs.round(decimals=4).masked_fill(behind, torch.inf)  # padding never
        hidden = certain.argsort(dim=1, stable=True).argsort(1) < number[:, None]
        if not bool(hidden.any()):  # every row is shorter than there are iterations
            return Decoded(tokens, log_probs, own, i)
        logits = model(x, tokens.masked_fill(hidden, model.mask_id), lengths, trusted=True)
        value, best = log_softmax(logits).max(-1)  # (B, T) each
        tokens = torch.where(hidden, best, tokens)
        log_probs = torch.where(hidden, value, log_probs)
    return Decoded(tokens, log_probs, own, iterations)
