"""The members of JSON objects, one after another, out of a file of any size: a value at a time is in memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from datasets.compiled import compiled
from datasets.faults import InputRefused

_BLOCK_BYTES = 4 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = b" \t\n\r"
_QUOTE, _ESCAPE, _COMMA, _COLON = b'"\\,:'
_OPENING, _CLOSING = b"[{", b"]}"  # 91 and 123, 93 and 125


class JsonMembers:
    """A file that holds one JSON object, read from its beginning to its end.

    `members` gives the names of an object that begins here; before the next name, each value must be taken, as bytes
    (`value`), or as an object in its turn (`members`). A value's own contents are not checked.
    Every method raises InputRefused, naming line and column, where the file is no JSON or ends too early.
    """

    def __init__(self, path: Path, block_bytes: int = _BLOCK_BYTES) -> None:
        self._path = path
        self._block_bytes = block_bytes
        try:
            self._file = path.open("rb")
            self._text = self._file.read(max(block_bytes, len(_BYTE_ORDER_MARK)))
        except FileNotFoundError:
            raise InputRefused(f"{path}: the file is missing.") from None
        except OSError as error:
            raise InputRefused(f"{path}: not readable as JSON: {error}.") from None
        self._before = 0  # bytes of the file before `_text`
        self._at = len(_BYTE_ORDER_MARK) if self._text.startswith(_BYTE_ORDER_MARK) else 0

    def __enter__(self) -> "JsonMembers":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def is_object(self) -> bool:
        """Whether the value that begins here is an object."""
        return self._next() == _OPENING[1]

    def members(self) -> Iterator[str]:
        """The names of the object's members, which may hold a name twice."""
        if not self.is_object():
            self._refuse("expected an object")
        self._at += 1
        if self._next() == _CLOSING[1]:
            self._at += 1
            return
        while True:
            if self._next() != _QUOTE:
                self._refuse("expected a name in double quotes")
            yield self._name()
            following = self._next()
            self._at += 1
            if following == _CLOSING[1]:
                return
            if following != _COMMA:
                self._at -= 1
                self._refuse("expected ',' or '}'")

    def value(self) -> bytes:
        """The bytes of the value that begins here."""
        if self._next() in (-1, *_CLOSING, _COMMA, _COLON):
            self._refuse("expected a value")
        while (end := int(_value_end(np.frombuffer(self._text, np.uint8), self._at))) < 0:
            if not self._read():
                self._refuse("the file ends within this value")
        start, self._at = self._at, end
        return self._text[start:end]

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self._next() != -1:
            self._refuse("expected nothing more")

    def _name(self) -> str:
        start = self._before + self._at
        try:
            name: str = json.loads(self.value())
        except ValueError as error:
            self._at = start - self._before
            self._refuse(str(error))
        if self._next() != _COLON:
            self._refuse("expected ':'")
        self._at += 1
        return name

    def _next(self) -> int:
        """The next byte behind space, -1 at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return -1

    def _read(self) -> bool:
        """Forget what was taken and read on; whether there was anything more."""
        try:
            # As much as is there: a value that is larger than a block is looked through a few times only.
            more = self._file.read(max(self._block_bytes, len(self._text) - self._at))
        except OSError as error:
            raise InputRefused(f"{self._path}: not readable as JSON: {error}.") from None
        self._before += self._at
        self._text = self._text[self._at :] + more
        self._at = 0
        return bool(more)

    def _refuse(self, problem: str) -> NoReturn:
        offset, line, line_start, read = self._before + self._at, 1, 0, 0
        with self._path.open("rb") as file:
            while read < offset and (block := file.read(min(_BLOCK_BYTES, offset - read))):
                line += block.count(b"\n")
                line_start = read + block.rfind(b"\n") + 1 if b"\n" in block else line_start
                read += len(block)
        place = f"line {line}, byte {offset - line_start + 1}"
        raise InputRefused(f"{self._path}: not valid JSON at {place}: {problem}; is the download complete?")


@compiled
def _value_end(text: NDArray[np.uint8], start: int) -> int:
    """Where the value that begins at `start` ends, -1 where the text ends before."""
    at, depth = start, 0
    if text[start] not in (_QUOTE, 91, 123):  # a number, true, false or null
        while at < len(text):
            if text[at] in (_COMMA, 93, 125, 32, 9, 10, 13):
                return at
            at += 1
        return -1
    # Counted without a sign: numba then need not ask at each byte whether to count from the end.
    place, size, one = np.uint64(start), np.uint64(len(text)), np.uint64(1)
    while place < size:
        byte = text[place]
        place += one
        if byte == _QUOTE:
            closed = False
            while place < size and not closed:
                byte = text[place]
                place += one
                if byte == _QUOTE:
                    closed = True
                elif byte == _ESCAPE:
                    place += one
            if not closed:
                return -1
            if depth == 0:
                return int(place)
        elif byte >= 91:  # digits, commas, colons and space are less
            if byte in (91, 123):
                depth += 1
            elif byte in (93, 125):
                depth -= 1
                if depth == 0:
                    return int(place)
    return -1
