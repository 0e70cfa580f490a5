"""A results file against a dataset: the figures are those of the devkit on the same files, whatever the split."""

import contextlib
import io
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, DETECTION_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.configuration import BICYCLE_RACK
from datasets.nuscenes.detection_metric.evaluation import SplitEvaluation, evaluate_detections
from datasets.nuscenes.detection_metric.official import differences_from_devkit
from datasets.nuscenes.detection_metric.truth import load_truth
from datasets.nuscenes.found import Found
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import write_results
from tests.nuscenes_fixture import read_table, write_table
from tests.test_nuscenes_results import some_boxes
from tools.__main__ import main
from tools.exit_codes import ExitCode


def annotations_as_detections(reader: NuScenesReader, tokens: Sequence[str]) -> dict[str, Boxes3D]:
    """The annotations that the metric looks at: those with at least one LiDAR or radar point."""
    boxes = {}
    for token in tokens:
        annotations = reader.annotations(token)
        assert annotations is not None
        seen = annotations.lidar_point_counts + annotations.radar_point_counts > 0
        boxes[token] = annotations.boxes_global[seen]
    return boxes


def score(root: Path, boxes: dict[str, Boxes3D], split: str, folder: Path) -> SplitEvaluation:
    write_results(folder / "results.json", boxes, ["camera", "lidar"])
    return evaluate_detections(root, None, folder / "results.json", split, folder / "scores")


@pytest.mark.parametrize("split", ["mini_train", "mini_val", "all", "scene-0103,scene-0061", "scene-0103"])
def test_annotations_written_as_detections_score_perfectly(nuscenes_root: Path, tmp_path: Path, split: str) -> None:
    reader = NuScenesReader(nuscenes_root)
    tokens = reader.frame_tokens(split)
    evaluation = score(nuscenes_root, annotations_as_detections(reader, tokens), split, tmp_path)
    metrics = evaluation.metrics
    assert metrics.ground_truth == dict.fromkeys(DETECTION_CLASSES, len(tokens))
    assert metrics.mean_ap == pytest.approx(1.0, abs=1e-12)
    assert metrics.mean_ap_present == pytest.approx(1.0, abs=1e-12)
    assert metrics.nds == pytest.approx(1.0, abs=1e-9)
    for error in metrics.mean_errors.values():
        assert error == pytest.approx(0.0, abs=1e-9)
    assert {path.name for path in (tmp_path / "scores").iterdir()} == set(FILES)
    summary = json.loads((tmp_path / "scores" / "metrics_summary.json").read_text())
    assert summary["mean_ap"] == metrics.mean_ap


