"""What is raised when input is not taken. It stands apart from ``checks`` since it needs no torch."""


class Refusal(ValueError):
    """Input that is not taken; the message names it, says what was expected and what came. Anything
    else that goes wrong is a bug of ours, and the command line shows it as one."""


class WrongType(Refusal, TypeError):
    """Input of a type that is not taken."""
