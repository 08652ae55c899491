"""Token ids that come from outside: whole numbers, or they are refused (int(4.7) is 4)."""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import index

from ..errors import WrongType


def check_ids(rows: Iterable[Sequence[int]], name: str) -> None:
    """Raise WrongType, naming the argument, unless all that is in ``rows`` are whole numbers."""
    for token in chain.from_iterable(rows):
        try:
            index(token)
        except TypeError as error:
            raise WrongType(f"{name}: expected whole numbers as ids, got {token!r}") from error