@pytest.fixture(scope="module")
def odd_root(nuscenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with bicycle racks around cycles, annotations without points, some without an attribute, and two at
    the place of others: which of the two a detection finds, the order of the table tells, not that of the tokens.
    """
    root = tmp_path_factory.mktemp("odd") / "data"
    shutil.copytree(nuscenes_root / "v1.0-mini", root / "v1.0-mini")
    shutil.copytree(nuscenes_root / "maps", root / "maps")
    rows = read_table(root, "sample_annotation")
    racks, twins = [], []
    for number, row in enumerate(rows):
        if number % 7 == 3:
            row |= {"num_lidar_pts": 0, "num_radar_pts": 0}
        if number % 5 == 1:
            row["attribute_tokens"] = []
        alone = row | {"prev": "", "next": "", "attribute_tokens": []}
        if "instance-7" in row["token"] and row["token"][-1] in "01":  # the bicycle
            rotation = [1.2, 0.1, -0.2, 0.4]  # tilted, and not of length 1 but by a hair
            rotation = [value / math.hypot(*rotation) * (1 + 1e-9) for value in rotation]
            more = {"token": f"{row['token']}-rack", "instance_token": f"rack-{number}"}
            racks.append(alone | more | {"size": [3.0, 5.0, 4.0], "rotation": rotation})
        if "instance-0" in row["token"] and row["token"][-1] == "2":  # the car
            more = {"token": f"a-twin-{number}", "instance_token": f"twin-{number}", "num_lidar_pts": 3}
            twins.append(alone | more | {"size": [1.0, 1.0, 1.0]})
    write_table(root, "sample_annotation", rows + racks + twins)
    write_table(root, "category", [*read_table(root, "category"), {"token": "rack", "name": BICYCLE_RACK}])
    instances = [
        {
            "token": row["instance_token"],
            "category_token": category,
            "nbr_annotations": 1,
            "first_annotation_token": row["token"],
            "last_annotation_token": row["token"],
        }
        for more, category in ((racks, "rack"), (twins, "category-vehicle.car"))
        for row in more
    ]
    write_table(root, "instance", read_table(root, "instance") + instances)
    return root


def random_results(
    reader: NuScenesReader, split: str, generator: np.random.Generator, density: float = 3
) -> dict[str, list[Any]]:
    """Boxes at and around the annotations and at the limit of the range, with all that a results file may hold."""
    truth = load_truth(reader.index, reader.version, split, reader.root)
    results: dict[str, list[Any]] = {}
    tokens = truth.samples.tokens
    for number in generator.permutation(len(tokens)).tolist():
        rows = np.flatnonzero(truth.boxes.sample == number)
        rows = generator.choice(rows, generator.integers(0, 1 + density * len(rows)))
        noise = generator.choice([0.0, 0.3, 1.0, 2.0])
        boxes = []
        for row in rows.tolist():
            label = int(truth.boxes.label[row]) if generator.random() < 0.9 else int(generator.integers(0, 10))
            place = truth.boxes.translation[row] + generator.normal(size=3) * noise
            if generator.random() < 0.1:  # at the limit of the range, or just inside
                limit = float(generator.choice([30, 40, 50]))
                place = truth.samples.ego_translation[number] + [limit - generator.choice([0, 1e-13]), 0, 0]
            velocity = (truth.boxes.velocity[row] + generator.normal(size=2)).tolist()
            boxes.append(
                {
                    "sample_token": tokens[number],
                    "translation": place.tolist(),
                    "size": [max(1, round(value)) for value in truth.boxes.size[row]]
                    if generator.random() < 0.2
                    else (truth.boxes.size[row] * generator.uniform(0.7, 1.4, 3)).tolist(),
                    "rotation": (truth.boxes.rotation[row] + generator.normal(size=4) * 0.1 * noise).tolist(),
                    "velocity": [math.nan, math.nan] if generator.random() < 0.1 else velocity,
                    "detection_name": DETECTION_CLASSES[label],
                    "detection_score": round(float(generator.random()), int(generator.integers(1, 9))),
                    "attribute_name": str(generator.choice(["", *ATTRIBUTES])),
                    "num_pts": int(generator.choice([-1, 0, 7])),
                    "tracking_id": "one more field",
                }
            )
        results[tokens[number]] = boxes[:500]
    return results


FILES = ("metrics_summary.json", "metrics_details.json")


def write(path: Path, results: dict[str, list[Any]]) -> Path:
    path.write_text(json.dumps({"meta": {"use_lidar": True, "by": ["us"]}, "more": [1, "]"], "results": results}))
    return path


def test_whole_evaluations_of_odd_results_write_the_devkits_files(odd_root: Path, tmp_path: Path) -> None:
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    reader, devkit = NuScenesReader(odd_root), NuScenes("v1.0-mini", str(odd_root), verbose=False)
    filtered = set()
    for seed in range(14):
        path = write(tmp_path / "r.json", random_results(reader, "mini_val", np.random.default_rng(seed)))
        evaluation = evaluate_detections(odd_root, None, path, "mini_val", tmp_path / "ours")
        config = config_factory("detection_cvpr_2019")
        reference = DetectionEval(devkit, config, str(path), "mini_val", str(tmp_path / "devkit"), verbose=False)
        with contextlib.redirect_stdout(io.StringIO()):
            reference.main(render_curves=False)
        for name in FILES:
            ours, theirs = ((tmp_path / folder / name).read_text() for folder in ("ours", "devkit"))
            assert re.sub('"eval_time": .*', "", ours) == re.sub('"eval_time": .*', "", theirs), (seed, name)
        assert len(evaluation.matches.detections) == len(reference.pred_boxes.all)
        filtered.add((len(evaluation.truth.boxes), len(evaluation.matches.truth)))
    assert filtered == {(31, 25)}  # four without points, two cycles in racks


@pytest.mark.parametrize("split", ["all", "scene-0103,scene-0061", "scene-0061"])
def test_splits_that_are_not_official_equal_the_devkits_too(odd_root: Path, tmp_path: Path, split: str) -> None:
    """More samples than the split has are left out, as the devkit does."""
    reader = NuScenesReader(odd_root)
    for seed in range(2):
        path = write(tmp_path / "r.json", random_results(reader, "all", np.random.default_rng(seed)))
        evaluation = evaluate_detections(odd_root, None, path, split, tmp_path / "ours")
        assert evaluation.results.left_out == 6 - len(evaluation.truth.samples)
        assert differences_from_devkit(odd_root, None, path, evaluation, tmp_path / "ours") == []


def test_differences_from_the_devkit_are_named(odd_root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", random_results(NuScenesReader(odd_root), "all", np.random.default_rng(1)))
    evaluation = evaluate_detections(odd_root, None, path, "all", tmp_path)
    changed = {name: json.loads((tmp_path / name).read_text()) for name in FILES}
    precision = changed["metrics_summary.json"]["label_aps"]["car"]["2.0"]
    changed["metrics_summary.json"]["label_aps"]["car"]["2.0"] = np.nextafter(precision, 1)
    changed["metrics_details.json"]["bus:4.0"]["precision"][7] = 7.0
    for name, content in changed.items():
        (tmp_path / name).write_text(json.dumps(content))
    differences = differences_from_devkit(odd_root, None, path, evaluation, tmp_path)
    assert len(differences) == 2
    assert differences[0].startswith(f"metrics_summary.json: label_aps.car.2.0: ours {np.nextafter(precision, 1)!r}, ")
    assert differences[0].endswith(f"the devkit's {precision!r}")
    assert differences[1].startswith("metrics_details.json: bus:4.0.precision[7]: ours 7.0, ")


def test_the_command_compares_with_the_devkit(
    odd_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = random_results(NuScenesReader(odd_root), "mini_val", np.random.default_rng(2))
    words = ["evaluate", str(write(tmp_path / "r.json", results)), "--data-root", str(odd_root), "--official"]
    assert main(words) == ExitCode.FINE
    assert "nuscenes-devkit gives the same figures and curves" in capsys.readouterr().out
    write(tmp_path / "r.json", {token: [] for token in results})
    assert main(words) == ExitCode.DISAGREED
    assert "nuscenes-devkit stops with" in capsys.readouterr().err


def test_no_detections_at_all(nuscenes_root: Path, tmp_path: Path) -> None:
    """The devkit fails on this one."""
    tokens = NuScenesReader(nuscenes_root).frame_tokens("mini_val")
    evaluation = score(nuscenes_root, {token: Boxes3D.empty() for token in tokens}, "mini_val", tmp_path)
    metrics = evaluation.metrics
    assert (metrics.mean_ap, metrics.nds, metrics.mean_errors["trans_err"]) == (0.0, 0.0, 1.0)
    assert sum(metrics.ground_truth.values()) == 30
    assert evaluation.found == Found(0, 30)


def test_it_is_quiet_and_needs_no_maps(nuscenes_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(nuscenes_root, tmp_path / "data")
    shutil.rmtree(root / "maps")
    for table in ("map", "log", "visibility"):
        (root / "v1.0-mini" / f"{table}.json").unlink()
    reader = NuScenesReader(root)
    before = sorted(root.rglob("*"))
    boxes = annotations_as_detections(reader, reader.frame_tokens("mini_val"))
    assert score(root, boxes, "mini_val", tmp_path).metrics.mean_ap == pytest.approx(1.0)
    assert sorted(root.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_results_of_other_samples_are_refused(nuscenes_root: Path, tmp_path: Path) -> None:
    reader = NuScenesReader(nuscenes_root)
    boxes = annotations_as_detections(reader, reader.frame_tokens("mini_train"))
    with pytest.raises(InputRefused) as refusal:
        score(nuscenes_root, boxes, "mini_val", tmp_path)
    assert str(refusal.value).splitlines() == [
        f"{tmp_path / 'results.json'}: 6 problems with the results for the split 'mini_val', which has 3 samples:",
        *(f"  sample 'scene-0061-sample-{number}': not in the split" for number in range(3)),
        *(f"  sample 'scene-0103-sample-{number}': missing" for number in range(3)),
    ]
    with pytest.raises(InputRefused, match=r"3 problems .* the split 'all', which has 6 samples"):
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
    metrics = evaluate_detections(nuscenes_root, None, path, "mini_val", tmp_path / "scores").metrics
    assert metrics.mean_ap == pytest.approx(1.0)


def test_without_lidar_the_keyframe_closest_in_time_says_where_the_vehicle_is(
    nuscenes_root: Path, tmp_path: Path
) -> None:
    """The devkit fails on this one."""
    shutil.copytree(nuscenes_root / "v1.0-mini", tmp_path / "data" / "v1.0-mini")
    rows = [row for row in read_table(nuscenes_root, "sample_data") if "LIDAR_TOP" not in row["token"]]
    write_table(tmp_path / "data", "sample_data", rows)
    reader = NuScenesReader(nuscenes_root)
    boxes = annotations_as_detections(reader, reader.frame_tokens("mini_val"))
    with_lidar = score(nuscenes_root, boxes, "mini_val", tmp_path)
    without = score(tmp_path / "data", boxes, "mini_val", tmp_path)
    assert without.metrics.mean_ap == with_lidar.metrics.mean_ap == pytest.approx(1.0)
    moved = without.truth.samples.ego_translation - with_lidar.truth.samples.ego_translation
    assert np.linalg.norm(moved, axis=1) == pytest.approx(5.0 * 0.002, rel=0.01)  # RADAR_BACK_RIGHT, 2 ms before


@pytest.mark.parametrize(
    ("folder", "split", "present"), [("nuscenes-keyframe", "mini_train", 5), ("nuscenes-minival", "mini_val", 7)]
)
def test_real_annotations_score_perfectly(
    real_data: Path, tmp_path: Path, folder: str, split: str, present: int
) -> None:
    root = real_data / folder
    reader = NuScenesReader(root)
    evaluation = score(root, annotations_as_detections(reader, reader.frame_tokens(split)), split, tmp_path)
    metrics = evaluation.metrics
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


def test_noisy_detections_on_real_annotations_equal_the_devkits(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "nuscenes-minival"
    path = write(tmp_path / "r.json", random_results(NuScenesReader(root), "mini_val", np.random.default_rng(0), 0.7))
    evaluation = evaluate_detections(root, None, path, "mini_val", tmp_path)
    assert differences_from_devkit(root, None, path, evaluation, tmp_path) == []
    assert evaluation.metrics.mean_ap > 0.02
    assert len(evaluation.matches.match_truth) > 300
