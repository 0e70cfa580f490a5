"""The tables as they are, right or wrong: read once, record by record, into columns; each bad value is a finding."""

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.faults import InputRefused
from datasets.nuscenes.check.findings import Findings, Problem, shown
from datasets.nuscenes.json_stream import stream_records
from datasets.nuscenes.schema import ANNOTATION_TABLES, MAY_BE_ABSENT, MAY_BE_EMPTY, SCHEMA, TABLES, Field
from datasets.nuscenes.values import (
    ATTRIBUTES,
    COUNT,
    FLAG,
    INTRINSIC,
    NAME,
    PATH,
    QUATERNION,
    SIZE,
    TIME,
    TOKEN,
    VECTOR,
    Kind,
)

NONE = -1  # no reference: the field is empty, or it was bad and is a finding already
_ABSENT = object()
_PROBLEM_OF_KIND = {
    TIME: Problem.BAD_TIME,
    QUATERNION: Problem.BAD_ROTATION,
    INTRINSIC: Problem.BAD_INTRINSIC,
    SIZE: Problem.BAD_SIZE,
}
_NO_VECTOR = (math.nan, math.nan, math.nan)
# Read where they are there; that they are is asked elsewhere, or not at all (the loader does not need the counts).
_EXTRA_NUMBERS: dict[str, tuple[str, ...]] = {
    "scene": ("nbr_samples",),
    "sample_data": ("width", "height"),
    "instance": ("nbr_annotations",),
}


@dataclass(frozen=True)
class RawTable:
    """One table: `tokens` of its rows, the first of each token, and what its fields hold.

    By field: `references`, the row in the table that a field names, or NONE (only of fields with one token); `texts`;
    `numbers` (TIME, FLAG, counts; -1 where bad); `vectors` (rows, 3; NaN where bad).
    """

    file: str
    tokens: list[str]
    references: dict[str, NDArray[np.int64]]
    texts: dict[str, list[str]]
    numbers: dict[str, NDArray[np.int64]]
    vectors: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.tokens)


def read_raw_tables(
    root: Path, version: str, findings: Findings, advance: Callable[[int], None]
) -> dict[str, RawTable]:
    """All tables of `root/version`, as far as they can be read; what cannot is a finding and an empty table.

    `advance` is called with 1 after each table.
    """
    annotated = (root / version / "sample_annotation.json").exists()
    # Table -> token -> a number, given when the token is first met: in its own table or as another's reference.
    numbering: _Numbering = {name: {} for name in TABLES}
    readings = {name: _Reading(name, root, version, numbering, findings) for name in SCHEMA}
    whole: set[str] = set()
    for name, reading in readings.items():
        if (annotated or name not in ANNOTATION_TABLES) and reading.read():
            whole.add(name)
        advance(1)
    for name in MAY_BE_ABSENT:  # nothing refers to it that must not dangle: only its own records can be wrong
        if annotated and (root / version / f"{name}.json").exists():
            _Reading(name, root, version, numbering, findings).read()
    rows_of_numbers = {name: reading.rows_of_numbers() for name, reading in readings.items()}
    return {name: reading.table(rows_of_numbers, whole) for name, reading in readings.items()}


_Numbering = dict[str, dict[str, int]]


