"""Intervals, slices and comparisons: each against the metric itself, run again on what they stand for."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from datasets.classes import DETECTION_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.detection_analysis.analysis import analyse, analysis_content
from datasets.nuscenes.detection_analysis.bootstrap import Replicates, drawn_scenes, interval, p_value, replicate
from datasets.nuscenes.detection_analysis.comparison import differences
from datasets.nuscenes.detection_analysis.resampling import ResampledFigures, means, resampled_figures
from datasets.nuscenes.detection_analysis.scene_facts import SceneFacts, scene_facts
from datasets.nuscenes.detection_analysis.slices import (
    Slice,
    everything,
    measure_slice,
    scenes_slice,
    slices_of,
)
from datasets.nuscenes.detection_metric.boxes import BoxColumns, DetectedBoxes, EvaluatedSamples, TruthBoxes
from datasets.nuscenes.detection_metric.configuration import DISTANCE_THRESHOLDS, ERRORS
from datasets.nuscenes.detection_metric.evaluation import evaluate_detections
from datasets.nuscenes.detection_metric.matching import match
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics, class_precisions, measure
from datasets.nuscenes.reader import NuScenesReader
from tests.detection_cases import CASES, SAMPLES, as_detections, as_truth, noisy, random_boxes
from tests.nuscenes_fixture import read_table, write_table
from tests.test_detection_evaluation import random_results, write

Boxes = TypeVar("Boxes", TruthBoxes, DetectedBoxes)
# Each sample of a generated case is a scene of its own.
SCENE = np.arange(SAMPLES, dtype=np.int32)


def assert_figures(figures: ResampledFigures, row: int, expected: DetectionMetrics) -> None:
    over_classes = means(figures, figures.annotated > 0)
    ours = [over_classes.mean_ap[row], over_classes.nds[row], *over_classes.mean_errors[row]]
    theirs = [expected.mean_ap, expected.nds, *expected.mean_errors.values()]
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)
    assert figures.annotated[row].tolist() == [expected.ground_truth[name] for name in DETECTION_CLASSES]
    precision = [list(expected.average_precision[name].values()) for name in DETECTION_CLASSES]
    np.testing.assert_allclose(figures.average_precision[row], precision, rtol=1e-12, atol=1e-14)
    errors = [list(expected.class_errors[name].values()) for name in DETECTION_CLASSES]
    np.testing.assert_allclose(figures.class_errors[row], errors, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", CASES)
def test_weighted_figures_are_those_of_copied_detections(kind: str) -> None:
    for seed in range(6):
        generator = np.random.default_rng(seed)
        matches = match(*CASES[kind](generator))
        repeats = generator.integers(0, 4, (2, SAMPLES))
        figures = resampled_figures(matches, SCENE, repeats)
        for row in range(len(repeats)):
            assert_figures(figures, row, measure(matches, repeats[row]))


def copied(boxes: Boxes, repeats: Sequence[int]) -> Boxes:
    """The boxes of a split in which each sample occurs so many times, each time as a sample of its own."""
    parts, sample = [], 0
    for original, times in enumerate(repeats):
        for _ in range(times):
            part = boxes.take(boxes.sample == original)
            parts.append(replace(part, sample=np.full(len(part), sample, np.int32)))
            sample += 1
    columns = {name.name: np.concatenate([getattr(part, name.name) for part in parts]) for name in fields(boxes)}
    return type(boxes)(**columns)


# Not those with equal scores: there the order of the copies decides, which is another one in a split with copies.
@pytest.mark.parametrize("kind", ["noisy", "perfect", "one_class", "velocities_unknown", "attributes_missing"])
def test_weighted_figures_are_those_of_a_split_that_has_scenes_several_times(kind: str) -> None:
    for seed in range(6):
        generator = np.random.default_rng(seed)
        truth, detections = CASES[kind](generator)
        repeats = generator.multinomial(SAMPLES, [1 / SAMPLES] * SAMPLES, 2)
        figures = resampled_figures(match(truth, detections), SCENE, repeats)
        for row, times in enumerate(repeats.tolist()):
            whole = measure(match(copied(truth, times), copied(detections, times)))
            assert_figures(figures, row, whole)


def test_a_class_that_was_not_drawn_is_left_out_of_the_means_of_that_draw() -> None:
    generator = np.random.default_rng(0)
    boxes = random_boxes(generator, 60, [0, 8])
    boxes = boxes.take((boxes.label == 0) | (boxes.sample == 0))  # pedestrians in the first scene alone
    truth = as_truth(boxes)
    matches = match(truth, as_detections(BoxColumns(**vars(boxes)), generator.random(len(boxes))))
    result = replicate(matches, SCENE, np.array([[0, 2, 1], [1, 1, 1]]))
    assert math.isnan(result.replicates["pedestrian"][0])
    assert result.replicates["mAP"] == pytest.approx([0.2, 0.2], abs=1e-12)  # two of ten classes, found perfectly
    assert result.replicates["trans_err"] == pytest.approx([0.8, 0.8], abs=1e-12)
    assert result.figures == pytest.approx({name: values[1] for name, values in result.replicates.items()}, nan_ok=True)
    assert result.scenes["pedestrian"] == 1
    assert math.isnan(result.intervals()["pedestrian"].low)  # of one scene there is no interval
    assert result.intervals()["car"].low == pytest.approx(1.0)
    assert math.isnan(result.figures["bus"])


def test_draws_are_those_of_the_seed_and_intervals_hold_what_they_promise() -> None:
    draws = drawn_scenes(7, 500, 3)
    assert draws.shape == (500, 7)
    assert (draws.sum(axis=1) == 7).all()
    assert np.array_equal(draws[:100], drawn_scenes(7, 100, 3))
    assert not np.array_equal(draws, drawn_scenes(7, 500, 4))
    assert draws.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)
    values = np.arange(1001.0)
    found = interval(np.append(values, np.nan), 30)
    assert (found.low, found.high) == pytest.approx((25.0, 975.0))
    assert math.isnan(interval(values, 1).low)


def test_p_values() -> None:
    values = np.concatenate([np.full(990, 1.0), np.full(9, -1.0)])
    assert p_value(values, 30) == pytest.approx(2 * 10 / 1000)
    assert p_value(-values, 30) == pytest.approx(2 * 10 / 1000)
    assert p_value(np.zeros(999), 30) == 1.0
    assert p_value(np.ones(999), 30) == pytest.approx(2 / 1000)
    assert p_value(np.ones(999), 3) == 0.25  # three scenes in a row: one in four, by luck
    assert math.isnan(p_value(np.ones(999), 1))


def test_differences_are_of_the_same_draws() -> None:
    """Scenes differ much more than the two: each interval is wide, that of the difference is not."""
    generator = np.random.default_rng(1)
    luck = generator.normal(size=400)
    first = Replicates({"mAP": 0.5}, {"mAP": 0.5 + luck}, {"mAP": 40})
    second = Replicates({"mAP": 0.6}, {"mAP": 0.6 + luck + generator.normal(size=400) * 0.01}, {"mAP": 40})
    one = differences(first, second)["mAP"]
    assert one.difference == pytest.approx(0.1)
    assert 0.07 < one.interval.low < 0.1 < one.interval.high < 0.13
    assert one.clear
    same = differences(first, first)["mAP"]
    assert (same.difference, same.interval.low, same.interval.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    assert not same.clear
    few = differences(replace(first, scenes={"mAP": 3}), replace(second, scenes={"mAP": 3}))["mAP"]
    assert not few.clear


def assert_same(ours: DetectionMetrics, expected: DetectionMetrics) -> None:
    for name in DETECTION_CLASSES:
        for threshold in DISTANCE_THRESHOLDS:
            for curve in ("precision", "confidence", *ERRORS):
                found = getattr(ours.curves[name][threshold], curve)
                assert np.array_equal(found, getattr(expected.curves[name][threshold], curve)), (name, threshold, curve)
    assert (ours.mean_ap, ours.nds, ours.ground_truth) == (expected.mean_ap, expected.nds, expected.ground_truth)
    np.testing.assert_equal(dict(ours.mean_errors), dict(expected.mean_errors))


@pytest.mark.parametrize("kind", CASES)
def test_the_slice_of_everything_is_the_whole(kind: str) -> None:
    for seed in range(3):
        matches = match(*CASES[kind](np.random.default_rng(seed)))
        assert_same(measure_slice(matches, everything(matches)).metrics, measure(matches))


@pytest.mark.parametrize("kind", CASES)
def test_a_slice_of_scenes_is_the_metric_of_these_scenes(kind: str) -> None:
    names = ("a", "b", "c")
    samples = EvaluatedSamples(names, names, SCENE, np.arange(3), np.zeros((3, 3)))
    for seed in range(3):
        truth, detections = CASES[kind](np.random.default_rng(seed))
        part = scenes_slice(match(truth, detections), samples, {"a", "c"}, "", "")
        found = measure_slice(match(truth, detections), part)
        alone = match(truth.take(truth.sample != 1), detections.take(detections.sample != 1))
        assert_same(found.metrics, measure(alone))
        assert found.annotations == len(alone.truth)


def boxes_at(x: Sequence[float]) -> BoxColumns:
    """Cars of one sample at these places; the vehicle is at 0."""
    count = len(x)
    return BoxColumns(
        sample=np.zeros(count, np.int32),
        label=np.zeros(count, np.int32),
        translation=np.stack([np.array(x), np.zeros(count), np.zeros(count)], axis=1),
        size=np.ones((count, 3)),
        rotation=np.tile([1.0, 0, 0, 0], (count, 1)),
        velocity=np.zeros((count, 2)),
        attribute=np.full(count, 1, np.int32),
        ego_distance=np.abs(np.array(x)),
    )


def by_name(slices: Sequence[Slice], name: str) -> Slice:
    return next(part for part in slices if part.name == name)


def test_what_counts_in_a_slice_by_distance() -> None:
    """Truth at 19.5 and 25 m. 20.4 m finds the first: right and near, though it lies in the next slice itself."""
    samples = EvaluatedSamples(("s",), ("scene",), np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros((1, 3)))
    truth = as_truth(boxes_at([19.5, 25.0]))
    detections = as_detections(boxes_at([20.4, 25.1, 10.0, 28.5]), np.array([0.9, 0.8, 0.7, 0.6]))
    matches = match(truth, detections)
    slices = slices_of(matches, samples, {"scene": SceneFacts("", "")}, [])
    near, far = (measure_slice(matches, by_name(slices, name)) for name in ("0 to 20 m", "20 to 30 m"))
    assert (near.annotations, far.annotations) == (1, 1)
    # Within 1 m, each finds its one annotation first; the false positives come behind.
    assert near.metrics.curves["car"][1.0].precision[100] == pytest.approx(1 / 2)  # 10 m
    assert far.metrics.curves["car"][1.0].precision[100] == pytest.approx(1 / 2)  # 28.5 m
    assert (near.recall, far.recall) == (1.0, 1.0)
    assert near.metrics.average_precision["car"][1.0] == pytest.approx(1.0, abs=0.01)
    # Within 0.5 m, 20.4 m finds nothing: it is a false positive of the slice that it lies in, before the true one.
    assert near.metrics.average_precision["car"][0.5] == 0.0
    assert far.metrics.curves["car"][0.5].confidence[50] == pytest.approx(0.85)  # from 0.9 to 0.8
    assert far.metrics.curves["car"][0.5].precision[50] == pytest.approx(0.25)  # np.interp, from 0 to 1 / 2
    assert {part.kind for part in slices} == {"distance", "LiDAR points", "speed"}  # nothing is said of the rest


def test_slices_part_the_annotations() -> None:
    truth, detections = noisy(np.random.default_rng(4))
    generator = np.random.default_rng(5)
    count = len(truth)
    truth = replace(
        truth,
        ego_distance=generator.uniform(0, 50, count),
        num_lidar_pts=generator.choice([0, 1, 5, 6, 20, 21, 100, 101, 5000], count),
        visibility=generator.integers(0, 2, count).astype(np.int32),
    )
    truth.velocity[0] = np.nan
    samples = EvaluatedSamples(("0", "1", "2"), ("a", "b"), np.array([0, 0, 1], np.int32), SCENE.astype(np.int64),
                               np.zeros((3, 3)))  # fmt: skip
    facts = {"a": SceneFacts("Rain, turn", "boston-seaport"), "b": SceneFacts("At night", "")}
    matches = match(truth, detections)
    slices = slices_of(matches, samples, facts, ["v80-100", "v0-40"])
    covered: dict[str, NDArray[np.int64]] = {}
    for part in slices:
        covered[part.kind] = covered.get(part.kind, np.zeros(count, np.int64)) + part.truth
    in_a = truth.sample < 2
    assert (covered["distance"] == 1).all()
    assert (covered["visibility"] == 1).all()
    assert (covered["LiDAR points"] == 1).all()
    assert (covered["speed"] == np.isfinite(truth.velocity[:, 0])).all()
    assert (covered["conditions"] == 2).all()  # day or night, dry or rain
    assert (covered["location"] == in_a).all()
    assert [part.name for part in slices if part.kind == "visibility"] == ["0 to 40 %", "80 to 100 %"]
    assert (by_name(slices, "rain").truth == in_a).all()
    assert (by_name(slices, "night").truth == ~in_a).all()


def test_scene_facts(nuscenes_root: Path, tmp_path: Path) -> None:
    shutil.copytree(nuscenes_root / "v1.0-mini", tmp_path / "v1.0-mini")
    first, second = read_table(tmp_path, "scene")
    first["description"] = "Train station, terrain, midnight"
    second |= {"description": "NIGHT, after rain", "log_token": "none"}
    write_table(tmp_path, "scene", [first, second])
    facts = scene_facts(tmp_path / "v1.0-mini", [first["name"], second["name"]])
    one, two = facts[first["name"]], facts[second["name"]]
    assert (one.at_night, one.in_rain, one.location) == (False, False, "boston-seaport")
    assert (two.at_night, two.in_rain, two.location) == (True, True, "")
    (tmp_path / "v1.0-mini" / "log.json").unlink()
    first["description"] = 7
    write_table(tmp_path, "scene", [first, second])
    assert scene_facts(tmp_path / "v1.0-mini", [first["name"]]) == {first["name"]: SceneFacts("", "")}
    (tmp_path / "v1.0-mini" / "scene.json").write_text("[")
    with pytest.raises(InputRefused, match=r"scene\.json"):
        scene_facts(tmp_path / "v1.0-mini", [first["name"]])


def test_slices_of_files_are_evaluations_of_scene_lists(nuscenes_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(nuscenes_root / "v1.0-mini", root / "v1.0-mini")
    scenes = read_table(root, "scene")
    for scene in scenes:
        scene["description"] = "Night" if scene["name"] == "scene-0103" else "Rain"
    write_table(root, "scene", scenes)
    path = write(tmp_path / "r.json", random_results(NuScenesReader(root), "all", np.random.default_rng(3)))
    evaluation = evaluate_detections(root, None, path, "all", tmp_path / "all")
    analysis = analyse(evaluation, root, "v1.0-mini", 50)
    found = {part.name: part for part in analysis.slices}
    for name, split in (("night", "scene-0103"), ("rain", "scene-0061"), ("boston-seaport", "all")):
        assert_same(found[name].metrics, evaluate_detections(root, None, path, split, tmp_path / name).metrics)
    content = analysis_content(analysis)
    assert content["bootstrap"]["intervals"]["mAP"]["value"] == pytest.approx(evaluation.metrics.mean_ap)
    assert content["slices"][0]["annotations"] == found[content["slices"][0]["name"]].annotations
    precisions = class_precisions(found["night"].metrics.average_precision)
    night = next(part for part in content["slices"] if part["name"] == "night")
    assert night["mean_dist_aps"] == precisions
    alone = evaluate_detections(root, None, path, "scene-0103", tmp_path / "alone")
    assert "only one" in analysis_content(analyse(alone, root, "v1.0-mini", 50))["bootstrap"]["none"]
    assert "none were asked for" in analyse(evaluation, root, "v1.0-mini", 0).why_no_intervals


def test_real_cities_are_evaluations_of_their_scenes(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "nuscenes-minival"
    path = write(tmp_path / "r.json", random_results(NuScenesReader(root), "mini_val", np.random.default_rng(0), 0.7))
    evaluation = evaluate_detections(root, None, path, "mini_val", tmp_path / "all")
    found = {part.name: part.metrics for part in analyse(evaluation, root, "v1.0-mini", 0).slices}
    for name, split in (("boston-seaport", "scene-0103"), ("singapore-queenstown", "scene-0916")):
        assert_same(found[name], evaluate_detections(root, None, path, split, tmp_path / name).metrics)
