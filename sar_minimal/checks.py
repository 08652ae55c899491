"""Bad input, refused early and by name: what it was, what was expected, what came.

A message reads ``name: expected ..., got ...``. Nothing else of the book is needed here.
"""

from typing import Any

import torch
from torch import Tensor

from .errors import WrongType, expect

INTEGERS = (torch.int64, torch.int32)
Lengths = Tensor | None  # (B,) integers, how long each row is; None: every row is full
New = int | Tensor | None  # how many tokens to make, for all rows or for each (B,); None: as x has


def check_whole(name: str, value: object, least: int = 1, most: int = 2**31 - 1) -> None:
    """Raise Refusal, naming the argument, unless ``value`` is an int from ``least`` to ``most``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    expect(whole and value >= least, name, f"a whole number >= {least}", value)  # type: ignore[operator]
    expect(value <= most, name, f"a whole number <= {most}", value)  # type: ignore[operator]


def check_type(value: object, kind: Any, name: str = "model", what: str = "") -> None:
    """Raise WrongType unless ``value`` is of a kind (or one of several); ``what`` was expected."""
    if not isinstance(value, kind):
        what = what or f"a {kind.__name__}"
        raise WrongType(f"{name}: expected {what}, got {type(value).__name__}")


def check_integers(values: object, name: str, what: str = "an integer tensor") -> None:
    """Raise WrongType unless ``values`` is an int64 or int32 tensor; ``what`` it should be."""
    if not isinstance(values, Tensor) or values.dtype not in INTEGERS:
        raise WrongType(f"{name}: expected {what}, got {type_of(values)}")


def type_of(value: object) -> str:
    """The dtype of a tensor, the type of anything else, as messages say it."""
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def check_tokens(tokens: Tensor, name: str = "tokens") -> None:
    """Raise Refusal unless ``tokens`` is a non-empty integer tensor of shape (B, T)."""
    check_integers(tokens, name, "token ids, an int64 or int32 tensor")
    expect(tokens.dim() == 2, name, "shape (B, T)", tuple(tokens.shape))
    expect(tokens.numel(), name, "at least one token", tuple(tokens.shape))


def check_range(tokens: Tensor, size: int, name: str, what: str = "ids") -> None:
    """Raise Refusal unless all of ``tokens`` are in 0..size - 1; ``what`` they are called."""
    low, high = (int(end) for end in tokens.aminmax())
    expect(low >= 0 and high < size, name, f"{what} in 0..{size - 1}", low if low < 0 else high)


def check_per_row(values: Tensor, B: int, name: str, most: int | None = None) -> None:
    """Raise Refusal unless ``values`` are B integers, one per row; if given, in 1..``most``."""
    check_integers(values, name)
    expect(values.shape == (B,), name, f"shape ({B},), one per row", tuple(values.shape))
    if most is not None:
        low, high = (int(end) for end in values.aminmax())
        expect(low >= 1 and high <= most, name, f"values in 1..{most}", values)


def check_lengths(lengths: Lengths, tokens: Tensor, name: str = "lengths") -> Tensor:
    """(B,) lengths on the device of ``tokens`` (B, T); None means that every row is full.

    Raises Refusal unless they are B integers in 1..T.
    """
    B, T = tokens.shape
    if lengths is None:
        return torch.full((B,), T, device=tokens.device)
    check_per_row(lengths, B, name, T)
    return lengths.to(tokens.device).long()


def check_new(new: int | Tensor, own: Tensor, name: str = "new", most: int | None = None) -> Tensor:
    """How many tokens to make in each row, (B,), from an int or (B,); own: (B,) lengths.

    Raises Refusal unless it is that, each at least 1 and at most ``most``.
    """
    if isinstance(new, int) and not isinstance(new, bool) and abs(new) < 2**31:
        new = torch.full_like(own, new)
    elif not isinstance(new, Tensor) or new.dtype not in INTEGERS or new.shape != own.shape:
        expected = f"an int or one integer per row, shape {tuple(own.shape)}"
        raise WrongType(f"{name}: expected {expected}, got {new!r}")
    smallest = int(new.min())  # once: it waits for a GPU
    expect(smallest >= 1, name, "at least 1 token to make", smallest)
    if most is not None:
        expect((T := int(new.max())) <= most, name, f"at most max_length = {most} tokens", T)
    return new.to(own.device).long()
