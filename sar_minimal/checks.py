"""Bad input, refused early and by name: what it was, what was expected, what came.

A message reads ``name: expected ..., got ...``. Nothing else of the book is needed here.
"""

import torch
from torch import Tensor

from .errors import Refusal as Refusal
from .errors import WrongType as WrongType


def check_whole(name: str, value, least: int = 1) -> None:
    """Raise ValueError, naming the argument, unless ``value`` is an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Refusal(f"{name}: expected a whole number >= {least}, got {value!r}")


def check_model(model, kind: type) -> None:
    """Raise WrongType unless ``model`` is of a kind."""
    if not isinstance(model, kind):
        raise WrongType(f"model: expected a {kind.__name__}, got {type(model).__name__}")


def check_tokens(tokens: Tensor, name: str = "tokens") -> None:
    """Raise unless ``tokens`` is a non-empty integer tensor of shape (B, T)."""
    if not isinstance(tokens, Tensor):
        raise WrongType(
            f"{name}: expected a torch.Tensor of token ids, got {type(tokens).__name__}"
        )
    if tokens.dtype not in (torch.int64, torch.int32):
        raise WrongType(f"{name}: expected token ids of dtype int64 or int32, got {tokens.dtype}")
    if tokens.dim() != 2:
        raise Refusal(f"{name}: expected shape (B, T), got {tuple(tokens.shape)}")
    if tokens.numel() == 0:
        raise Refusal(f"{name}: expected at least one token, got shape {tuple(tokens.shape)}")


def check_range(tokens: Tensor, size: int, name: str, what: str = "ids") -> None:
    """Raise ValueError unless all of ``tokens`` are in 0..size - 1; ``what`` they are called."""
    low, high = (int(end) for end in tokens.aminmax())
    if low < 0 or high >= size:
        raise Refusal(f"{name}: expected {what} in 0..{size - 1}, got {low if low < 0 else high}")


def check_lengths(lengths: Tensor | None, tokens: Tensor, name: str = "lengths") -> Tensor:
    """(B,) lengths on the device of ``tokens`` (B, T); None means that every row is full.

    Raises TypeError or ValueError unless they are B integers in 1..T.
    """
    B, T = tokens.shape
    if lengths is None:
        return torch.full((B,), T, device=tokens.device)
    if not isinstance(lengths, Tensor) or lengths.dtype not in (torch.int64, torch.int32):
        raise WrongType(
            f"{name}: expected an integer tensor, got {getattr(lengths, 'dtype', type(lengths).__name__)}"
        )
    if lengths.shape != (B,):
        raise Refusal(f"{name}: expected shape ({B},), one per row, got {tuple(lengths.shape)}")
    if int(lengths.min()) < 1 or int(lengths.max()) > T:
        raise Refusal(f"{name}: expected values in 1..{T}, got {lengths.tolist()}")
    return lengths.to(tokens.device).long()


def check_shifts(shifts: Tensor, tokens: Tensor, most: int) -> None:
    """Raise Refusal unless ``shifts`` are B integers in 1..``most``, for tokens (B, T)."""
    if not isinstance(shifts, Tensor) or shifts.dtype not in (torch.int64, torch.int32):
        raise WrongType(
            f"shifts: expected an integer tensor, got {getattr(shifts, 'dtype', type(shifts).__name__)}"
        )
    if shifts.shape != tokens.shape[:1]:
        raise Refusal(
            f"shifts: expected shape ({len(tokens)},), one per row, got {tuple(shifts.shape)}"
        )
    if int(shifts.min()) < 1 or int(shifts.max()) > most:
        raise Refusal(f"shifts: expected values in 1..{most}, got {shifts.tolist()}")


def check_new(new, own: Tensor, name: str = "new", most: int | None = None) -> Tensor:
    """How many tokens to make in each row, (B,), from an int or (B,); own: (B,) lengths.

    Raises TypeError or ValueError unless it is that, each at least 1 and at most ``most``.
    """
    if isinstance(new, int) and not isinstance(new, bool):
        new = torch.full_like(own, new)
    elif (
        not isinstance(new, Tensor)
        or new.dtype not in (torch.int64, torch.int32)
        or new.shape != own.shape
    ):
        raise WrongType(
            f"{name}: expected an int or one integer per row, shape {tuple(own.shape)}, got {new!r}"
        )
    if int(new.min()) < 1:
        raise Refusal(f"{name}: expected at least 1 token to make, got {int(new.min())}")
    if most is not None and int(new.max()) > most:
        raise Refusal(f"{name}: the model's max_length is {most}, got {int(new.max())} tokens")
    return new.to(own.device).long()
