"""Tracking results: written and read back, refused where malformed; and the commands that make and score them."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES, TRACKING_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import write_results
from datasets.nuscenes.tracking_metric.evaluation import evaluate_tracking
from datasets.nuscenes.tracking_metric.results_tracks import read_tracks
from datasets.nuscenes.tracking_results import (
    holds_tracks,
    modalities_of_results,
    read_tracking_results,
    write_tracking_results,
)
from datasets.tracks import Tracks
from perception.tracking.tracker import Tracker
from tests.test_nuscenes_results import some_boxes
from tests.tracking_world import Mistakes, results_with, write_tables
from tools.__main__ import main
from tools.track import track_samples


def some_tracks(count: int = 7) -> Tracks:
    labels = torch.tensor([DETECTION_CLASSES.index(name) for name in TRACKING_CLASSES])
    boxes = replace(some_boxes(count), labels=labels[torch.arange(count) % 7], attributes=torch.full((count,), -1))
    return Tracks(boxes, tuple(f"track {number}" for number in range(count)))


def test_round_trip(tmp_path: Path) -> None:
    tracks = some_tracks()
    path = tmp_path / "new" / "t.json"
    write_tracking_results(path, {"a": tracks, "b": Tracks(Boxes3D.empty(), ())}, ["lidar", "pose"])
    back = read_tracking_results(path).tracks
    assert list(back) == ["a", "b"]
    assert len(back["b"]) == 0
    assert back["a"].ids == tracks.ids
    for name in ("centers", "sizes_wlh", "velocities", "labels", "scores", "attributes"):
        assert torch.equal(getattr(back["a"].boxes, name), getattr(tracks.boxes, name)), name
    assert torch.allclose(back["a"].boxes.yaws, tracks.boxes.yaws, atol=1e-12)
    assert holds_tracks(path)
    assert modalities_of_results(path) == ("lidar",)
    assert [entry.name for entry in path.parent.iterdir()] == ["t.json"]


def test_the_kind_of_results_is_known_before_their_end(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_tracking_results(path, {"a": some_tracks(), "b": some_tracks()}, ["lidar"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert holds_tracks(path)
    assert modalities_of_results(path) == ("lidar",)
    with pytest.raises(InputRefused, match="the file ends within this value"):
        read_tracking_results(path)
    content = json.loads(whole)
    path.write_text(json.dumps({"results": content["results"], "meta": content["meta"]}))  # in the other order
    assert modalities_of_results(path) == ("lidar",)
    assert read_tracking_results(path).meta == content["meta"]


def test_the_devkit_reads_what_we_write(tmp_path: Path) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.tracking.data_classes import TrackingBox

    config_factory("tracking_nips_2019")  # which tells the devkit the class names
    write_tracking_results(tmp_path / "t.json", {"a": some_tracks()}, [])
    loaded, _ = load_prediction(str(tmp_path / "t.json"), 500, TrackingBox)
    assert [box.tracking_name for box in loaded["a"]] == list(TRACKING_CLASSES)
    assert [box.tracking_id for box in loaded["a"]] == list(some_tracks().ids)


def test_the_best_500_boxes_are_kept_and_unknown_velocities_are_zero(tmp_path: Path) -> None:
    tracks = some_tracks(700)
    unknown = torch.full_like(tracks.boxes.velocities, math.nan)
    write_tracking_results(
        tmp_path / "t.json", {"a": replace(tracks, boxes=replace(tracks.boxes, velocities=unknown))}, []
    )
    back = read_tracking_results(tmp_path / "t.json").tracks["a"]
    assert back.ids == tracks.ids[:500]
    assert not back.boxes.velocities.any()


def broken(**changes: Any) -> Tracks:
    tracks = some_tracks()
    return replace(tracks, boxes=replace(tracks.boxes, **changes))


@pytest.mark.parametrize(
    ("tracks", "words"),
    [
        (broken(centers=torch.full((7, 3), math.nan).double()), "finite numbers"),
        (broken(sizes_wlh=torch.zeros(7, 3).double()), "positive sizes"),
        (broken(labels=torch.full((7,), DETECTION_CLASSES.index("barrier"))), "the classes that are tracked"),
        (replace(some_tracks(), ids=("same",) * 7), "one box only"),
    ],
)
def test_what_cannot_be_results_is_never_written(tmp_path: Path, tracks: Tracks, words: str) -> None:
    with pytest.raises(ValueError, match=f"sample a: .*{words}"):
        write_tracking_results(tmp_path / "t.json", {"a": tracks}, [])
    assert list(tmp_path.iterdir()) == []


def change(field: str, value: Any) -> Callable[[Any], None]:
    def apply(content: Any) -> None:
        content["results"]["a"][3][field] = value

    return apply


def double(content: Any) -> None:
    content["results"]["a"].append(content["results"]["a"][0])


def too_many(content: Any) -> None:
    content["results"]["a"] *= 100


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (change("tracking_id", ""), "sample 'a', box 3, field tracking_id: expected text that is not empty"),
        (change("tracking_id", None), "field tracking_id"),
        (change("tracking_name", "barrier"), "field tracking_name: expected one of the seven"),
        (change("tracking_name", ["car"]), "field tracking_name"),
        (change("tracking_score", math.nan), "field tracking_score: expected a finite number"),
        (change("translation", [0.0, 1.0]), "field translation"),
        (change("size", [1.0, 0.0, 1.0]), "field size"),
        (change("rotation", [0, 0, 0, 0]), "field rotation"),
        (change("sample_token", "b"), "the token that the box is filed under"),
        (double, "each track of a class at most once in a sample, found 'track 0'"),
        (change("num_pts", "none"), "field num_pts: expected a number of points"),
        (too_many, "at most 500 boxes a sample, found 700"),
        (lambda content: content.pop("meta"), "the fields meta and results"),
        (lambda content: content["results"].update(a={}), "expected a list of boxes"),
        (lambda content: content["results"]["a"].append(3), "sample 'a', box 7: expected an object, found int"),
    ],
)
def test_malformed_results_are_refused(tmp_path: Path, break_it: Callable[[Any], None], words: str) -> None:
    path = tmp_path / "t.json"
    write_tracking_results(path, {"a": some_tracks()}, [])
    content = json.loads(path.read_text())
    break_it(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputRefused, match=words):
        read_tracking_results(path)


SOUND_BOX = {
    "sample_token": "a",
    "translation": [1.5, 2.0, 3.0],
    "size": [1.0, 2.0, 3.0],
    "rotation": [1.0, 0.0, 0.0, 0.0],
    "velocity": [0.5, -0.5],
    "tracking_id": "x",
    "tracking_name": "car",
    "tracking_score": 0.5,
}


@given(
    st.sampled_from(sorted({*SOUND_BOX, "num_pts"})),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner)
    ),
)
def test_whatever_a_field_holds_is_tracks_or_is_named(field: str, value: Any) -> None:
    tracks, findings = read_tracks("a", json.dumps([SOUND_BOX | {field: value}]).encode())
    assert [line.split(":")[0] for line in findings] in ([], [f"sample 'a', box 0, field {field}"])
    assert len(tracks) == (0 if findings or (field == "num_pts" and int(value) == 0) else 1)


def test_tracks_may_be_numbered_and_numbers_may_begin_anew_in_each_class(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_tracking_results(path, {"a": some_tracks()}, [])
    content = json.loads(path.read_text())
    for box in content["results"]["a"]:
        box["tracking_id"] = 1
    path.write_text(json.dumps(content))
    assert read_tracking_results(path).tracks["a"].ids == ("1",) * 7


# The commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Tables, perfect tracks in tracks.json, the same boxes as detections in detections.json."""
    write_tables(tmp_path, 5)
    (tmp_path / "tracks.json").write_text(json.dumps(results_with(tmp_path, Mistakes(), 0)))
    tracks = read_tracking_results(tmp_path / "tracks.json").tracks
    write_results(tmp_path / "detections.json", {token: found.boxes for token, found in tracks.items()}, ["lidar"])
    return tmp_path


