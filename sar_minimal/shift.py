"""The shift: the only place in the book where a sequence is moved against itself.

A decoder is trained to say the next token at every position at once. Two codings do that, and
they are the same thing written twice. For the sequence ``a b c d``, position by position:

Coding 1, *the input read one step later* (``shift_right``): the target stays, the input moves. ::

    position          0     1     2     3
    input            <s>    a     b     c        shift_right(tokens, START)
    target            a     b     c     d        tokens

Coding 2, *the target taken one step later* (``shifted_targets``): the input stays. ::

    position          0     1     2     3
    input             a     b     c     d        tokens
    target            b     c     d     .        shifted_targets(tokens, k=1)

``.`` is IGNORE: there is no token to predict, and no loss counts it. Coding 2 never asks for the
first token ``a``; coding 1 does, since ``<s>`` gives it a position to be predicted from. With an
end token and padding, one short sequence in a batch of length 6 reads ::

    tokens            a     b     c   </s>    .     .
    shift_right      <s>    a     b     c   </s>  <pad>
    shifted_targets   b     c   </s>    .     .     .     (its input: tokens, <pad> for each .)

A target sequence is padded with IGNORE, never with ``<pad>``: a loss that sees it cannot count it
by mistake, and an embedding that is fed it fails loudly. ``shift_right`` turns the IGNORE that is
left in an *input* into PAD, because an embedding needs a valid id there.
"""

import torch
from torch import Tensor

from .checks import check_per_row, check_tokens
from .errors import WrongType, expect

PAD, START, END, UNKNOWN = 0, 1, 2, 3  # the first ids of every vocabulary in the book
IGNORE = -100  # torch's own "no target here" (torch.nn.functional.cross_entropy)


def shift_right(tokens: Tensor, start_id: int) -> Tensor:
    """Coding 1's input: the sequence read one step later, ``start_id`` first, the last token gone.

    tokens: (B, T) ids, IGNORE where padded. Returns (B, T), PAD where the input is padded. Raises
    Refusal on a wrong dtype, shape or ``start_id``. Section 2.

    >>> shift_right(torch.tensor([[5, 6, 7, IGNORE, IGNORE]]), START).tolist()
    [[1, 5, 6, 7, 0]]
    """
    check_tokens(tokens)
    fits = isinstance(start_id, int) and not isinstance(start_id, bool) and 0 <= start_id < 2**31
    expect(fits, "start_id", "a token id (an int >= 0)", start_id)
    start = tokens.new_full((len(tokens), 1), start_id)
    shifted = torch.cat((start, tokens[:, :-1]), dim=1)  # (B, T)
    return shifted.masked_fill(shifted == IGNORE, PAD)


def shifted_targets(tokens: Tensor, k: int | Tensor = 1) -> Tensor:
    """Coding 2's target: position t holds the token k steps later, IGNORE where there is none.

    tokens: (B, T) ids, IGNORE where padded. k: an int >= 0 for all, or a (B,) integer tensor with
    one shift per example; k = 0 is the sequence itself. Returns (B, T). Raises Refusal on a wrong
    dtype or shape, and for k < 0: a target from the past is in the input already, so a model that
    is trained on it learns to copy. Section 2; k > 1 is section 1.3's shifted language modelling.

    >>> shifted_targets(torch.tensor([[5, 6, 7, 8]])).tolist()
    [[6, 7, 8, -100]]
    >>> shifted_targets(torch.tensor([[5, 6, 7], [5, 6, 7]]), torch.tensor([2, 0])).tolist()
    [[7, -100, -100], [5, 6, 7]]
    """
    check_tokens(tokens)
    B, T = tokens.shape
    if isinstance(k, Tensor):
        check_per_row(k, B, "k")
    elif isinstance(k, bool) or not isinstance(k, int):
        raise WrongType(f"k: expected an int or an integer tensor, got {type(k).__name__}")
    else:
        expect(k < 2**31, "k", "a shift below 2 ** 31", k)
        k = torch.full((B,), k, device=tokens.device)
    smallest = int(k.min())  # once: it waits for a GPU
    expect(smallest >= 0, "k", "a shift >= 0 (targets lie ahead)", smallest)
    source = torch.arange(T, device=tokens.device) + k.to(tokens.device)[:, None]  # (B, T)
    target = tokens.gather(1, source.clamp(max=T - 1))  # (B, T)
    return target.masked_fill(source >= T, IGNORE)


def neighbours(a: Tensor) -> tuple[Tensor, Tensor]:
    """Each position but the last, and each but the first: a_t beside a_{t+1}.

    a: (B, T, ...), T >= 1. Returns two views (B, T - 1, ...).

    >>> [part.tolist() for part in neighbours(torch.tensor([[5, 6, 7]]))]
    [[[5, 6]], [[6, 7]]]
    """
    return a[:, :-1], a[:, 1:]


def past_end(lengths: Tensor, T: int) -> Tensor:
    """Which of T positions lie behind the end of their row. lengths: (B,). Returns (B, T) booleans.

    >>> past_end(torch.tensor([2, 3]), 3).tolist()
    [[False, False, True], [False, False, False]]
    """
    return torch.arange(T, device=lengths.device) >= lengths[:, None]
