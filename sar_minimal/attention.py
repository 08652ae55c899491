"""Masks, rotary positions, and multi-head attention with a cache.

A mask is boolean and reads "may look": ``mask[t, s]`` is True when position t may read position s.
For T = 4, ``#`` True and ``.`` False::

    causal      strict      full
    # . . .     . . . .     # # # #      row t: who looks
    # # . .     # . . .     # # # #      column s: who is looked at
    # # # .     # # . .     # # # #
    # # # #     # # # .     # # # #

The document's section 3.1 asks for the first ("each token attends to those on its left", itself
included, since the algorithm reads x_{<=t}). XLNet's query stream needs the second.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import Lengths
from .errors import Refusal, expect

Device = torch.device | str | None


def causal_mask(T: int, strict: bool = False, past: int = 0, device: Device = None) -> Tensor:
    """Position t sees s <= t, or s < t when ``strict``. Returns (T, past + T) booleans.

    past: how many cached positions lie before the first row; every row sees them. Section 3.1.
    """
    return torch.ones(T, past + T, dtype=torch.bool, device=device).tril(past - strict)


def full_mask(T: int, device: Device = None) -> Tensor:
    """Every position sees every position, as in an encoder. Returns (T, T) booleans."""
    return torch.ones(T, T, dtype=torch.bool, device=device)


Mask = str | Callable[..., Tensor]  # "causal", "full", or a function of T and device


def check_mask(mask: Mask, names: Sequence[str]) -> Mask:
    """``mask``, if it is one of ``names`` or a function. Raises Refusal."""
    expected = f"{', '.join(map(repr, names))} or a function of T and device"
    expect(callable(mask) or mask in names, "mask", expected, mask)
    return mask


def visible(mask: Mask, T: int, lengths: Lengths = None, device: Device = None) -> Tensor | None:
    """What T positions see of one another, as ``attend`` takes it; None for everything.

    mask: a name, or a function such as ``causal_mask`` that returns (T, T) booleans for T and
    device. lengths: (B,), None when no row is padded. Returns (T, T); with lengths and a mask that
    sees behind a row's end, (B, 1, 1, T) or (B, 1, T, T).
    """
    if mask == "causal":
        return causal_mask(T, device=device)  # padding lies after the end: out of sight
    padding = None if lengths is None else padding_mask(lengths, T)
    if mask == "full":
        return padding
    own = mask(T, device=device)  # type: ignore[operator]  # no other name passes check_mask
    fits = own.shape == (T, T) and own.dtype == torch.bool
    expect(fits, "mask", f"booleans of shape {(T, T)}", (own.dtype, tuple(own.shape)))
    return own if padding is None else own & padding


def padding_mask(lengths: Tensor, S: int) -> Tensor:
    """Nobody sees past the end of their row. lengths: (B,). Returns (B, 1, 1, S) booleans."""
    return (torch.arange(S, device=lengths.device) < lengths[:, None])[:, None, None]


def rotations(length: int, width: int) -> Tensor:
    """Rotary positions: the unit circle at angle s / 10000^(2i / width) for position s, pair i.

    Queries and keys that are turned by their own positions have a dot product that depends on the
    distance alone (Su 2021, RoFormer). Returns (3, 1, 1, length, width / 2, 2), cosine and sine,
    for queries, keys and values; a value is not turned, its angle is 0, so that all three are one
    product.
    """
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * frequencies  # (length, width / 2)
    angles = torch.stack((angles, angles, torch.zeros_like(angles)))[:, None, None]
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def heads(x: Tensor, turn: Tensor, H: int) -> Tensor:
    """Cut n projections, side by side in x (B, T, n * D), into heads: (n, B, H, T, Dh), turned.

    turn: (n, 1, 1, T, Dh / 2), complex, for the same n of query, key, value. To turn a pair of
    numbers is one complex multiplication, where sines and cosines written out take five operators,
    and a decoding step is little more than the calling of operators.
    """
    x = x.view(*x.shape[:2], -1, H, turn.shape[-1], 2).permute(2, 0, 3, 1, 4, 5)  # pairs last
    half = x.itemsize < 4  # there is no complex bfloat16
    z = torch.view_as_complex(x.float() if half else x) * turn
    turned = torch.view_as_real(z).flatten(-2)
    return turned.type_as(x) if half else turned


def attend(q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(Dh)) v over the positions that the mask allows; None allows all.

    q: (B, H, T, Dh). kv: (2, B, H, S, Dh). mask: broadcasts to (B, H, T, S). Returns (B, T, D), the
    heads side by side again. A row that may look at nothing reads 0, not NaN.
    """
    k, v = kv.unbind(0)
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, T, Dh)
    return read.transpose(1, 2).flatten(2)


class KeyValueCache:
    """Keys and values of the positions read so far, in memory taken once (beams take it anew).

    ``append`` writes the new ones of one layer and returns all of that layer's. ``used`` counts the
    filled positions; it moves on once the whole model has read the new ones, so that every layer
    of a step writes to the same place.
    """

    def __init__(self, layers: int, batch: int, length: int, heads: int, width: int, like: Tensor):
        self.layers = [like.new_empty(2, batch, heads, length, width) for _ in range(layers)]
        self.length, self.used = length, 0

    def append(self, layer: int, kv: Tensor) -> Tensor:
        """kv: (2, B, H, T, Dh). Returns all of the layer's, (2, B, H, used + T, Dh)."""
        end = self.used + kv.shape[3]
        if end > self.length:
            raise Refusal(f"cache: has room for {self.length} positions, got {end}")
        layer_kv = self.layers[layer]
        layer_kv.narrow(3, self.used, end - self.used).copy_(kv)
        return layer_kv.narrow(3, 0, end)

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes a copy of row ``rows[b]``; the batch may grow or shrink (beam search)."""
        self.layers = [kv[:, rows] for kv in self.layers]
