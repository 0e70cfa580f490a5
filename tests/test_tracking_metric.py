"""The tracking metric equals the devkit's: on scenes full of mistakes, on ties, on nothing, and on real annotations.

The reference is nuscenes-devkit's TrackingEval on py-motmetrics. Sums of distances are compared to twelve digits (the
devkit adds scenes in the order of a Python set), everything else to the last bit.
"""

import contextlib
import io
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from datasets.classes import TRACKING_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.index.opening import open_index
from datasets.nuscenes.splits import scenes_of_split
from datasets.nuscenes.tracking_metric.accumulate import ClassFrames, count_from_score, scores_of_matches
from datasets.nuscenes.tracking_metric.assignment import least_cost
from datasets.nuscenes.tracking_metric.config import TrackingMetricConfig
from datasets.nuscenes.tracking_metric.evaluation import TrackingMetrics, evaluate_tracking, measure_tracks
from datasets.nuscenes.tracking_results import read_tracking_results
from tests.tracking_world import CATEGORIES, VERSION, Mistakes, Row, read_table, results_with, write_tables

_SUMS = ("motp", "amotp")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def devkit(root: Path, results: Row, config: TrackingMetricConfig, folder: Path) -> tuple[Row, Row]:
    """metrics_summary.json and metrics_details.json of the official code."""
    from nuscenes.eval.tracking.data_classes import TrackingConfig
    from nuscenes.eval.tracking.evaluate import TrackingEval

    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    with _quiet():
        TrackingEval(
            config=TrackingConfig.deserialize(config.serialized()),
            result_path=str(folder / "results.json"),
            eval_set="mini_val",
            output_dir=str(folder),
            nusc_version=VERSION,
            nusc_dataroot=str(root),
            verbose=False,
        ).main(render_curves=False)
    summary, details = (json.loads((folder / f"metrics_{name}.json").read_text()) for name in ("summary", "details"))
    return summary, details


def ours(root: Path, results: Row, config: TrackingMetricConfig, folder: Path) -> TrackingMetrics:
    folder.mkdir(exist_ok=True)
    path = folder / "ours.json"
    path.write_text(json.dumps(results))
    index = open_index(root, VERSION)
    names = scenes_of_split("mini_val", index.scene_names, VERSION, str(root))
    scenes = [index.scene(index.scene_names.index(name)) for name in names]
    return measure_tracks(index, scenes, read_tracking_results(path).tracks, "mini_val", str(root), config)


def assert_same(name: str, ours: float, official: float) -> None:
    if name in _SUMS:
        assert ours == pytest.approx(official, rel=1e-12, abs=1e-12, nan_ok=True), name
    else:
        assert ours == official or (math.isnan(ours) and math.isnan(official)), (name, ours, official)


def assert_equal(metrics: TrackingMetrics, summary: Row, details: Row) -> None:
    for name, value in metrics.overall.items():
        assert_same(name, value, summary[name])
    for class_name, curves in metrics.curves.items():
        for name, value in metrics.by_class[class_name].items():
            assert_same(name, value, summary["label_metrics"][name][class_name])
        columns = {"confidence": curves.confidence, "recall_hypo": curves.recall_hypo, **curves.values}
        assert columns.keys() == details[class_name].keys()
        for name, values in columns.items():
            for value, official in zip(values.tolist(), details[class_name][name], strict=True):
                assert_same(name, value, official)


# Against the devkit -----------------------------------------------------------------------------------------------

