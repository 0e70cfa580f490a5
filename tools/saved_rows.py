"""Rows that a long command measured so far, in a JSON file that it goes on from."""

from dataclasses import Field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused

Saved = TypeVar("Saved")


@runtime_checkable
class Basis(Protocol):
    """What rows must have in common to be compared: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def read_saved(kind: type[Saved], path: Path, what: str, another: str) -> Saved:
    """What is in the file. `what` it should be and how to name `another` one, for the refusal.

    Raises InputRefused where it is no such file.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputRefused(f"{path} is no {what} ({reason}): remove it, or name another {another}.") from None


def write_saved(kind: type[Saved], path: Path, saved: Saved) -> None:
    """Write the file, atomically: an interrupted command goes on from it."""
    write_atomically(path, TypeAdapter(kind).dump_json(saved, indent=2) + b"\n")


def differing_field(one: Basis, other: Basis) -> str | None:
    """The first field in which two of one kind differ; None where they are equal."""
    return next((f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)), None)
