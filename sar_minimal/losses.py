"""Three losses that are one: cross-entropy, in nats, against targets k steps later.

With ``y = shifted_targets(tokens, k)`` every loss here is the mean (or sum) over t of
``-log softmax(logits[:, t])[y[:, t]]``, and only k differs:

===========  =======================  ============================================
loss         k                        document
===========  =======================  ============================================
``ar_loss``  0 (the input moved)      section 2, L_AR:  T terms, first token too
``sar_loss`` 1                        section 2, L_SAR: T - 1 terms
``slm_loss`` one per example          section 1.3, shifted language modelling
===========  =======================  ============================================

Positions whose target is IGNORE (padding, or past the end) never count, neither in the sum nor in
the number that the mean divides by.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_per_row, check_tokens, type_of
from .errors import Refusal, WrongType, expect
from .shift import IGNORE, shifted_targets


def ar_loss(logits: Tensor, tokens: Tensor, reduction: str = "mean") -> Tensor:
    """L_AR: ``logits[:, t]`` predicts ``tokens[:, t]``, T terms (section 2).

    logits: (B, T, V) unnormalised, from an input read one step later (``shift_right``).
    tokens: (B, T) ids, IGNORE where padded. reduction: "mean" over the counted tokens (nats per
    token), "sum" (nats), or "none": (B, T), 0 where nothing counts. Raises Refusal on wrong shapes,
    dtypes, ids outside the vocabulary, or a mean over no token at all.
    """
    return _cross_entropy(logits, tokens, 0, reduction)


def sar_loss(logits: Tensor, tokens: Tensor, reduction: str = "mean") -> Tensor:
    """L_SAR: ``logits[:, t]`` predicts ``tokens[:, t + 1]``, T - 1 terms (section 2).

    logits: (B, T, V) from the input as it stands; the last position has no target.
    As ``ar_loss``, but "none" gives (B, T - 1).
    """
    loss = _cross_entropy(logits, tokens, 1, reduction)
    return loss[:, : loss.shape[1] - 1] if reduction == "none" else loss  # the last is IGNORE


def slm_loss(logits: Tensor, tokens: Tensor, shifts: Tensor, reduction: str = "mean") -> Tensor:
    """L_SLM: ``logits[b, t]`` predicts ``tokens[b, t + shifts[b]]`` (section 1.3).

    shifts: (B,) integers >= 0, one per example; ``shifts = 1`` everywhere is ``sar_loss``.
    As ``ar_loss``: "none" gives (B, T), 0 in the last ``shifts[b]`` positions of row b.
    """
    check_tokens(tokens)
    check_per_row(shifts, len(tokens), "shifts")
    expect(shifts.min() >= 0, "shifts", "shifts >= 0 (targets lie ahead)", shifts)
    return _cross_entropy(logits, tokens, shifts, reduction)


def _cross_entropy(logits: Tensor, tokens: Tensor, k: int | Tensor, reduction: str) -> Tensor:
    _check_reduction(reduction)
    check_tokens(tokens)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise WrongType(f"logits: expected floating point, got {type_of(logits)}")
    expected = f"shape (B, T, V) with (B, T) = {tuple(tokens.shape)} as in tokens"
    fits = logits.dim() == 3 and logits.shape[:2] == tokens.shape
    expect(fits, "logits", expected, tuple(logits.shape))
    V = logits.shape[-1]
    wrong = tokens[((tokens < 0) | (tokens >= V)) & (tokens != IGNORE)]
    if len(wrong):
        raise Refusal(f"tokens: expected ids in 0..{V - 1} (or IGNORE), got {int(wrong[0])}")
    targets = shifted_targets(tokens, k).long()  # (B, T)
    if reduction == "mean":
        number = int((targets != IGNORE).sum())
        expect(number, "tokens", f"a target to average over, at shift {k}", number)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # never sum nats in half
    loss = F.cross_entropy(
        logits.reshape(-1, V), targets.reshape(-1), ignore_index=IGNORE, reduction=reduction
    )
    return loss.view(targets.shape) if reduction == "none" else loss


def _check_reduction(reduction: str) -> None:
    known = reduction in ("mean", "sum", "none")
    expect(known, "reduction", "'mean', 'sum' or 'none'", reduction)


def reduced(each: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Losses in nats that are not those of a softmax at each position, reduced as the others are.

    each: (B, T), 0 where y (B, T) is IGNORE. reduction: "mean" per token of y, "sum" or "none".
    Raises Refusal on another.
    """
    _check_reduction(reduction)
    if reduction == "none":
        return each
    if reduction == "sum":
        return each.sum()
    number = int((y != IGNORE).sum())
    expect(number, "y", "a token at least to take the mean over", number)
    return each.sum() / number
