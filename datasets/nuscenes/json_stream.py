"""The records of a JSON list, some megabytes at a time: no table is ever in memory as a whole.

Where a piece may end is guessed (between `}` and `{`) and msgspec reads the piece into typed structs. What msgspec
does not take, be it a wrong guess, a wrong type or a broken file, is read again record by record with Python's own
reader, which is slow and can say what is wrong where.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import msgspec

from datasets.faults import InputRefused
from datasets.nuscenes.values import LONGEST_RECORD, read_json

_PIECE_BYTES = 2 * 2**20
_SPACE = b" \t\n\r"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Piece:
    """Consecutive records of a list: of the record type, or as plain values where msgspec did not take them.

    `start`, `stop`: which bytes of the file they are.
    """

    typed: list[Any] | None
    plain: list[Any] | None
    start: int
    stop: int


class JsonList:
    """A file that holds a JSON list, read `piece_bytes` at a time. Iterate it once; afterwards `digest` is the SHA-256
    of the whole file. `record_type`: a msgspec.Struct, or Any for plain values.

    Raises InputRefused, naming line and column, for what is no list or no JSON; what stood before it has come.
    """

    def __init__(self, path: Path, record_type: Any, piece_bytes: int = _PIECE_BYTES) -> None:
        self._path = path
        self._piece_bytes = piece_bytes
        self._decoder = msgspec.json.Decoder(list[record_type])
        self.digest = ""

    def __iter__(self) -> Iterator[Piece]:
        try:
            with self._path.open("rb") as file:
                yield from self._pieces(_HashedFile(file, self._piece_bytes))
        except FileNotFoundError:
            raise InputRefused(f"{self._path}: the file is missing.") from None
        except OSError as error:
            raise InputRefused(f"{self._path}: not readable as JSON: {error}.") from None

    def _pieces(self, file: "_HashedFile") -> Iterator[Piece]:
        text = file.read()
        body = text.removeprefix(_BYTE_ORDER_MARK).lstrip(_SPACE)
        if not body.startswith(b"["):
            found = read_json(self._path)  # names what is wrong, if it is no JSON at all
            raise InputRefused(f"{self._path}: expected a list of records, found {type(found).__name__}.")
        start, text = len(text) - len(body) + 1, body[1:]
        first = True
        while True:
            piece, rest_at = _cut(text, file.at_end)
            ended = file.at_end
            # Only a whole list may be empty: where nothing is left, a comma stood before.
            typed = self._typed(piece) if piece is not None and (first or piece.strip(_SPACE)) else None
            if typed is None:
                plain, rest_at, ended = self._plain(text, start, at_end=file.at_end, first=first)
                if plain:
                    yield Piece(None, plain, start, start + rest_at)
                elif not file.at_end and len(text) >= LONGEST_RECORD:
                    # Not even one record: told as if the file ended here.
                    self._plain(text, start, at_end=True, first=first)
            elif typed:
                yield Piece(typed, None, start, start + len(piece or b""))
            else:
                plain = []
            first = first and not (typed or plain)
            if ended:
                break
            start, text = start + rest_at, text[rest_at:] + file.read()
        self.digest = file.digest()

    def _typed(self, piece: bytes) -> list[Any] | None:
        try:
            records: list[Any] = self._decoder.decode(b"[" + piece + b"]")
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError):
            return None
        return records

    def _plain(self, content: bytes, start: int, *, at_end: bool, first: bool) -> tuple[list[Any], int, bool]:
        """The whole records at the beginning of `content`, how many bytes they take, commas included, and whether the
        list ends with them.
        """
        text = self._decoded(content, at_end)
        reader = json.JSONDecoder(parse_constant=str)
        records: list[Any] = []
        position = done = 0
        try:
            while True:
                position = _behind_space(text, done)
                if text[position : position + 1] == "]" and first and not records and at_end:
                    return records, self._end(content, text, position, start), True
                value, position = reader.raw_decode(text, position)
                position = _behind_space(text, position)
                delimiter = text[position : position + 1]
                if delimiter not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
                if delimiter == "]":
                    if not at_end:  # the last record waits for what may follow the list
                        return records, len(text[:done].encode()), False
                    return [*records, value], self._end(content, text, position, start), True
                records.append(value)
                done = position + 1
        except (ValueError, RecursionError) as error:
            broken = not isinstance(error, json.JSONDecodeError)
            if records or not (at_end or broken):  # perhaps the record only goes on in the next piece
                return records, len(text[:done].encode()), False
            if isinstance(error, json.JSONDecodeError):
                self._refuse_json(start + len(text[: error.pos].encode()), error.msg)
            problem = "nested too deeply" if isinstance(error, RecursionError) else error
            raise InputRefused(f"{self._path}: not readable as JSON: {problem}.") from None

    def _decoded(self, content: bytes, at_end: bool) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            if not at_end and error.start >= len(content) - 3:  # a letter of several bytes goes on in the next piece
                return content[: error.start].decode()
            raise InputRefused(f"{self._path}: not readable as JSON: {error}.") from None

    def _end(self, content: bytes, text: str, position: int, start: int) -> int:
        """Behind the list there is nothing."""
        behind = _behind_space(text, position + 1)
        if behind < len(text):
            self._refuse_json(start + len(text[:behind].encode()), "Extra data")
        return len(content)

    def _refuse_json(self, offset: int, problem: str) -> NoReturn:
        """Raise InputRefused for a place in the file."""
        line, line_start, read = 1, 0, 0
        with self._path.open("rb") as file:
            while read < offset and (content := file.read(min(_PIECE_BYTES, offset - read))):
                line += content.count(b"\n")
                line_start = read + content.rfind(b"\n") + 1 if b"\n" in content else line_start
                read += len(content)
            file.seek(line_start)
            before = file.read(offset - line_start).removeprefix(_BYTE_ORDER_MARK)
        place = f"line {line}, column {len(before.decode(errors='replace')) + 1}"
        raise InputRefused(f"{self._path}: not valid JSON at {place}: {problem}; is the download complete?")


def stream_records(path: Path) -> Iterator[Any]:
    """The elements of the list that a JSON file is, as plain values, in their order. NaN and Infinity come as text.

    Raises InputRefused as JsonList does.
    """
    for piece in JsonList(path, Any):
        yield from piece.typed if piece.typed is not None else piece.plain or ()


def read_plain(path: Path, start: int, stop: int) -> list[Any]:
    """The records of a piece once more, as plain values, to tell what is wrong with one of them."""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(stop - start).rstrip(_SPACE + b",]")
    records: list[Any] = json.loads(b"[" + content + b"]", parse_constant=str)
    return records


def _cut(text: bytes, at_end: bool) -> tuple[bytes | None, int]:
    """A piece that should be whole records, and where the rest begins; None where no place to cut is in sight."""
    if at_end:
        body = text.rstrip(_SPACE)
        return (body[:-1], len(text)) if body.endswith(b"]") else (None, 0)
    opening = len(text)
    while (opening := text.rfind(b"{", 0, opening)) > 0:
        before = text[max(opening - 64, 0) : opening].rstrip(_SPACE)
        if before.endswith(b","):
            behind = before[:-1].rstrip(_SPACE)
            if behind.endswith(b"}"):
                return text[: opening - min(opening, 64) + len(behind)], opening
    return None, 0


def _behind_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\n\r":
        position += 1
    return position


class _HashedFile:
    """A file read piece by piece, and hashed on the way: the digest is that of what was read."""

    def __init__(self, file: BinaryIO, piece_bytes: int) -> None:
        self._file, self._piece_bytes = file, piece_bytes
        self._hash = hashlib.sha256()
        self.at_end = False

    def read(self) -> bytes:
        """The next piece; empty at the end."""
        content = self._file.read(self._piece_bytes)
        self.at_end = len(content) < self._piece_bytes
        self._hash.update(content)
        return content

    def digest(self) -> str:
        """The SHA-256 of what was read."""
        return self._hash.hexdigest()
