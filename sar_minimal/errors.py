"""How input is refused. This stands apart from ``checks`` since it needs no torch."""


class Refusal(ValueError):
    """Input that is not taken; the message names it, says what was expected and what came. Anything
    else that goes wrong is a bug of ours, and the command line shows it as one."""


class WrongType(Refusal, TypeError):
    """Input of a type that is not taken."""


class MissingPackage(ImportError):
    """An optional package is not installed; the message is the line that installs it."""


def expect(fits: object, name: str, what: str, got: object) -> None:
    """Raise Refusal, ``name: expected what, got ...``, unless it ``fits``; of a tensor, its values.

    >>> expect(-1 > 0, "rate", "> 0", -1)
    Traceback (most recent call last):
    sar_minimal.errors.Refusal: rate: expected > 0, got -1
    """
    if not fits:
        value = got.tolist() if hasattr(got, "tolist") else got
        raise Refusal(f"{name}: expected {what}, got {value!r}")
