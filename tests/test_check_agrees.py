"""What the check calls an error the loader refuses, and nothing else."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.faults import InputRefused
from datasets.nuscenes.check.findings import Findings, Severity
from datasets.nuscenes.check.raw_tables import read_raw_tables
from datasets.nuscenes.check.table_rules import check_tables
from datasets.nuscenes.index.build import build
from datasets.nuscenes.schema import fields_of
from datasets.nuscenes.values import LONGEST_RECORD, LONGEST_TOKEN
from tests.odd_tables import START_US, Tables, odd_tables, write_odd_tables

VERSION = "v1.0-mini"
_VALUES: tuple[Any, ...] = (
    "", "x", "x" * LONGEST_TOKEN, "ü" * LONGEST_TOKEN, "/x", "a/../b", "LIDAR_TOP", "samples/CAM_BACK/1.jpg",
    None, True, 0, -1, 1.5, 2**31, 2**63, START_US, START_US + 1, 1, [], [0, 0, 0], [1, 2, 3], [1e300, 0, 0],
    [1, 0, 0, 0], [2, 0, 0, 0], ["x"], [[1, 0, 0], [0, 1, 0], [0, 0, 1]], {},
)  # fmt: skip


@st.composite
def broken_tables(draw: st.DrawFn) -> Tables:
    """Odd tables after one or two changes, most of which break them."""
    tables = draw(odd_tables())
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from([name for name, rows in tables.items() if rows and name not in ("log", "map")]))
        rows = tables[name]
        row = draw(st.integers(0, len(rows) - 1))
        field = draw(st.sampled_from([field.name for field in fields_of(name)]))
        how = draw(st.sampled_from(["value", "other record's", "no field", "no record", "again", "empty"]))
        if how == "value":
            rows[row] = rows[row] | {field: draw(st.sampled_from(_VALUES))}
        elif how == "other record's":
            rows[row] = rows[row] | {field: draw(st.sampled_from(rows)).get(field)}
        elif how == "no field":
            rows[row] = {key: value for key, value in rows[row].items() if key != field}
        elif how == "no record":
            del rows[row]
        elif how == "again":
            rows.append(rows[row] | {"token": draw(st.sampled_from(["again", rows[row].get("token")]))})
        else:
            rows.clear()
    return tables


def verdicts(root: Path) -> tuple[str | None, list[str]]:
    """The loader's refusal, and the check's errors (of the tables alone)."""
    findings = Findings()
    check_tables(read_raw_tables(root, VERSION, findings, lambda step: None), findings)
    errors = [found.sentence() for found in findings.kept if found.problem.severity is Severity.ERROR]
    try:
        build(root / VERSION, lambda read: None)
    except InputRefused as refusal:
        return str(refusal), errors
    return None, errors


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken_tables())
def test_the_loader_refuses_what_the_check_calls_an_error(tables: Tables) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_odd_tables(Path(folder), tables)
        refusal, errors = verdicts(Path(folder))
    assert (refusal is not None) == bool(errors), (refusal, errors)


@pytest.mark.parametrize(
    ("token", "note", "good"),
    [
        ("x" * LONGEST_TOKEN, "", True),
        ("x" * (LONGEST_TOKEN + 1), "", False),
        ("ü" * (LONGEST_TOKEN // 2), "", True),
        ("ü" * (LONGEST_TOKEN // 2 + 1), "", False),
        ("x", "n" * (LONGEST_RECORD - 2**20), True),
        ("x", "n" * (LONGEST_RECORD + 2**22), False),
    ],
)
def test_both_know_how_long_a_token_and_a_record_may_be(
    nuscenes_root: Path, tmp_path: Path, token: str, note: str, *, good: bool
) -> None:
    (tmp_path / VERSION).mkdir()
    for path in (nuscenes_root / VERSION).glob("*.json"):
        (tmp_path / VERSION / path.name).write_bytes(path.read_bytes())
    path = tmp_path / VERSION / "attribute.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{"token": token, "name": "more", "description": note}, *rows]))
    refusal, errors = verdicts(tmp_path)
    assert (refusal is None, bool(errors)) == (good, not good), (refusal, errors)
    if not good:
        assert refusal is not None
        assert "attribute.json" in refusal