def test_detections_become_tracks_that_are_scored(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", str(world / "detections.json"), "--data-root", str(world)]) == 0
    written = world / "tracks-detections.json"
    assert capsys.readouterr().out.strip() == str(written)
    detections = json.loads((world / "detections.json").read_text())["results"]
    assert list(json.loads(written.read_text())["results"]) == list(detections)
    assert modalities_of_results(written) == ("lidar",)
    scores = []
    for source in ("tracks.json", "tracks-detections.json", "detections.json"):
        command = ["evaluate", str(world / source), "--tracking", "--data-root", str(world)]
        assert main([*command, "--output", str(world / f"scores of {source}")]) == 0
        scores.append(json.loads((world / f"scores of {source}" / "metrics_summary.json").read_text())["amota"])
        assert f"AMOTA {scores[-1]:.4f}" in capsys.readouterr().out
    assert scores[0] > 0.9
    assert scores[1] == scores[2] > 0.3
    assert (world / "scores of detections.json" / "tracks.json").read_bytes() == written.read_bytes()


def noisy_detections(root: Path, seed: int) -> dict[str, Boxes3D]:
    """The annotations of mini_val as a detector may see them: a tenth missed, places off by 0.3 m and velocities by
    0.5 m/s along each axis, and for every three of them one that is nothing, with a lower score.
    """
    reader, generator = NuScenesReader(root), torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    detections = {}
    for token in reader.frame_tokens("mini_val"):
        annotations = reader.annotations(token)
        assert annotations is not None
        real = annotations.boxes_global
        real = real[torch.rand(len(real), generator=generator) > 0.1]
        scores = (0.6 + 0.2 * normal(len(real))).clamp(0.01, 1)
        seen = replace(
            real,
            centers=real.centers + 0.3 * normal(len(real), 3),
            velocities=real.velocities + 0.5 * normal(len(real), 2),
            scores=scores,
        )
        nothing = seen[torch.arange(0, len(seen), 3)]
        lower = 0.5 * torch.rand(len(nothing), generator=generator, dtype=torch.float64)
        nothing = replace(nothing, centers=nothing.centers + 5.0 * normal(len(nothing), 3), scores=lower)
        detections[token] = Boxes3D.concatenated([seen, nothing])
    return detections


def test_real_tracks_are_found_in_noise(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "nuscenes-minival"
    figures = []
    for name in ("known", "unknown"):
        detections = noisy_detections(root, 0)
        if name == "unknown":  # as if the detector had no velocity
            detections = {
                token: replace(boxes, velocities=boxes.velocities * math.nan) for token, boxes in detections.items()
            }
        index = open_index(root, "v1.0-mini")
        tracks = track_samples(index, detections, tmp_path, Tracker())
        write_tracking_results(tmp_path / "t.json", tracks, ["lidar"])
        figures.append(evaluate_tracking(root, None, tmp_path / "t.json", "mini_val", tmp_path).overall)
    known, unknown = figures
    assert known["amota"] > 0.8
    assert known["amotp"] < 0.6
    assert known["ids"] < 0.05 * known["tp"]
    assert known["amota"] > unknown["amota"]


def test_what_the_commands_refuse(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    track = ["track", str(world / "detections.json"), "--data-root", str(world)]
    assert main([*track, "--low-score", "0.9"]) == 3
    assert "These options do not fit together" in capsys.readouterr().err
    assert main([*track, "--output", str(world)]) == 3
    assert main(["track", str(world / "tracks.json"), "--data-root", str(world)]) == 3
    capsys.readouterr()
    assert main(["track", str(world / "detections.json"), "--data-root", "s3://bucket/shards"]) == 3
    assert "holds shards, and bevel track needs nuScenes' tables" in capsys.readouterr().err
    content = json.loads((world / "detections.json").read_text())
    content["results"]["nowhere"] = []
    (world / "detections.json").write_text(json.dumps(content))
    assert main(track) == 3
    assert "'nowhere' is no sample" in capsys.readouterr().err