ALL = tuple(CATEGORIES)
CASES: dict[str, tuple[Mistakes, tuple[str, ...], int]] = {
    "perfect": (Mistakes(), ALL, 3),
    "everything wrong": (
        Mistakes(
            noise=0.6, missed=0.2, renamed=0.1, swapped=0.1, doubled=0.1, strangers=2.0, other_class=0.1, no_points=0.2
        ),
        ALL,
        3,
    ),
    "ties in score": (Mistakes(noise=0.3, missed=0.1, doubled=0.4, swapped=0.2, strangers=1.0, levels=2), ALL, 4),
    "one score for all": (Mistakes(swapped=0.3, doubled=0.5, levels=1), ALL, 4),
    "fragments": (Mistakes(noise=0.2, missed=0.6), ("vehicle.car",), 5),
    "switches": (Mistakes(swapped=0.5, renamed=0.2), ("human.pedestrian.adult",), 5),
    "hardly a match": (Mistakes(noise=3.0, missed=0.5), ("vehicle.truck", "vehicle.car"), 5),
    "in bicycle racks": (
        Mistakes(noise=0.2, strangers=1.0, levels=2),
        ("vehicle.bicycle", "vehicle.motorcycle", "static_object.bicycle_rack"),
        5,
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_the_devkit(tmp_path: Path, case: str) -> None:
    mistakes, categories, thresholds = CASES[case]
    config, seed = TrackingMetricConfig(thresholds=thresholds), list(CASES).index(case)
    write_tables(tmp_path, seed, keyframes=8, categories=categories)
    results = results_with(tmp_path, mistakes, seed)
    metrics = ours(tmp_path, results, config, tmp_path / "out")
    assert_equal(metrics, *devkit(tmp_path, results, config, tmp_path / "out"))
    assert metrics.overall["gt"] > 0


def test_no_tracks_at_all(tmp_path: Path) -> None:
    write_tables(tmp_path, 3)
    results = results_with(tmp_path, Mistakes(missed=1.0), 0)
    config = TrackingMetricConfig()
    metrics = ours(tmp_path, results, config, tmp_path / "out")
    assert metrics.overall["amota"] == 0.0
    assert metrics.overall["amotp"] == 2.0
    assert metrics.overall["fn"] == 7 * metrics.overall["gt"]
    # The devkit fails on results without any box; this one it drops.
    far = results_with(tmp_path, Mistakes(), 0)
    sample, boxes = next((sample, boxes) for sample, boxes in far["results"].items() if boxes)
    results["results"][sample] = [boxes[0] | {"translation": [1e7, 1e7, 0.0]}]
    assert_equal(metrics, *devkit(tmp_path, results, config, tmp_path / "out"))


def test_equal_on_real_tracks_with_noise(real_data: Path, tmp_path: Path) -> None:
    root, config = real_data / "nuscenes-minival", TrackingMetricConfig(thresholds=2)
    mistakes = Mistakes(noise=0.5, missed=0.1, renamed=0.02, swapped=0.01, doubled=0.05, strangers=2.0)
    results = results_with(root, mistakes, 0)
    metrics = ours(root, results, config, tmp_path)
    assert metrics.overall["ids"] > 10
    assert_equal(metrics, *devkit(root, results, config, tmp_path))


def test_the_configuration_is_the_official_one() -> None:
    from nuscenes.eval.common.config import config_factory

    assert TrackingMetricConfig().serialized() == config_factory("tracking_nips_2019").serialize()


def test_the_devkit_reads_what_we_write(tmp_path: Path) -> None:
    from nuscenes.eval.tracking.data_classes import TrackingMetricData, TrackingMetricDataList, TrackingMetrics

    write_tables(tmp_path, 0)
    (tmp_path / "r.json").write_text(json.dumps(results_with(tmp_path, Mistakes(noise=0.5), 0)))
    metrics = evaluate_tracking(tmp_path, None, tmp_path / "r.json", "mini_val", tmp_path / "scores")
    assert (metrics.scene_count, metrics.official_scene_count) == (2, 2)
    summary = json.loads((tmp_path / "scores" / "metrics_summary.json").read_text())
    official = TrackingMetrics.deserialize(summary)
    assert official.compute_metric("amota") == metrics.overall["amota"] == summary["amota"]
    assert summary["meta"]["use_lidar"] is True
    details = json.loads((tmp_path / "scores" / "metrics_details.json").read_text())
    curves = TrackingMetricDataList.deserialize(details, TrackingMetricData)
    assert curves["car"].motar.tolist() == pytest.approx(metrics.curves["car"].values["motar"].tolist(), nan_ok=True)


# Against py-motmetrics and SciPy, in many small cases -----------------------------------------------------------------


def random_frames(random: np.random.Generator) -> tuple[ClassFrames, list[tuple[Any, Any, Any]]]:
    """One class: few values of distance, so that assignments tie; and the same as (objects, names, distances)."""
    frames = []
    for _ in range(int(random.integers(1, 9))):
        objects = random.permutation(5)[: random.integers(0, 6)]
        names = random.permutation(7)[: random.integers(0, 8)]
        choices = random.choice([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, random.random()], (len(objects), len(names)))
        frames.append((objects, names, choices))
    sizes = np.array([[len(objects), len(names)] for objects, names, _ in frames])
    starts = np.concatenate([np.zeros((1, 2), dtype=np.int64), np.cumsum(sizes, axis=0)])
    products = sizes.prod(axis=1)
    objects = np.concatenate([objects for objects, _, _ in frames])
    made = ClassFrames(
        truth_starts=starts[:, 0].copy(),
        truth_track=objects,
        found_starts=starts[:, 1].copy(),
        found_track=np.concatenate([names for _, names, _ in frames]),
        found_score=np.ones(int(starts[-1, 1])),
        distances=np.concatenate([distances.ravel() for _, _, distances in frames]),
        distance_starts=np.cumsum(products) - products,
        to_best_alone=np.full(len(objects), np.nan),
    )
    return made, frames


def test_events_are_those_of_py_motmetrics() -> None:
    from nuscenes.eval.tracking.mot import MOTAccumulatorCustom

    random, seen = np.random.default_rng(0), dict.fromkeys(("MATCH", "SWITCH", "MISS", "FP"), 0)
    for _ in range(400):
        made, frames = random_frames(random)
        accumulator = MOTAccumulatorCustom()
        for number, (objects, names, distances) in enumerate(frames):
            if len(objects) + len(names):
                accumulator.update(objects, names, np.where(distances < 2.0, distances, np.nan), frameid=number)
        types = accumulator._events["Type"]
        expected = {name: types.count(name) for name in seen}
        counts = count_from_score(made, 0.0, 2.0)
        found = (counts.matches, counts.switches, counts.misses, counts.false_positives)
        assert dict(zip(seen, found, strict=True)) == expected
        told = zip(types, accumulator._events["D"], strict=True)
        assert counts.distance == pytest.approx(sum(d for name, d in told if name in ("MATCH", "SWITCH")))
        assert counts.frames == len(set(accumulator._indices["FrameId"]))
        assert len(scores_of_matches(made, 2.0)) == counts.matches
        seen = {name: seen[name] + count for name, count in expected.items()}
    assert min(seen.values()) > 100


@pytest.mark.parametrize("kind", ["different", "ties"])
def test_the_assignment_is_scipys(kind: str) -> None:
    random = np.random.default_rng(1)
    for _ in range(600):
        shape = tuple(random.integers(1, 12, 2).tolist())
        costs = random.random(shape) if kind == "different" else random.integers(0, 3, shape).astype(np.float64)
        rows, columns = linear_sum_assignment(costs)
        expected = np.full(shape[0], -1)
        expected[rows] = columns
        assert least_cost(costs).tolist() == expected.tolist()
    assert least_cost(np.zeros((3, 0))).tolist() == [-1, -1, -1]


# Known answers ----------------------------------------------------------------------------------------------------


def one_object(root: Path, keyframes: int = 10) -> Row:
    """A dataset with one car that is always in sight, and its perfect results."""
    write_tables(root, 0, scenes=1, keyframes=keyframes, objects=1, categories=("vehicle.car",))
    rows = read_table(root, "sample_annotation")
    first = rows[0]
    samples = sorted(read_table(root, "sample"), key=lambda row: row["timestamp"])
    poses = {row["token"]: row["translation"] for row in read_table(root, "ego_pose")}
    names = [f"a-{number:02d}" for number in range(keyframes)]
    made = [
        first
        | {
            "token": name,
            "sample_token": samples[number]["token"],
            "translation": (np.add(poses["data-" + samples[number]["token"]], [5.0, 5.0, 1.0])).tolist(),
            "num_lidar_pts": 9,
            "prev": names[number - 1] if number else "",
            "next": [*names, ""][number + 1],
        }
        for number, name in enumerate(names)
    ]
    (root / VERSION / "sample_annotation.json").write_text(json.dumps(made))
    instance = read_table(root, "instance")[0]
    ends = {"nbr_annotations": keyframes, "first_annotation_token": names[0], "last_annotation_token": names[-1]}
    (root / VERSION / "instance.json").write_text(json.dumps([instance | ends]))
    return results_with(root, Mistakes(levels=1), 0)


def car(root: Path, results: Row) -> Mapping[str, float]:
    return ours(root, results, TrackingMetricConfig(), root / "out").by_class["car"]


def test_perfect_tracks(tmp_path: Path) -> None:
    figures = car(tmp_path, one_object(tmp_path))
    expected = {"amota": 1.0, "mota": 1.0, "recall": 1.0, "tp": 10, "mt": 1, "fp": 0, "fn": 0, "ids": 0, "frag": 0}
    assert {name: figures[name] for name in expected} == expected
    # Not 0: the official distances have the rounding of squares of a kilometre.
    assert figures["amotp"] == pytest.approx(0.0, abs=1e-4)
    metrics = ours(tmp_path, results_with(tmp_path, Mistakes(), 0), TrackingMetricConfig(), tmp_path / "out")
    assert all(math.isnan(metrics.by_class[name]["amota"]) for name in TRACKING_CLASSES if name != "car")


def test_another_name_is_a_switch_and_a_gap_in_sight_is_filled(tmp_path: Path) -> None:
    results = one_object(tmp_path)
    samples = list(results["results"])
    for sample in samples[6:]:
        results["results"][sample][0]["tracking_id"] = "another"
    figures = car(tmp_path, results)
    assert (figures["ids"], figures["tp"], figures["frag"], figures["fn"]) == (1, 9, 0, 0)
    results["results"][samples[3]] = []  # between two boxes of one track: interpolated
    assert car(tmp_path, results)["fn"] == 0
    results["results"][samples[6]] = []  # between two tracks: lost
    figures = car(tmp_path, results)
    assert (figures["fn"], figures["frag"], figures["lgd"], figures["tid"]) == (1, 1, 0.5, 0.0)


def test_boxes_that_are_said_to_be_without_points_do_not_count(tmp_path: Path) -> None:
    results = one_object(tmp_path)
    boxes = [boxes[0] for boxes in results["results"].values()]
    for box, points in zip(boxes, (5, -1, 0.5, 3, 0, 1, 1, 1, 1, 0), strict=True):  # 0.5 is 0 to the devkit
        box["num_pts"] = points
    figures = car(tmp_path, results)
    assert (figures["tp"], figures["fn"]) == (9, 1)  # the last one is lost, the two within the track are filled in
    boxes[0]["num_pts"] = 0
    assert car(tmp_path, results)["fn"] == 2


# Refusals ---------------------------------------------------------------------------------------------------------


def test_results_of_other_samples_are_refused(tmp_path: Path) -> None:
    results = one_object(tmp_path)
    first = next(iter(results["results"]))
    results["results"]["nowhere"] = results["results"].pop(first)
    for box in results["results"]["nowhere"]:
        box["sample_token"] = "nowhere"
    results["results"]["nowhere"][0]["size"] = "whatever: it is not looked at"
    samples = list(results["results"])
    results["results"][samples[3]][0] |= {"size": [1, 0, 1], "tracking_score": None}
    (tmp_path / "r.json").write_text(json.dumps(results))
    with pytest.raises(InputRefused) as refused:
        evaluate_tracking(tmp_path, None, tmp_path / "r.json", "mini_val", tmp_path / "out")
    assert str(refused.value).splitlines() == [
        f"{tmp_path / 'r.json'}: 4 problems with the tracks for the split 'mini_val', which has 10 samples:",
        f"  sample {samples[3]!r}, box 0, field size: expected 3 positive numbers (width, length, height in metres), "
        "found [1, 0, 1]",
        f"  sample {samples[3]!r}, box 0, field tracking_score: expected a finite number, found None",
        "  sample 'nowhere': not in the split",
        f"  sample {first!r}: missing",
    ]
    assert not (tmp_path / "out").exists()


def test_without_annotations_there_is_nothing_to_score(tmp_path: Path) -> None:
    results = one_object(tmp_path)
    rows = read_table(tmp_path, "sample_annotation")
    without = [row | {"num_lidar_pts": 0, "num_radar_pts": 0} for row in rows]
    (tmp_path / VERSION / "sample_annotation.json").write_text(json.dumps(without))
    with pytest.raises(InputRefused, match="no annotations of the seven tracking classes"):
        car(tmp_path, results)


def test_without_lidar_keyframes_there_is_no_ego_pose(tmp_path: Path) -> None:
    results = one_object(tmp_path)
    (tmp_path / VERSION / "sensor.json").write_text(
        json.dumps([{"token": "sensor", "channel": "LIDAR_OTHER", "modality": "lidar"}])
    )
    with pytest.raises(InputRefused, match="no keyframe of LIDAR_TOP"):
        car(tmp_path, results)
