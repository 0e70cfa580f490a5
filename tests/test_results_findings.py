"""What is wrong with a results file is named, all of it; whatever the file is, nothing crashes."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.boxes import DetectionResults, EvaluatedSamples
from datasets.nuscenes.detection_metric.detections import read_detections
from datasets.nuscenes.detection_metric.json_members import JsonMembers
from datasets.nuscenes.detection_metric.results_boxes import read_boxes

TOKENS = ("a", "b")


def box(token: str = "a", **fields: Any) -> dict[str, Any]:
    return {
        "sample_token": token,
        "translation": [1.5, 2.0, 3.0],
        "size": [1.0, 2.0, 3.0],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.5, -0.5],
        "detection_name": "car",
        "detection_score": 0.5,
        "attribute_name": "vehicle.moving",
    } | fields


def content(*boxes: Any) -> dict[str, Any]:
    return {"meta": {"use_lidar": True}, "results": {"a": list(boxes), "b": []}}


def read(path: Path, text: str | bytes, *, others_allowed: bool = False) -> DetectionResults:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    zeros = np.zeros(2, np.int32)
    samples = EvaluatedSamples(TOKENS, ("s",), zeros, zeros.astype(np.int64), np.zeros((2, 3)))
    return read_detections(path, samples, "s", others_allowed=others_allowed)


def refusal(path: Path, text: str) -> list[str]:
    with pytest.raises(InputRefused) as raised:
        read(path, text)
    first, *lines = str(raised.value).splitlines()
    assert first.startswith(f"{path}: ")
    return [first.removeprefix(f"{path}: "), *(line.strip() for line in lines)]


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"translation": [1.0, math.nan, 0.0]}, "field translation: expected 3 finite numbers, found [1.0, nan, 0.0]"),
        ({"translation": [1, 2]}, "field translation: expected 3 finite numbers, found [1, 2]"),
        ({"translation": [1, 2, 10**400]}, "field translation: expected 3 finite numbers, found [1, 2, 1000"),
        ({"size": [1, 0, 1]}, "field size: expected 3 positive numbers (width, length, height), found [1, 0, 1]"),
        ({"size": [1, math.inf, 1]}, "field size: expected 3 positive numbers"),
        ({"size": [1, True, 1]}, "field size: expected 3 positive numbers"),
        ({"rotation": [0, 0, 0, 0]}, "field rotation: expected a quaternion [w, x, y, z] that is not 0"),
        ({"rotation": [1, 0, 0]}, "field rotation: "),
        ({"velocity": [0, 0, 0]}, "field velocity: expected 2 numbers, NaN where unknown, found [0, 0, 0]"),
        ({"velocity": [math.inf, 0]}, "field velocity: "),
        ({"velocity": None}, "field velocity: "),
        ({"detection_name": "tram"}, "field detection_name: expected one of the ten detection classes, found 'tram'"),
        ({"detection_name": ["car"]}, "field detection_name: "),
        ({"detection_score": math.nan}, "field detection_score: expected a finite number, found nan"),
        ({"detection_score": "high"}, "field detection_score: expected a finite number, found 'high'"),
        ({"attribute_name": "flying"}, "field attribute_name: expected a nuScenes attribute or '', found 'flying'"),
        ({"attribute_name": None}, "field attribute_name: "),
        ({"sample_token": "b"}, "field sample_token: expected the token that the box is filed under, found 'b'"),
        ({"num_pts": "7"}, "field num_pts: expected a number of points, found '7'"),
    ],
)
def test_values_that_are_not_taken(tmp_path: Path, fields: dict[str, Any], finding: str) -> None:
    first, line = refusal(tmp_path / "r.json", json.dumps(content(box(), box(**fields))))
    assert first == "one problem with the results for the split 's', which has 2 samples:"
    assert line.startswith(f"sample 'a', box 1, {finding}")


def test_every_finding_is_named_and_the_list_is_cut(tmp_path: Path) -> None:
    bad = box(size=[-1, 1, 1], detection_score=math.inf)
    del bad["velocity"]
    text = json.dumps({"meta": {}, "results": {"a": [bad, 7], "c": [box("c")]}})
    assert refusal(tmp_path / "r.json", text) == [
        "6 problems with the results for the split 's', which has 2 samples:",
        "sample 'a', box 0, field size: expected 3 positive numbers (width, length, height), found [-1, 1, 1]",
        "sample 'a', box 0, field velocity: expected 2 numbers, NaN where unknown, which is missing",
        "sample 'a', box 0, field detection_score: expected a finite number, found inf",
        "sample 'a', box 1: expected an object, found int",
        "sample 'c': not in the split",
        "sample 'b': missing",
    ]
    lines = refusal(tmp_path / "r.json", json.dumps(content(*[box(detection_name="tram")] * 501)))
    assert lines[0].startswith("502 problems with")
    assert lines[1] == "sample 'a': expected at most 500 boxes a sample, found 501"
    assert (len(lines), lines[-1]) == (22, "and 482 more")


def test_a_sample_that_the_file_has_twice(tmp_path: Path) -> None:
    text = f'{{"meta": {{}}, "results": {{"a": [{json.dumps(box())}], "b": [], "\\u0061": []}}}}'
    assert refusal(tmp_path / "r.json", text)[1:] == ["sample 'a': the file has it more than once"]


def test_what_the_devkit_takes_is_taken(tmp_path: Path) -> None:
    odd = box(velocity=[math.nan, 1], rotation=[2, 0, 0, -1], translation=[1, 2, 3], detection_score=-3, num_pts=4.0)
    results = read(tmp_path / "r.json", json.dumps(content(odd, box(attribute_name="pedestrian.moving", extra=[{}]))))
    assert results.boxes.translation.tolist() == [[1, 2, 3], [1.5, 2, 3]]
    assert results.boxes.score.tolist() == [-3, 0.5]
    assert results.boxes.num_pts.tolist() == [4, -1]
    assert np.isnan(results.boxes.velocity).tolist() == [[True, False], [False, False]]
    assert results.boxes.attribute.tolist() == [0, 5]
    assert results.meta == {"use_lidar": True}


def test_samples_beside_the_split_are_left_out_unseen_where_that_is_allowed(tmp_path: Path) -> None:
    text = json.dumps({"results": {"c": 7, "a": [box()], "b": []}, "meta": {}})
    results = read(tmp_path / "r.json", text, others_allowed=True)
    assert (results.left_out, len(results.boxes)) == (1, 1)
    assert refusal(tmp_path / "r.json", text)[1:] == ["sample 'c': not in the split"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected an object with the fields meta and results"),
        ("[]", "expected an object with the fields meta and results"),
        ('{"results": {}}', "expected an object with the fields meta and results"),
        ('{"meta": {}}', "expected an object with the fields meta and results"),
        ('{"meta": {}, "results": []}', "expected an object with the fields meta and results"),
        ('{"meta": 1, "results": {}}', "expected an object with the fields meta and results"),
        ('{"meta": {}, "meta": {}, "results": {}}', "has the field meta more than once"),
        ('{"meta": {"x": }, "results": {}}', "field meta: not valid JSON"),
        ('{"meta": {}, "results": {"a": [', "not valid JSON at line 1, byte 31: the file ends within this value"),
        ('{"meta": {},\n "results": {"a" []}}', "not valid JSON at line 2, byte 18: expected ':'"),
        ('{"meta": {}, "results": {"a": [] "b": []}}', "expected ',' or '}'"),
        ('{"meta": {}, "results": {"a": ,}}', "expected a value"),
        ('{"meta": {}, "results": {"a": [],}}', "expected a name in double quotes"),
        ('{"meta": {}, "results": {a: []}}', "expected a name in double quotes"),
        ('{"meta": {}, "results": {"\\x": []}}', "not valid JSON at line 1, byte 26: Invalid"),
        ('{"meta": {}, "results": {}} {}', "expected nothing more"),
        ('{"meta": {}, "results": {"a": 7, "b": null}}', "sample 'a': expected a list of boxes, found int"),
        ('{"meta": {}, "results": {"a": [{]}, "b": []}}', "sample 'a': not valid JSON"),
        ('{"meta": {}, "results": {"a": [{"x": 01}], "b": []}}', "sample 'a': not valid JSON"),
        (f'{{"meta": {{}}, "results": {{"a": {"[" * 9999}{"]" * 9999}, "b": []}}}}', "sample 'a': nested too deeply"),
    ],
)
def test_what_is_no_results_file(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in " ".join(refusal(tmp_path / "r.json", text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(InputRefused):
            JsonMembers(path)


def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    text = json.dumps(content(box(), box(detection_name="bus"))).encode()
    chance = random.Random(0)
    for _ in range(150):
        damaged = bytearray(text)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(damaged))
            change: Callable[[bytearray], Any] = chance.choice(
                [
                    lambda data, at=at: data.__delitem__(slice(at, at + chance.randint(1, 9))),  # type: ignore[misc]
                    lambda data, at=at: data.__setitem__(at, chance.randrange(256)),  # type: ignore[misc]
                    lambda data, at=at: data.insert(at, chance.choice(b'{}[]",:\\1e')),  # type: ignore[misc]
                ]
            )
            change(damaged)
        path = tmp_path / "r.json"
        try:
            expected = json.loads(damaged)
        except (ValueError, RecursionError):
            expected = None
        try:
            read(path, bytes(damaged))
        except InputRefused:
            continue
        assert expected is not None, bytes(damaged)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_numbers_are_read_to_the_last_bit(numbers: list[float]) -> None:
    columns, findings = read_boxes("a", json.dumps([box(translation=numbers)]).encode())
    assert not findings
    assert columns["translation"].tolist() == [numbers]


def test_values_longer_than_a_block_and_at_its_edges(tmp_path: Path) -> None:
    members = {f'key {number}\\"': ['x"]}' * number, {"a": [number, {}]}, number] for number in range(30)}
    (tmp_path / "f.json").write_text("\ufeff \n" + json.dumps(members, indent=1), "utf-8")
    for block in (1, 7, 64, 4096):
        with JsonMembers(tmp_path / "f.json", block) as file:
            found = {name: json.loads(file.value()) for name in file.members()}
            file.end()
        assert found == members
