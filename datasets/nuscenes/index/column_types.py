"""How the values of a field become a column, and how a whole column is checked at once.

What a value may be is written once, in datasets.nuscenes.values. The checks here are quick and may be wrong in one
direction only: a column that they find sound holds nothing that the exact check refuses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np

from datasets.nuscenes.index.columns import STAMP, Column, FileNames, Texts, TokenLists, Tokens, Values
from datasets.nuscenes.index.keys import EMPTY_KEY, keys_of
from datasets.nuscenes.schema import Field
from datasets.nuscenes.values import (
    ATTRIBUTES,
    COUNT,
    EARLIEST_US,
    EXTENT,
    FLAG,
    INTRINSIC,
    LARGEST_SUM,
    LATEST_US,
    LONGEST_TOKEN,
    MOST_ATTRIBUTES,
    NAME,
    PATH,
    QUATERNION,
    QUATERNION_TOLERANCE,
    SIZE,
    TEXT,
    TIME,
    VECTOR,
    Kind,
)

Records = Sequence[Any]


@dataclass(frozen=True)
class ColumnType:
    """What msgspec reads a field as, how the values of some records become a column, and when that is sound."""

    json_type: Any
    make: Callable[[Records, str], Column]
    sound: Callable[[Any], bool]


def column_type(field: Field) -> ColumnType:
    """How the values of this field are kept."""
    if field.name == "token":
        return _OWN_TOKENS
    return _REFERENCES[field.kind] if field.table else _TYPES[field.kind]


def _values(records: Records, name: str) -> list[Any]:
    return list(map(attrgetter(name), records))


def _texts(records: Records, name: str) -> Texts:
    return Texts(_values(records, name))


def _own_tokens(records: Records, name: str) -> Tokens:
    texts = _values(records, name)
    keys, hexadecimal = keys_of(texts)
    return Tokens(keys, None if hexadecimal else texts)


def _references(records: Records, name: str) -> Tokens:
    return Tokens(keys_of(_values(records, name))[0])


def _reference_lists(records: Records, name: str) -> TokenLists:
    lists = _values(records, name)
    keys, _ = keys_of(list(chain.from_iterable(lists)))
    return TokenLists(np.fromiter(map(len, lists), np.int32, count=len(lists)), keys)


def _floats(width: int) -> Callable[[Records, str], Values]:
    def make(records: Records, name: str) -> Values:
        numbers = chain.from_iterable(map(attrgetter(name), records))
        return Values(np.fromiter(numbers, np.float64, count=width * len(records)).reshape(-1, width))

    return make


def _integers(dtype: type[np.signedinteger[Any]]) -> Callable[[Records, str], Values]:
    def make(records: Records, name: str) -> Values:
        try:
            return Values(np.fromiter(map(attrgetter(name), records), dtype, count=len(records)))
        except OverflowError:  # no sound value is so large, nor negative
            return Values(np.full(len(records), -1, dtype=dtype))

    return make


def _flags(records: Records, name: str) -> Values:
    return Values(np.fromiter(map(attrgetter(name), records), np.bool_, count=len(records)))


def _intrinsics(records: Records, name: str) -> Values:
    """Camera matrices (N, 3, 3); zeros where there is none, NaN where it is not one."""
    matrices = np.zeros((len(records), 3, 3))
    for matrix, rows in zip(matrices, _values(records, name), strict=True):
        if rows:
            matrix[:] = rows if INTRINSIC.accepts(rows) else np.nan
    return Values(matrices)


def _file_names(records: Records, name: str) -> FileNames:
    names = _values(records, name)
    if STAMP in "".join(names):
        return FileNames(np.zeros(len(names), np.int32), [""])  # which is not sound
    stamps = map(str, _values(records, "timestamp"))
    templates = [text.replace(stamp, STAMP, 1) for text, stamp in zip(names, stamps, strict=True)]
    ids = {text: number for number, text in enumerate(dict.fromkeys(templates))}
    template = np.fromiter(map(ids.__getitem__, templates), np.int32, count=len(names))
    return FileNames(template, list(ids))


def _all_bounded(vectors: Values) -> bool:
    return bool((np.abs(vectors.array).sum(axis=1) < LARGEST_SUM).all())  # false for NaN


def _all_positive(sizes: Values) -> bool:
    return _all_bounded(sizes) and bool((sizes.array > 0).all())


def _all_unit(quaternions: Values) -> bool:
    # A little stricter than the exact check, which rounds differently.
    lengths = np.sqrt(np.square(quaternions.array).sum(axis=1))
    return bool((np.abs(lengths - 1.0) <= 0.999 * QUATERNION_TOLERANCE).all())


def _all_times(times: Values) -> bool:
    return bool(((times.array >= EARLIEST_US) & (times.array <= LATEST_US)).all())


def _none_negative(counts: Values) -> bool:
    return bool((counts.array >= 0).all())


def _all_paths(names: FileNames) -> bool:
    return all(PATH.accepts(template.replace(STAMP, "0")) for template in names.templates)


def _none_empty(tokens: Tokens | TokenLists) -> bool:
    return not bool((tokens.keys == EMPTY_KEY).all(axis=1).any())


def _all_tokens(tokens: Tokens) -> bool:
    # No letter takes more than 4 bytes.
    short = tokens.texts is None or max(map(len, tokens.texts), default=0) <= LONGEST_TOKEN // 4
    return short and _none_empty(tokens)


def _all_short(lists: TokenLists) -> bool:
    return _none_empty(lists) and bool((lists.counts <= MOST_ATTRIBUTES).all())


_VECTOR_TYPE = tuple[float, float, float]
_TYPES: dict[Kind, ColumnType] = {
    NAME: ColumnType(str, _texts, lambda column: all(column.texts)),
    TIME: ColumnType(int, _integers(np.int64), _all_times),
    COUNT: ColumnType(int, _integers(np.int64), _none_negative),
    EXTENT: ColumnType(int, _integers(np.int32), _none_negative),
    FLAG: ColumnType(bool, _flags, lambda flags: True),
    VECTOR: ColumnType(_VECTOR_TYPE, _floats(3), _all_bounded),
    SIZE: ColumnType(_VECTOR_TYPE, _floats(3), _all_positive),
    QUATERNION: ColumnType(tuple[float, float, float, float], _floats(4), _all_unit),
    INTRINSIC: ColumnType(list[list[float]], _intrinsics, lambda matrices: not np.isnan(matrices.array).any()),
    PATH: ColumnType(str, _file_names, _all_paths),
}
_OWN_TOKENS = ColumnType(str, _own_tokens, _all_tokens)
_REFERENCES: dict[Kind, ColumnType] = {
    NAME: ColumnType(str, _references, _none_empty),
    TEXT: ColumnType(str, _references, lambda links: True),
    ATTRIBUTES: ColumnType(list[str], _reference_lists, _all_short),
}
