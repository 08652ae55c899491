"""Vocabularies, pairs of token lists, batches; and what comes back from a decoder."""

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import check_type, check_whole
from .errors import Refusal, WrongType, expect
from .shift import END, IGNORE, PAD, UNKNOWN, past_end

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")  # in the order of PAD, START, END, UNKNOWN = 0..3


class UnknownToken(Refusal):
    """A token that the vocabulary does not hold: which, where, and what is near."""


@dataclass(frozen=True)
class Vocab:
    """Tokens and their ids: PAD, START, END, UNKNOWN = 0..3, then ``tokens`` in the order given.

    tokens: distinct non-empty strings without white space, the four specials not among them, so
    that ``Vocab(v.tokens) == v``. ``len`` counts the specials. Raises Refusal on any other token.

    >>> v = Vocab(["ma", "shi"])
    >>> len(v), v.encode(["shi", "ma"]), v.decode([5, 2])
    (6, [5, 4], ['shi', '</s>'])
    """

    tokens: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)
    _names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_type(self.tokens, Iterable, "tokens")
        tokens = tuple(self.tokens)
        for i, token in enumerate(tokens):
            plain = isinstance(token, str) and token.split() == [token]
            plain = plain and not any(unicodedata.category(c) == "Cc" for c in token)  # as ESC
            expect(plain, f"tokens[{i}]", "a string without white space", token)
        ids = {token: i for i, token in enumerate(SPECIALS + tokens)}
        if len(ids) < len(SPECIALS) + len(tokens):
            names = SPECIALS + tokens
            twice = next(t for i, t in enumerate(names) if t in names[:i])
            raise Refusal(f"tokens: {twice!r} is there twice, or is one of the specials {SPECIALS}")
        for name, value in (("tokens", tokens), ("_ids", ids), ("_names", SPECIALS + tokens)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def encode(self, tokens: Iterable[str], unknown: str = "error") -> list[int]:
        """Ids of ``tokens``; another token raises UnknownToken, or is UNKNOWN under "map"."""
        expect(unknown in ("error", "map"), "unknown", "'error' or 'map'", unknown)
        if unknown == "map":
            return [self._ids.get(token, UNKNOWN) for token in tokens]
        tokens = list(tokens)
        try:
            return [self._ids[token] for token in tokens]
        except KeyError as error:
            at = next(i for i, token in enumerate(tokens) if token not in self._ids)
            near = difflib.get_close_matches(str(tokens[at]), self.tokens)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise UnknownToken(f"unknown token {tokens[at]!r} at position {at}{hint}") from error

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ``ids``, the specials as ``<pad> <s> </s> <unk>``; Refusal out of range."""
        names, ids = self._names, list(ids)
        if wrong := [i for i in ids if not hasattr(i, "__index__")]:
            raise WrongType(f"ids: expected whole numbers, got {wrong[0]!r}")
        ids = list(map(int, ids))
        for at, i in enumerate(ids):
            expect(0 <= i < len(names), f"ids[{at}]", f"an id in 0..{len(names) - 1}", i)
        return [names[i] for i in ids]


@dataclass(frozen=True)
class Split:
    """Pairs of token id lists: ``x[i]`` -> ``y[i]``, none of them empty."""

    x: list[list[int]]
    y: list[list[int]]

    def __post_init__(self) -> None:
        for name, rows in (("x", self.x), ("y", self.y)):
            check_type(rows, Sequence, name)
            for i, row in enumerate(rows):
                expect(row, f"{name}[{i}]", "at least one token", row)
        expect(len(self.x) == len(self.y), "y", f"{len(self.x)} of them, as of x", len(self.y))

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Iterable[int]) -> "Split":
        """The pairs at these places, in this order."""
        rows = list(rows)
        return Split([self.x[i] for i in rows], [self.y[i] for i in rows])


@dataclass(frozen=True, eq=False)
class Batch:
    """x (B, S), PAD where padded; y (B, T), IGNORE where padded; their lengths (B,); all int64."""

    x: Tensor
    x_lengths: Tensor
    y: Tensor
    y_lengths: Tensor

    @property
    def lengths(self) -> Tensor | None:
        """``x_lengths`` as a model wants them: None when no row of x is padded."""
        return None if bool((self.x_lengths == self.x.shape[1]).all()) else self.x_lengths

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(*(t.to(device) for t in (self.x, self.x_lengths, self.y, self.y_lengths)))


def make_batch(xs: list[list[int]], ys: list[list[int]]) -> Batch:
    """Pad pairs into one ``Batch``. Raises Refusal as ``Split`` does, and for no pair at all.

    >>> make_batch([[5, 6], [7]], [[4], [4, 4]]).y.tolist()
    [[4, -100], [4, 4]]
    """
    expect(len(Split(xs, ys)), "xs", "at least one pair", xs)
    return Batch(*_padded(xs, PAD), *_padded(ys, IGNORE))


def _padded(rows: Sequence[list[int]], padding: int) -> tuple[Tensor, Tensor]:
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    table = np.array([[*row, *[padding] * (longest - len(row))] for row in rows])
    expect(table.dtype == np.int64, "ids", "whole numbers", table.dtype)
    return torch.from_numpy(table), torch.tensor(lengths)  # (B, longest), (B,)


def batch_plan(
    split: Split, tokens: int, seed: int | Sequence[int] | None = None
) -> list[np.ndarray]:
    """Which pairs go into which batch: like lengths together, pairs * longest <= ``tokens``.

    Every pair is in exactly one batch; "longest" counts x and y alike. Lengths of y are mixed: a
    model that predicts T (LengthSAR) would see one T a batch, and learn that. With a seed,
    pairs of one length and the batches themselves are shuffled, the same way each time (a seed may
    be several ints, such as run and epoch); without, both are in order of length.
    ``len(batch_plan(...))`` is the number of steps of one pass: of this one, since another order
    may fill the batches otherwise. Raises Refusal when a single pair is longer than the budget.
    """
    check_type(split, Split, "split")
    check_whole("tokens", tokens)
    S = np.fromiter(map(len, split.x), np.int64, len(split))
    longest = np.maximum(S, np.fromiter(map(len, split.y), np.int64, len(split)))
    if len(split) and longest.max() > tokens:
        has = f"pair {longest.argmax()} has {longest.max()} tokens"
        raise Refusal(f"tokens: {has}, more than the budget of {tokens} tokens a batch")
    ties = np.arange(len(split))
    if seed is not None:
        for part in seed if isinstance(seed, Sequence) else [seed]:
            check_whole("seed", part, least=0, most=2**63 - 1)
        rng = np.random.default_rng(seed)
        rng.shuffle(ties)
    order = ties[np.argsort(S[ties], kind="stable")]
    plan, first, width = [], 0, 0
    for last, length in enumerate(longest[order].tolist()):
        width = max(width, length)
        if (last - first + 1) * width > tokens:
            plan.append(order[first:last])
            first, width = last, length
    if len(split):
        plan.append(order[first:])
    if seed is not None:
        plan = [plan[i] for i in rng.permutation(len(plan))]
    return plan


def batches(
    split: Split, tokens: int, seed: int | Sequence[int] | None = None, skip: int = 0
) -> Iterator[Batch]:
    """One pass over ``split`` as in ``batch_plan``; the first ``skip`` batches are not built.

    The same (split, tokens, seed) gives the same batches, so a run that stopped after n of them
    goes on with ``skip=n``. Raises Refusal at the call, not at the first batch.
    """
    check_whole("skip", skip, least=0)
    plan = batch_plan(split, tokens, seed)[skip:]
    parts = (split.take(rows) for rows in plan)
    return (Batch(*_padded(part.x, PAD), *_padded(part.y, IGNORE)) for part in parts)


@dataclass(frozen=True)
class Task:
    """Pairs x -> y with their vocabularies. ``load_task(task.name, **task.options)`` remakes it."""

    name: str
    source: Vocab
    target: Vocab
    train: Split
    validation: Split
    test: Split
    options: dict[str, Any] = field(default_factory=dict)
    card: Any = None  # what one should know about the data, see ``tasks.splits.Card``


@dataclass(frozen=True)
class Decoded:
    """tokens: (B, T) ids, PAD after the end. log_probs: (B, T) nats, 0 after the end, each
    token's under the model (at temperature 1). lengths: (B,). steps: sequential forward passes.
    reads: passes over x before the first of them (an encoder's). calls: forward passes in all."""

    tokens: Tensor
    log_probs: Tensor
    lengths: Tensor
    steps: int
    reads: int = 0

    @property
    def calls(self) -> int:
        return self.steps + self.reads

    @classmethod
    def of(cls, tokens: Tensor, log_probs: Tensor, lengths: Tensor, *counts: int) -> "Decoded":
        """As the constructor, whatever stands behind each row's end. counts: steps, reads."""
        behind = past_end(lengths, tokens.shape[1])
        tokens, log_probs = tokens.masked_fill(behind, PAD), log_probs.masked_fill(behind, 0.0)
        return cls(tokens, log_probs, lengths, *counts)


def convert(
    decode: Callable[..., Decoded], split: Split, device: torch.device | str = "cpu"
) -> list[list[int]]:
    """``decode(x, lengths)`` over a whole split, batch by batch, in the order of the split."""
    found: dict[tuple[int, ...], list[int]] = {}
    # In larger batches Jacobi and draft and verify wait longer for the slowest row.
    for batch in batches(split, 2048):
        decoded = decode(batch.x.to(device), batch.x_lengths.to(device))
        columns = (batch.x, batch.x_lengths, decoded.tokens, decoded.lengths)
        for x, S, y, T in zip(*(column.tolist() for column in columns), strict=True):
            found[tuple(x[:S])] = y[:T]
    return [found[tuple(x)] for x in split.x]


def accuracy(
    predicted: Sequence[Sequence[int]], target: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """(characters, sentences): the shares of target positions and of sentences that are right.

    predicted, target: as many lists of ids. A position counts by its index, so what a short
    prediction lacks is wrong; what a long one has too much makes the sentence wrong. UNKNOWN in the
    target is never right: a model that says it does not know has not converted the syllable. Raises
    Refusal, also for padding in the target: a padded batch has to be cut to its lengths first.

    >>> accuracy([[5, 6], [5]], [[5, 6], [5, 7]])
    (0.75, 0.5)
    """
    check_type(predicted, Sequence, "predicted")
    check_type(target, Sequence, "target")
    n = len(target)
    expect(len(predicted) == n, "predicted", f"one prediction per target, {n}", len(predicted))
    least = min((i for y in target for i in y), default=END)
    expect(least > PAD, "target", "ids of tokens, no padding", least)
    positions = sum(map(len, target))
    expect(positions, "target", "at least one token", target)
    right = whole = 0
    for p, y in zip(predicted, target, strict=True):
        hits = sum(a == b != UNKNOWN for a, b in zip(p, y, strict=False))
        right += hits
        whole += hits == len(y) == len(p)
    return right / positions, whole / n
