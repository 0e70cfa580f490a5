"""Results: written and read back, and annotations written as detections score perfectly in the official devkit."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, ATTRIBUTES_OF_CLASS, DETECTION_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.evaluation import DetectionMetrics, evaluate_detections
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import read_results, write_results
from tests.nuscenes_fixture import read_table, write_table


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


def annotations_as_detections(reader: NuScenesReader, tokens: Sequence[str]) -> dict[str, Boxes3D]:
    """The annotations that the metric looks at: those with at least one LiDAR or radar point."""
    boxes = {}
    for token in tokens:
        annotations = reader.annotations(token)
        assert annotations is not None
        seen = annotations.lidar_point_counts + annotations.radar_point_counts > 0
        boxes[token] = annotations.boxes_global[seen]
    return boxes


def score(root: Path, boxes: dict[str, Boxes3D], split: str, folder: Path) -> DetectionMetrics:
    write_results(folder / "results.json", boxes, ["camera", "lidar"])
    return evaluate_detections(root, None, folder / "results.json", split, folder / "scores")


# Writing and reading ----------------------------------------------------------------------------------------------


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


def change(field: str, value: Any) -> Callable[[Any], None]:
    def apply(content: Any) -> None:
        content["results"]["a"][3][field] = value

    return apply


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (change("translation", [1.0, math.nan, 0.0]), "record 'a', field translation"),
        (change("detection_score", math.nan), "field detection_score: expected a finite number"),
        (change("detection_score", "high"), "field detection_score"),
        (change("size", [1, 0, 1]), "field size"),
        (change("rotation", [0, 0, 0, 0]), "field rotation"),
        (change("velocity", [0, 0, 0]), "field velocity"),
        (change("detection_name", "tram"), "field detection_name"),
        (change("detection_name", ["car"]), "field detection_name"),
        (change("attribute_name", "flying"), "field attribute_name"),
        (change("sample_token", "b"), "field sample_token"),
        (lambda content: content["results"]["a"][0].pop("velocity"), "field velocity"),
        (lambda content: content["results"]["a"].append(7), "boxes as objects"),
        (lambda content: content["results"].update(a={}), "a list of boxes"),
        (lambda content: content["results"].update(a=content["results"]["a"] * 42), "at most 500"),
        (lambda content: content.pop("results"), "meta and results"),
        (lambda content: content.pop("meta"), "meta and results"),
    ],
)
def test_malformed_results_are_refused(tmp_path: Path, break_it: Callable[[Any], Any], words: str) -> None:
    write_results(tmp_path / "r.json", {"a": some_boxes()}, [])
    content = json.loads((tmp_path / "r.json").read_text())
    break_it(content)
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(InputRefused, match=rf"r\.json: .*{words}"):
        read_results(tmp_path / "r.json")


@pytest.mark.parametrize("content", ["", "[]", '{"results": 1, "meta": {}}'])
def test_what_is_no_results_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputRefused, match=r"r\.json"):
        read_results(tmp_path / "r.json")
    with pytest.raises(InputRefused, match="missing"):
        read_results(tmp_path / "nowhere.json")


# The official metric ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["mini_train", "mini_val", "all", "scene-0103,scene-0061", "scene-0103"])
def test_annotations_written_as_detections_score_perfectly(nuscenes_root: Path, tmp_path: Path, split: str) -> None:
    reader = NuScenesReader(nuscenes_root)
    tokens = reader.frame_tokens(split)
    metrics = score(nuscenes_root, annotations_as_detections(reader, tokens), split, tmp_path)
    assert metrics.ground_truth == dict.fromkeys(DETECTION_CLASSES, len(tokens))
    assert metrics.mean_ap == pytest.approx(1.0, abs=1e-12)
    assert metrics.mean_ap_present == pytest.approx(1.0, abs=1e-12)
    assert metrics.nds == pytest.approx(1.0, abs=1e-9)
    for error in (
        metrics.translation_error,
        metrics.scale_error,
        metrics.orientation_error,
        metrics.velocity_error,
        metrics.attribute_error,
    ):
        assert error == pytest.approx(0.0, abs=1e-9)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "metrics_details.json",
        "metrics_summary.json",
    ]
    summary = json.loads((tmp_path / "scores" / "metrics_summary.json").read_text())
    assert summary["mean_ap"] == metrics.mean_ap


def test_it_is_the_number_that_the_devkit_gives(nuscenes_root: Path, tmp_path: Path) -> None:
    """The same file through the devkit as its own documentation has it, on the dataset itself."""
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    reader = NuScenesReader(nuscenes_root)
    boxes = annotations_as_detections(reader, reader.frame_tokens("mini_val"))
    generator = torch.Generator().manual_seed(3)
    worse = {}
    for token, exact in boxes.items():
        kept = exact[torch.rand(len(exact), generator=generator) > 0.2]
        shift = torch.randn(len(kept), 3, generator=generator, dtype=torch.float64)
        scores = torch.rand(len(kept), generator=generator, dtype=torch.float64)
        worse[token] = replace(kept, centers=kept.centers + shift, yaws=kept.yaws + shift[:, 0], scores=scores)
    ours = score(nuscenes_root, worse, "mini_val", tmp_path)
    evaluation = DetectionEval(
        NuScenes(version="v1.0-mini", dataroot=str(nuscenes_root), verbose=False),
        config_factory("detection_cvpr_2019"),
        str(tmp_path / "results.json"),
        "mini_val",
        str(tmp_path / "devkit"),
        verbose=False,
    )
    reference, _ = evaluation.evaluate()
    assert 0 < reference.mean_ap < 1
    assert ours.mean_ap == reference.mean_ap
    assert ours.nds == reference.nd_score
    assert ours.velocity_error == reference.tp_errors["vel_err"]
    for name in DETECTION_CLASSES:
        assert ours.average_precision[name] == {t: reference.get_label_ap(name, t) for t in (0.5, 1.0, 2.0, 4.0)}


def test_no_detections_at_all(nuscenes_root: Path, tmp_path: Path) -> None:
    tokens = NuScenesReader(nuscenes_root).frame_tokens("mini_val")
    metrics = score(nuscenes_root, {token: Boxes3D.empty() for token in tokens}, "mini_val", tmp_path)
    assert (metrics.mean_ap, metrics.nds, metrics.translation_error) == (0.0, 0.0, 1.0)
    assert sum(metrics.ground_truth.values()) == 30


def test_it_is_quiet_and_needs_no_maps(nuscenes_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(nuscenes_root, tmp_path / "data")
    shutil.rmtree(root / "maps")
    for table in ("map", "log", "visibility"):
        (root / "v1.0-mini" / f"{table}.json").unlink()
    reader = NuScenesReader(root)
    before = sorted(root.rglob("*"))
    boxes = annotations_as_detections(reader, reader.frame_tokens("mini_val"))
    assert score(root, boxes, "mini_val", tmp_path).mean_ap == pytest.approx(1.0)
    assert sorted(root.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_results_of_other_samples_are_refused(nuscenes_root: Path, tmp_path: Path) -> None:
    reader = NuScenesReader(nuscenes_root)
    boxes = annotations_as_detections(reader, reader.frame_tokens("mini_train"))
    with pytest.raises(InputRefused, match=r"'mini_val': it has 3 samples, the results have 3, of which 3 are not"):
        score(nuscenes_root, boxes, "mini_val", tmp_path)
    with pytest.raises(InputRefused, match=r"it has 6 samples.* 3 samples of the split are missing"):
        score(nuscenes_root, boxes, "all", tmp_path)


def test_without_annotations_there_is_nothing_to_evaluate(nuscenes_root: Path, tmp_path: Path) -> None:
    shutil.copytree(nuscenes_root / "v1.0-mini", tmp_path / "data" / "v1.0-mini")
    boxes = {token: some_boxes() for token in NuScenesReader(nuscenes_root).frame_tokens("mini_val")}
    rows = [row for row in read_table(nuscenes_root, "sample_annotation") if row["token"].startswith("scene-0061")]
    for kept in (rows, []):
        write_table(tmp_path / "data", "sample_annotation", kept)
        with pytest.raises(InputRefused, match=r"sample_annotation\.json: the split 'mini_val' has no annotations"):
            score(tmp_path / "data", boxes, "mini_val", tmp_path)


def test_an_attribute_that_the_metric_does_not_know_is_refused(nuscenes_root: Path, tmp_path: Path) -> None:
    shutil.copytree(nuscenes_root / "v1.0-mini", tmp_path / "data" / "v1.0-mini")
    rows = read_table(nuscenes_root, "attribute")
    next(row for row in rows if row["name"] == "vehicle.moving")["name"] = "vehicle.flying"
    write_table(tmp_path / "data", "attribute", rows)
    boxes = {token: some_boxes() for token in NuScenesReader(nuscenes_root).frame_tokens("mini_val")}
    with pytest.raises(InputRefused, match=r"attribute\.json: .*field name: expected one of .*'vehicle\.flying'"):
        score(tmp_path / "data", boxes, "mini_val", tmp_path)


def test_of_several_attributes_the_reader_takes_the_first_and_the_metric_refuses(
    nuscenes_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(nuscenes_root / "v1.0-mini", tmp_path / "data" / "v1.0-mini")
    rows = read_table(nuscenes_root, "sample_annotation")
    several = next(row for row in rows if row["token"] == "scene-0103-instance-0-1")
    several["attribute_tokens"] = ["attribute-vehicle.parked", "attribute-vehicle.moving"]
    write_table(tmp_path / "data", "sample_annotation", rows)
    reader = NuScenesReader(tmp_path / "data")
    annotations = reader.annotations("scene-0103-sample-1")
    assert annotations is not None
    attribute = annotations.boxes_global.attributes[annotations.tokens.index(several["token"])]
    assert ATTRIBUTES[attribute] == "vehicle.parked"
    boxes = {token: some_boxes() for token in reader.frame_tokens("mini_val")}
    with pytest.raises(InputRefused, match=r"'scene-0103-instance-0-1', field attribute_tokens: .*at most one"):
        score(tmp_path / "data", boxes, "mini_val", tmp_path)


def test_a_results_file_that_begins_with_a_byte_order_mark(nuscenes_root: Path, tmp_path: Path) -> None:
    reader = NuScenesReader(nuscenes_root)
    path = tmp_path / "results.json"
    write_results(path, annotations_as_detections(reader, reader.frame_tokens("mini_val")), ("lidar",))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert evaluate_detections(nuscenes_root, None, path, "mini_val", tmp_path / "scores").mean_ap == pytest.approx(1.0)


def test_without_lidar_keyframes_the_metric_has_no_ego_pose(nuscenes_root: Path, tmp_path: Path) -> None:
    shutil.copytree(nuscenes_root / "v1.0-mini", tmp_path / "data" / "v1.0-mini")
    rows = [row for row in read_table(nuscenes_root, "sample_data") if "LIDAR_TOP" not in row["token"]]
    write_table(tmp_path / "data", "sample_data", rows)
    boxes = {token: some_boxes() for token in NuScenesReader(nuscenes_root).frame_tokens("mini_val")}
    with pytest.raises(InputRefused, match=r"sample_data\.json: sample .* has no keyframe of LIDAR_TOP"):
        score(tmp_path / "data", boxes, "mini_val", tmp_path)


@pytest.mark.parametrize(
    ("folder", "split", "present"), [("nuscenes-keyframe", "mini_train", 5), ("nuscenes-minival", "mini_val", 7)]
)
def test_real_annotations_score_perfectly(
    real_data: Path, tmp_path: Path, folder: str, split: str, present: int
) -> None:
    root = real_data / folder
    reader = NuScenesReader(root)
    metrics = score(root, annotations_as_detections(reader, reader.frame_tokens(split)), split, tmp_path)
    counts = metrics.ground_truth
    assert sum(count > 0 for count in counts.values()) == present
    assert metrics.mean_ap_present == pytest.approx(1.0, abs=1e-12)
    # As officially defined, a class without ground truth counts as AP 0.
    assert metrics.mean_ap == pytest.approx(present / 10, abs=1e-12)
    for name, errors in metrics.class_errors.items():
        for metric, error in errors.items():
            # A single keyframe tells no velocities, and the devkit gives an error of 1 then.
            if counts[name] and not (folder == "nuscenes-keyframe" and metric == "vel_err"):
                assert math.isnan(error) or error == pytest.approx(0.0, abs=1e-9), (name, metric)
