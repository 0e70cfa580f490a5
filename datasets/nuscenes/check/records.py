"""The records of a JSON table one by one: a table of gigabytes is never held as a whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.faults import InputRefused
from datasets.nuscenes.values import LONGEST_RECORD

_CHUNK = 1 << 20
# An error this near to the end of what was read may only mean that the record goes on in the next chunk.
_UNDECIDED = 32
_SPACE = " \t\r\n"


def stream_records(path: Path) -> Iterator[Any]:
    """The elements of the list that a JSON file is, in their order. NaN and Infinity come as text (values.read_json).

    Raises InputRefused, with line and column, at the first place that is not JSON; what stood before it has come.
    """
    decoder = json.JSONDecoder(parse_constant=str)
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _elements(_Window(file.read), decoder)
    except FileNotFoundError:
        raise InputRefused(f"{path}: the file is missing.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputRefused(f"{path}: not valid JSON at {place}; is the download complete?") from None
    except RecursionError:
        raise InputRefused(f"{path}: not readable as JSON: nested too deeply.") from None
    except (OSError, ValueError) as error:
        raise InputRefused(f"{path}: not readable as JSON: {error}.") from None


class _Window:
    """The part of a text that is being looked at."""

    def __init__(self, read: Any) -> None:
        self._read = read
        self._lines_before = 0  # whole lines that were dropped
        self._column_before = 0  # letters of the first line here that were dropped
        self.text = ""
        self.position = 0
        self.ended = False

    def more(self) -> None:
        """Drop what is done with and read on, in longer steps where one record does not end."""
        done = self.text[: self.position]
        lines = done.count("\n")
        self._lines_before += lines
        self._column_before = len(done) - done.rfind("\n") - 1 if lines else self._column_before + len(done)
        rest = len(self.text) - self.position
        chunk = self._read(max(_CHUNK, min(rest, LONGEST_RECORD - rest)))
        self.text, self.position = self.text[self.position :] + chunk, 0
        self.ended = not chunk

    def next_letter(self) -> str:
        """The first letter that is no space; empty at the end."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in _SPACE:
                self.position += 1
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self.more()

    def error(self, message: str, position: int) -> json.JSONDecodeError:
        """The error with its place in the whole text."""
        error = json.JSONDecodeError(message, self.text, position)
        if error.lineno == 1:
            error.colno += self._column_before
        error.lineno += self._lines_before
        return error


def _elements(window: _Window, decoder: json.JSONDecoder) -> Iterator[Any]:
    if (letter := window.next_letter()) != "[":
        expected = "a list of records" if letter in ("{", '"') else "Expecting value"
        raise window.error(expected if letter != "{" else "expected a list of records, found an object", 0)
    window.position += 1
    if window.next_letter() == "]":
        window.position += 1
    else:
        yield from _list_elements(window, decoder)
    if window.next_letter():
        raise window.error("Extra data", window.position)


def _list_elements(window: _Window, decoder: json.JSONDecoder) -> Iterator[Any]:
    while True:
        window.next_letter()
        yield _element(window, decoder)
        letter = window.next_letter()
        if letter not in (",", "]") or not letter:
            raise window.error("Expecting ',' delimiter", window.position)
        window.position += 1
        if letter == "]":
            return


def _element(window: _Window, decoder: json.JSONDecoder) -> Any:
    while True:
        try:
            value, end = decoder.raw_decode(window.text, window.position)
        except json.JSONDecodeError as error:
            undecided = error.msg.startswith("Unterminated string") or error.pos > len(window.text) - _UNDECIDED
            if window.ended or not undecided or len(window.text) - window.position >= LONGEST_RECORD:
                raise window.error(error.msg, error.pos) from None
        else:
            # A number at the very end may go on; a record ends with its brace.
            if window.ended or end < len(window.text) or isinstance(value, dict):
                window.position = end
                return value
        window.more()
