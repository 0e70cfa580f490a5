"""Lists read in pieces hold what Python's own reader finds in them, wherever the pieces end."""

import hashlib
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.faults import InputRefused
from datasets.nuscenes.json_stream import JsonList, read_plain, stream_records


class Record(msgspec.Struct):
    token: str
    size: list[float]


# Texts that look like the place between two records, letters of several bytes, escapes.
TEXTS = st.one_of(st.text(max_size=6), st.sampled_from(["}, {", "},{", '"}, {"', "]", "ü🚗", "\\", "[{"]))
RECORDS = st.fixed_dictionaries(
    {"token": TEXTS, "size": st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9))},
    optional={"other": st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))},
)


def read(path: Path, piece_bytes: int) -> tuple[list[dict[str, Any]], str]:
    """What the stream gives: typed records and plain ones alike; and the digest."""
    stream = JsonList(path, Record, piece_bytes)
    records: list[dict[str, Any]] = []
    for piece in stream:
        again = [{name: row[name] for name in ("token", "size")} for row in read_plain(path, piece.start, piece.stop)]
        if piece.typed is not None:
            assert [msgspec.to_builtins(record) for record in piece.typed] == again
        records += again
    return records, stream.digest


@settings(max_examples=50, deadline=None)
@given(st.lists(RECORDS, max_size=8), st.sampled_from([None, 0, 1]), st.booleans(), st.integers(9, 300))
def test_any_list_in_any_pieces(rows: list[dict[str, Any]], indent: int | None, ascii_only: bool, piece: int) -> None:
    content = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_bytes(content)
        # A list opens in the first piece.
        records, digest = read(path, piece)
    assert records == [{"token": row["token"], "size": row["size"]} for row in rows]
    assert digest == hashlib.sha256(content).hexdigest()


def test_a_cut_list_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    content = json.dumps([{"token": "ü},{", "size": [1, -2.5e3]}, {"token": "b", "size": []}], indent=0).encode()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        try:
            json.loads(content[:end])
        except UnicodeDecodeError:
            expected = "not readable as JSON"
        except json.JSONDecodeError as error:
            expected = f"line {error.lineno}, column {error.colno}: {error.msg}"
        for piece in (7, 1000):
            with pytest.raises(InputRefused) as refusal:
                read(path, piece)
            assert expected in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('[{"token": "a", "size": []},]', "line 1, column 29"),
        ('[{"token": "a", "size": []}] 7', "line 1, column 30: Extra data"),
        ('[{"token": "a", "size": []} {"token": "b", "size": []}]', "line 1, column 29: Expecting ',' delimiter"),
        ('\n\n  [{"token": "a",\n"size": [1,, 2]}]', "line 4, column 12: Expecting value"),
        ("[,]", "line 1, column 2: Expecting value"),
    ],
)
def test_what_is_no_list_is_refused_at_its_place(tmp_path: Path, content: str, place: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    for piece in (5, 1000):
        with pytest.raises(InputRefused, match=r"not valid JSON at") as refusal:
            read(tmp_path / "rows.json", piece)
        assert place in str(refusal.value)


def test_an_object_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('{"token": "a"}')
    with pytest.raises(InputRefused, match="expected a list of records, found dict"):
        list(stream_records(tmp_path / "table.json"))


@pytest.mark.parametrize("text", ["[1,]", '[{"a": 1},]', '[{"a": 1}, ]', "[1 2]", "[[]", "[1]]"])
def test_no_cut_hides_an_error(text: str, tmp_path: Path) -> None:
    """Where a piece ends just behind a comma, the bracket that follows is no empty list."""
    path = tmp_path / "table.json"
    path.write_text(text)
    for piece_bytes in range(1, len(text) + 2):
        with pytest.raises(InputRefused, match="not valid JSON"):
            list(JsonList(path, Any, piece_bytes))


def test_what_stands_before_an_error_has_come(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for broken in ('{"a": ', "{} {}", "[" * 100_000, '"\\x"', "1" * 5000):
        path.write_text("[" + '{"a": 1}, ' * 1000 + broken)
        records = stream_records(path)
        assert list(islice(records, 1000)) == [{"a": 1}] * 1000
        with pytest.raises(InputRefused, match="JSON"):
            list(records)


def test_records_are_read_one_by_one(tmp_path: Path) -> None:
    """Whatever stands in the strings, and wherever a chunk ends: the same as json.loads."""
    path = tmp_path / "table.json"
    rows: list[Any] = [
        {"token": str(n), "text": '"}],[{\\' * (n % 7), "numbers": [n * 0.1, -n, None, True]} for n in range(9000)
    ]
    rows.append({"text": "é\ud83d" + "x" * 3_000_000})
    for indent in (None, 0, 3):
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows, indent=indent).encode())
        assert list(stream_records(path)) == rows
    for text in ("[]", " [ ] ", "[1]", "[12,\n3.5]"):
        path.write_text(text)
        assert list(stream_records(path)) == json.loads(text)


@pytest.mark.parametrize("text", ["", "[", "[1", "[1,", "[1,]", "[1 2]", "[]]", "[tru", '["a', "[1]x", "[\n1,\n  ?]"])
def test_what_is_not_json_is_refused_with_its_place(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputRefused, match="line") as refusal:
        list(stream_records(path))
    if "?" in text:
        assert "line 3, column 3" in str(refusal.value)


def test_the_place_of_an_error_is_right_in_a_long_table(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    lines = [json.dumps({"token": "x" * 80}) + "," for _ in range(30_000)]
    lines[25_000] = '{"token": "y" "x"},'
    path.write_text("[\n" + "\n".join(lines) + "\n{}]")
    with pytest.raises(InputRefused, match="line 25002, column 15"):
        list(stream_records(path))
