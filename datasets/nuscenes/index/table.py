"""One JSON table as columns, each value checked; records can be looked up again to say what is wrong with one."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from datasets.faults import InputRefused
from datasets.nuscenes.index.column_types import ColumnType, Records, column_type
from datasets.nuscenes.index.columns import Column, FileNames, Texts, TokenLists, Tokens, Values
from datasets.nuscenes.index.keys import Keys, KeyTable
from datasets.nuscenes.json_stream import JsonList, Piece, read_plain
from datasets.nuscenes.schema import Field
from datasets.nuscenes.values import refuse_value

# Called with the bytes that were read since the last call.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class _Place:
    """The bytes of the file that hold the records from number `first` on."""

    first: int
    start: int
    stop: int


class Table:
    """The records of a table, each token once. `columns`: field name -> what column_types makes of it.

    `digest`: the SHA-256 of the file, None where there is none.
    """

    def __init__(
        self, path: Path, columns: dict[str, Column], rows: NDArray[np.int64], places: list[_Place], digest: str | None
    ) -> None:
        self.path = path
        self.columns = columns
        self.digest = digest
        self._rows = rows
        self._places = places
        self._key_table: KeyTable | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def values(self, field: str) -> NDArray[Any]:
        """The numbers (N, ...) of a field."""
        return cast(Values, self.columns[field]).array

    def texts(self, field: str) -> list[str]:
        """The texts (N) of a field."""
        return cast(Texts, self.columns[field]).texts

    def tokens(self, field: str = "token") -> Tokens:
        """The tokens (N) of a field: the record's own, or those it refers to."""
        return cast(Tokens, self.columns[field])

    def token_lists(self, field: str) -> TokenLists:
        """The lists of tokens (N) of a field."""
        return cast(TokenLists, self.columns[field])

    def file_names(self, field: str) -> FileNames:
        """The file names (N) of a field."""
        return cast(FileNames, self.columns[field])

    def rows_of(self, keys: Keys) -> NDArray[np.int32]:
        """The rows of tokens, -1 where there is no such record."""
        if self._key_table is None:
            self._key_table = KeyTable(self.tokens().keys)
        return self._key_table.rows_of(keys)

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """Some of the records."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return Table(self.path, columns, self._rows[rows], self._places, self.digest)

    def drop(self, *names: str) -> None:
        """Free columns, and the look-up of tokens, that are not needed any more."""
        self._key_table = None
        for name in names:
            del self.columns[name]

    def refuse_first(self, bad: NDArray[np.bool_], field: str, expected: str, *, others: bool = False) -> None:
        """Raise InputRefused for the first record that `bad` (N) marks, if there is one."""
        rows = np.flatnonzero(bad)
        if rows.size:
            self.refuse(int(rows[0]), field, expected, others=len(rows) - 1 if others else 0)

    def refuse(self, row: int, field: str, expected: str, *, others: int = 0) -> NoReturn:
        """Raise InputRefused for a field of one record."""
        record = self.record(row)
        refuse_value(self.path, record["token"], field, expected, record.get(field, "no such field"), others)

    def record(self, row: int) -> dict[str, Any]:
        """The record as it stands in the file."""
        number = int(self._rows[row])
        place = self._places[bisect_right(self._places, number, key=lambda place: place.first) - 1]
        record: dict[str, Any] = read_plain(self.path, place.start, place.stop)[number - place.first]
        return record


def read_table(path: Path, table_fields: tuple[Field, ...], *, may_be_empty: bool, progress: Progress) -> Table:
    """Read and check a table. Records that occur twice count once.

    Raises InputRefused for a file that is missing or no JSON list of records, for a value that is not what its field
    may hold, and for a token that occurs twice with different contents.
    """
    types = {field.name: column_type(field) for field in table_fields}
    record_type = _record_type(table_fields, types)
    parts: dict[str, list[Column]] = {name: [kind.make([], name)] for name, kind in types.items()}
    places: list[_Place] = []
    count = 0
    stream = JsonList(path, record_type)
    for piece in stream:
        records, made = _checked(path, piece, table_fields, types, record_type, count)
        for name, part in made.items():
            parts[name].append(part)
        places.append(_Place(count, piece.start, piece.stop))
        count += len(records)
        progress(piece.stop - piece.start)
    if count == 0 and not may_be_empty:
        raise InputRefused(f"{path}: expected at least one record, the list is empty.")
    columns = {name: _joined(parts.pop(name)) for name in list(parts)}
    table = Table(path, columns, np.arange(count), places, stream.digest)
    return _without_repetitions(table)


def _joined(parts: list[Column]) -> Column:
    return type(parts[0]).join(parts)


def no_table(path: Path, table_fields: tuple[Field, ...]) -> Table:
    """A table that need not be there, without records."""
    columns = {field.name: column_type(field).make([], field.name) for field in table_fields}
    return Table(path, columns, np.arange(0), [], digest=None)


def _record_type(table_fields: tuple[Field, ...], types: dict[str, ColumnType]) -> type[msgspec.Struct]:
    # Those with a default come last, as in a function's signature.
    required = [(field.name, types[field.name].json_type) for field in table_fields if field.default is None]
    lenient = [(f.name, types[f.name].json_type, f.default) for f in table_fields if f.default is not None]
    return msgspec.defstruct("Record", [*required, *lenient], gc=False)


def _checked(
    path: Path,
    piece: Piece,
    table_fields: tuple[Field, ...],
    types: dict[str, ColumnType],
    record_type: type[msgspec.Struct],
    count: int,
) -> tuple[Records, dict[str, Column]]:
    """The records of a piece and its parts of the columns; looked at one by one where something seems wrong."""
    if piece.typed is not None:
        made = {name: kind.make(piece.typed, name) for name, kind in types.items()}
        if all(kind.sound(made[name]) for name, kind in types.items()):
            return piece.typed, made
    plain = piece.plain if piece.plain is not None else read_plain(path, piece.start, piece.stop)
    records = []
    for number, row in enumerate(plain, start=count + 1):
        records.append(record_type(**_checked_values(path, number, row, table_fields)))
    return records, {name: kind.make(records, name) for name, kind in types.items()}


def _checked_values(path: Path, number: int, row: Any, table_fields: tuple[Field, ...]) -> dict[str, Any]:
    token = row.get("token") if isinstance(row, dict) else None
    if not isinstance(token, str) or token == "":
        raise InputRefused(f"{path}: record number {number} has no field token (expected text, not empty).")
    values = {}
    for field in table_fields:
        value = row.get(field.name)
        if not field.kind.accepts(value):
            if field.default is None:
                found = row.get(field.name, "no such field")
                refuse_value(path, token, field.name, field.kind.expected, found)
            value = field.default
        values[field.name] = value
    return values


def _without_repetitions(table: Table) -> Table:
    first_rows = KeyTable(table.tokens().keys).first_rows.astype(np.int64)
    repeated = np.flatnonzero(first_rows != np.arange(len(table)))
    if not repeated.size:
        return table
    differs = ~np.logical_and.reduce([c.equal(repeated, first_rows[repeated]) for c in table.columns.values()])
    if differs.any():
        token = table.record(int(repeated[differs][0]))["token"]
        raise InputRefused(f"{table.path}: record {token!r}, field token: occurs twice with different contents.")
    kept = np.flatnonzero(first_rows == np.arange(len(table)))
    return table.take(kept)
