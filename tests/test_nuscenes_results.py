"""Results: written, read back, and read by the devkit."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, ATTRIBUTES_OF_CLASS, DETECTION_CLASSES
from datasets.nuscenes.results import read_results, write_results


def some_boxes(count: int = 12) -> Boxes3D:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    return Boxes3D(
        centers=torch.randn(count, 3, generator=generator, dtype=torch.float64) * 1000,
        sizes_wlh=torch.rand(count, 3, generator=generator, dtype=torch.float64) + 0.1,
        yaws=(torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1) * math.pi,
        velocities=torch.randn(count, 2, generator=generator, dtype=torch.float64),
        labels=labels,
        scores=torch.linspace(1, 0, count, dtype=torch.float64),
        attributes=torch.tensor([(ATTRIBUTES_OF_CLASS[label] or (-1,))[-1] for label in labels.tolist()]),
    )


def test_round_trip(tmp_path: Path) -> None:
    boxes = some_boxes()
    write_results(tmp_path / "new" / "r.json", {"a": boxes, "b": Boxes3D.empty()}, ["lidar", "pose"])
    back = read_results(tmp_path / "new" / "r.json")
    assert list(back) == ["a", "b"]
    assert len(back["b"]) == 0
    for name in ("centers", "sizes_wlh", "velocities", "labels", "scores", "attributes"):
        assert torch.equal(getattr(back["a"], name), getattr(boxes, name)), name
    assert torch.allclose(back["a"].yaws, boxes.yaws, atol=1e-12)
    content = json.loads((tmp_path / "new" / "r.json").read_text())
    assert content["meta"] == {
        "use_camera": False,
        "use_lidar": True,
        "use_radar": False,
        "use_map": False,
        "use_external": False,
    }
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.json"]


def test_the_devkit_reads_what_we_write(tmp_path: Path) -> None:
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.detection.data_classes import DetectionBox

    boxes = some_boxes()
    write_results(tmp_path / "r.json", {"a": boxes, "b": Boxes3D.empty()}, ["camera"])
    loaded, meta = load_prediction(str(tmp_path / "r.json"), 500, DetectionBox)
    assert meta["use_camera"]
    assert loaded.sample_tokens == ["a", "b"]
    assert [box.detection_name for box in loaded["a"]] == [DETECTION_CLASSES[label] for label in boxes.labels]
    assert [list(box.translation) for box in loaded["a"]] == boxes.centers.tolist()


def test_the_best_500_boxes_are_kept(tmp_path: Path) -> None:
    boxes = some_boxes(700)
    shuffled = boxes[torch.randperm(700, generator=torch.Generator().manual_seed(1))]
    write_results(tmp_path / "r.json", {"a": shuffled}, [])
    assert torch.equal(read_results(tmp_path / "r.json")["a"].scores, boxes.scores[:500])


def test_an_unknown_velocity_is_written_as_zero(tmp_path: Path) -> None:
    boxes = some_boxes()
    boxes = replace(boxes, velocities=torch.full_like(boxes.velocities, math.nan))
    write_results(tmp_path / "r.json", {"a": boxes}, [])
    assert not read_results(tmp_path / "r.json")["a"].velocities.any()


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (2.0, {"car": "vehicle.moving", "bicycle": "cycle.with_rider", "pedestrian": "pedestrian.moving"}),
        (0.1, {"car": "vehicle.parked", "bicycle": "cycle.without_rider", "pedestrian": "pedestrian.standing"}),
    ],
)
def test_a_class_with_attributes_always_gets_one(tmp_path: Path, speed: float, expected: dict[str, str]) -> None:
    boxes = some_boxes(10)
    boxes = replace(boxes, velocities=torch.tensor([[0.0, speed]]).double().repeat(10, 1))
    # No attribute at all, and one of another class.
    for attributes in (torch.full((10,), -1), torch.tensor([7, 7, 7, 7, 7, 0, 0, 0, 0, 0])):
        write_results(tmp_path / "r.json", {"a": replace(boxes, attributes=attributes)}, [])
        for label, attribute in enumerate(read_results(tmp_path / "r.json")["a"].attributes.tolist()):
            name = DETECTION_CLASSES[label]
            assert (attribute == -1) == (name in ("barrier", "traffic_cone"))
            if name in expected:
                assert ATTRIBUTES[attribute] == expected[name]


@pytest.mark.parametrize("field", ["centers", "sizes_wlh", "yaws", "scores"])
def test_numbers_that_are_not_finite_are_never_written(tmp_path: Path, field: str) -> None:
    boxes = some_boxes()
    broken = getattr(boxes, field).clone()
    broken[3] = math.nan
    with pytest.raises(ValueError, match="sample a"):
        write_results(tmp_path / "r.json", {"a": replace(boxes, **{field: broken})}, [])
    assert list(tmp_path.iterdir()) == []
