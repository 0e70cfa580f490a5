"""The columns of a table that is being read: values, texts, tokens, lists of tokens, file names."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from datasets.nuscenes.index.keys import Keys, texts_of

# Stands in a file name for the record's timestamp; no path can hold it.
STAMP = "\0"
Rows = NDArray[np.int64]


@runtime_checkable
class Column(Protocol):
    """One value a record, N records."""

    @classmethod
    def join(cls, parts: Sequence[Any]) -> "Column":
        """Parts of a column, one behind another."""
        ...

    def take(self, rows: Rows) -> "Column":
        """The values of some records."""
        ...

    def equal(self, rows: Rows, others: Rows) -> NDArray[np.bool_]:
        """Which of `rows` (K) hold what the record beside them in `others` (K) holds."""
        ...


@dataclass(frozen=True)
class Values:
    """Numbers or flags: (N, ...)."""

    array: NDArray[Any]

    @classmethod
    def join(cls, parts: Sequence["Values"]) -> "Values":
        """See Column."""
        return cls(np.concatenate([part.array for part in parts]))

    def take(self, rows: Rows) -> "Values":
        """See Column."""
        return Values(self.array[rows])

    def equal(self, rows: Rows, others: Rows) -> NDArray[np.bool_]:
        """See Column."""
        same = self.array[rows] == self.array[others]
        return np.asarray(same.reshape(len(rows), -1).all(axis=1))


@dataclass(frozen=True)
class Texts:
    """Texts, for tables that are small."""

    texts: list[str]

    @classmethod
    def join(cls, parts: Sequence["Texts"]) -> "Texts":
        """See Column."""
        return cls(list(chain.from_iterable(part.texts for part in parts)))

    def take(self, rows: Rows) -> "Texts":
        """See Column."""
        return Texts([self.texts[row] for row in rows])

    def equal(self, rows: Rows, others: Rows) -> NDArray[np.bool_]:
        """See Column."""
        return np.array([self.texts[row] == self.texts[other] for row, other in zip(rows, others, strict=True)])


@dataclass(frozen=True)
class Tokens:
    """Keys (N, 2) of tokens; of a record's own also the texts, where some are not as nuScenes' are, otherwise None."""

    keys: Keys
    texts: list[str] | None = None

    @classmethod
    def join(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """See Column."""
        texts = None
        if any(part.texts is not None for part in parts):
            texts = [text for part in parts for text in (texts_of(part.keys) if part.texts is None else part.texts)]
        return cls(np.concatenate([part.keys for part in parts]), texts)

    def take(self, rows: Rows) -> "Tokens":
        """See Column."""
        return Tokens(self.keys[rows], None if self.texts is None else [self.texts[row] for row in rows])

    def equal(self, rows: Rows, others: Rows) -> NDArray[np.bool_]:
        """See Column."""
        return np.asarray((self.keys[rows] == self.keys[others]).all(axis=1))


@dataclass(frozen=True)
class TokenLists:
    """Lists of tokens: how many each record has (N), and all their keys (M, 2)."""

    counts: NDArray[np.int32]
    keys: Keys

    @classmethod
    def join(cls, parts: Sequence["TokenLists"]) -> "TokenLists":
        """See Column."""
        return cls(np.concatenate([part.counts for part in parts]), np.concatenate([part.keys for part in parts]))

    def take(self, rows: Rows) -> "TokenLists":
        """See Column."""
        lists = self._lists()
        keys = [lists[row] for row in rows] or [self.keys[:0]]
        return TokenLists(self.counts[rows], np.concatenate(keys))

    def equal(self, rows: Rows, others: Rows) -> NDArray[np.bool_]:
        """See Column."""
        lists = self._lists()
        return np.array([np.array_equal(lists[row], lists[other]) for row, other in zip(rows, others, strict=True)])

    def _lists(self) -> list[Keys]:
        return np.split(self.keys, np.cumsum(self.counts))


@dataclass(frozen=True)
class FileNames:
    """File names: the template of each record (N), and the templates: a name in which STAMP is the timestamp."""

    template: NDArray[np.int32]
    templates: list[str]

    @classmethod
    def join(cls, parts: Sequence["FileNames"]) -> "FileNames":
        """See Column. The templates are put in order: they do not depend on the records' order."""
        templates = sorted(set(chain.from_iterable(part.templates for part in parts)))
        ids = {text: number for number, text in enumerate(templates)}
        renumbered = [np.array([ids[text] for text in part.templates], np.int32)[part.template] for part in parts]
        return cls(np.concatenate(renumbered), templates)

    def take(self, rows: Rows) -> "FileNames":
        """See Column."""
        return FileNames(self.template[rows], self.templates)

    def equal(self, rows: Rows, others: Rows) -> NDArray[np.bool_]:
        """See Column."""
        return np.asarray(self.template[rows] == self.template[others])
