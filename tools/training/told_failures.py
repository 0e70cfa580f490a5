"""A failure as a line of text, for another process that is to fail in the same way."""

from datasets.faults import InputRefused
from tools.exit_codes import CommandFailed, Diverged

Failure = InputRefused | CommandFailed | Diverged
_KINDS: dict[str, type[Failure]] = {kind.__name__: kind for kind in (InputRefused, CommandFailed, Diverged)}


def failure_to_text(failure: Failure) -> str:
    """Its kind and its sentence."""
    return f"{type(failure).__name__} {failure}"


def failure_from_text(text: str) -> Failure:
    """What `failure_to_text` made a text of."""
    name, _, sentence = text.partition(" ")
    return _KINDS[name](sentence)