class _Reading:
    """One table while it is read. Columns are arrays of machine numbers: a table may have millions of rows."""

    def __init__(self, name: str, root: Path, version: str, numbering: _Numbering, findings: Findings) -> None:
        self._name = name
        self._path = root / version / f"{name}.json"
        self._file = f"{version}/{name}.json"
        self._findings = findings
        self._fields = SCHEMA.get(name, ())
        self._numbering = numbering
        self._own = array("q")
        self._defined: set[int] = set()
        fields = self._fields
        self._references = {field.name: array("q") for field in fields if field.table}
        # A list of tokens may be of any length: the row of each reference stands beside it.
        self._rows_of_listed = {field.name: array("q") for field in fields if field.kind is ATTRIBUTES}
        self._texts: dict[str, list[str]] = {f.name: [] for f in fields if not f.table and f.kind in (NAME, PATH)}
        self._numbers = {f.name: array("q") for f in fields if f.kind in (TIME, FLAG, INTRINSIC)}
        self._vectors = {f.name: array("d") for f in fields if f.kind in (VECTOR, SIZE)}
        self._extra = {field: array("q") for field in _EXTRA_NUMBERS.get(name, ())}

    def read(self) -> bool:
        """Read the file; whether all of it could be read."""
        repeated: set[str] = set()
        numbers = self._numbering[self._name]
        whole = True
        position = 0
        try:
            for position, record in enumerate(stream_records(self._path), start=1):
                token = record.get("token") if isinstance(record, dict) else None
                if not isinstance(token, str) or not TOKEN.accepts(token):
                    detail = f"record number {position} has no field token (expected {TOKEN.expected})"
                    self._findings.add(Problem.NO_TOKEN, self._file, "", "token", detail)
                    continue
                number = numbers.setdefault(token, len(numbers))
                if number in self._defined:
                    repeated.add(token)
                else:
                    self._defined.add(number)
                    self._own.append(number)
                    self._take(token, record)
        except InputRefused as refusal:
            problem = Problem.NOT_JSON if self._path.exists() else Problem.MISSING_TABLE
            detail = str(refusal).removeprefix(f"{self._path}: ")
            self._findings.add(problem, self._file, "", "", detail)
            whole = False
        if whole and position == 0 and self._name not in (*MAY_BE_EMPTY, *MAY_BE_ABSENT):
            self._findings.add(
                Problem.NO_RECORDS, self._file, "", "", "expected at least one record, the list is empty"
            )
        if repeated:
            self._compare_repeated(repeated)
        return whole

    def _take(self, token: str, record: dict[str, Any]) -> None:
        for field in self._fields:
            value = record.get(field.name, _ABSENT)
            good = field.kind.accepts(value)
            if not good:
                self._refuse(token, field.name, field.kind, value)
            self._keep(field, value if good else None)
        for name, column in self._extra.items():
            value = record.get(name)
            column.append(value if isinstance(value, int) and COUNT.accepts(value) and value < 2**62 else -1)

    def _keep(self, field: Field, value: Any) -> None:
        """Append to the field's column; None is a value that was refused."""
        name = field.name
        if field.table:
            numbers = self._numbering[field.table]
            if name in self._rows_of_listed:
                self._rows_of_listed[name].extend([len(self._own) - 1] * len(value or ()))
                self._references[name].extend(numbers.setdefault(item, len(numbers)) for item in value or ())
            else:
                self._references[name].append(numbers.setdefault(value, len(numbers)) if value else NONE)
        elif name in self._texts:
            self._texts[name].append(value or "")
        elif name in self._vectors:
            self._vectors[name].extend(_NO_VECTOR if value is None else value)
        elif name in self._numbers:
            self._numbers[name].append(-1 if value is None else len(value) if field.kind is INTRINSIC else value)

    def _refuse(self, token: str, name: str, kind: Kind, value: Any) -> None:
        if value is _ABSENT:
            problem, found = Problem.MISSING_FIELD, "no such field"
        else:
            problem, found = _problem_of(kind, value), shown(value)
        self._findings.add(problem, self._file, token, name, f"expected {kind.expected}, found {found}")

    def _compare_repeated(self, repeated: set[str]) -> None:
        """Read once more, for the few tokens that occur more than once: are their records the same?"""
        first: dict[str, Any] = {}
        told: set[str] = set()
        try:
            for record in stream_records(self._path):
                token = record.get("token") if isinstance(record, dict) else None
                if token not in repeated or first.setdefault(token, record) == record:
                    continue
                if token not in told:
                    told.add(token)
                    detail = "occurs twice with different contents"
                    self._findings.add(Problem.CONFLICTING_TOKEN, self._file, token, "token", detail)
        except InputRefused:
            pass  # told when the file was read first
        for token in sorted(repeated - told):
            self._findings.add(Problem.REPEATED_RECORD, self._file, token, "token", "occurs twice with equal contents")

    def rows_of_numbers(self) -> NDArray[np.int64]:
        """The row of each number that a token of this table was given, NONE where no record has the token."""
        rows = np.full(len(self._numbering[self._name]), NONE, dtype=np.int64)
        rows[np.frombuffer(self._own, dtype=np.int64)] = np.arange(len(self._own))
        return rows

    def table(self, rows_of_numbers: dict[str, NDArray[np.int64]], whole: set[str]) -> RawTable:
        """The finished table, after all have been read. Tokens that no record of a `whole` table has are findings."""
        names = list(self._numbering[self._name])
        tokens = [names[number] for number in self._own]
        references: dict[str, NDArray[np.int64]] = {}
        for field in self._fields:
            if field.table:
                numbers = np.array(self._references[field.name], dtype=np.int64)
                targets = np.append(rows_of_numbers[field.table], NONE)[numbers]
                if field.name not in self._rows_of_listed:
                    references[field.name] = targets
                if field.table in whole:
                    self._tell_dangling(field, tokens, numbers, np.flatnonzero((numbers >= 0) & (targets == NONE)))
        return RawTable(
            file=self._file,
            tokens=tokens,
            references=references,
            texts=self._texts,
            numbers={name: np.array(column) for name, column in (self._numbers | self._extra).items()},
            vectors={name: np.array(column).reshape(-1, 3) for name, column in self._vectors.items()},
        )

    def _tell_dangling(
        self, field: Field, tokens: list[str], numbers: NDArray[np.int64], places: NDArray[np.int64]
    ) -> None:
        if not places.size:
            return
        names = list(self._numbering[field.table])
        rows = self._rows_of_listed.get(field.name)
        for place in places.tolist():
            token = tokens[place if rows is None else rows[place]]
            detail = f"expected a token of {field.table}.json, found {shown(names[numbers[place]])}"
            self._findings.add(Problem.DANGLING_TOKEN, self._file, token, field.name, detail)


def _problem_of(kind: Kind, value: Any) -> Problem:
    if kind is PATH and NAME.accepts(value) and (value.startswith("/") or ".." in value.split("/")):
        return Problem.LEAVES_ROOT
    if _holds_nonfinite(value):
        return Problem.NOT_FINITE
    return _PROBLEM_OF_KIND.get(kind, Problem.BAD_VALUE)


def _holds_nonfinite(value: Any) -> bool:
    """Whether NaN or an infinity stands in it: as JSON has no such numbers, they come as text (read_json)."""
    if isinstance(value, list):
        return any(map(_holds_nonfinite, value[:100]))
    return value in ("NaN", "Infinity", "-Infinity") or (isinstance(value, float) and not math.isfinite(value))
