"""Generated cases for the detection metric: annotations and detections as columns, and as the devkit's boxes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.data_classes import DetectionBox

from datasets.classes import ATTRIBUTES, ATTRIBUTES_OF_CLASS, DETECTION_CLASSES
from datasets.nuscenes.detection_metric.boxes import BoxColumns, DetectedBoxes, TruthBoxes

Case = tuple[TruthBoxes, DetectedBoxes]
SAMPLES = 3


def random_boxes(generator: Generator, count: int, labels: list[int]) -> BoxColumns:
    """Boxes crowded into few metres, so that many are candidates for each other."""
    label = generator.choice(labels, count).astype(np.int32) if count else np.zeros(0, np.int32)
    attribute = [generator.choice(ATTRIBUTES_OF_CLASS[c] or (-1,)) for c in label]
    return BoxColumns(
        sample=np.sort(generator.integers(0, SAMPLES, count)).astype(np.int32),
        label=label,
        translation=generator.uniform(-5, 5, (count, 3)) + np.array([600.0, 1600.0, 1.0]),
        size=generator.uniform(0.3, 5.0, (count, 3)),
        rotation=random_rotations(generator, count),
        velocity=generator.normal(size=(count, 2)) * 3,
        attribute=np.array(attribute, dtype=np.int32),
        ego_distance=np.zeros(count),
    )


def random_rotations(generator: Generator, count: int) -> np.ndarray:  # type: ignore[type-arg]
    """Turns about z, a third of them about any axis and not of length 1."""
    half = generator.uniform(-np.pi, np.pi, count) / 2
    rotations = np.stack([np.cos(half), np.zeros(count), np.zeros(count), np.sin(half)], axis=1)
    odd = generator.random(count) < 1 / 3
    rotations[odd] = generator.normal(size=(int(odd.sum()), 4))
    return rotations


def as_truth(boxes: BoxColumns) -> TruthBoxes:
    count = len(boxes)
    ones, rows = np.ones(count, np.int64), np.arange(count, dtype=np.int32)
    more = {"num_lidar_pts": ones, "num_radar_pts": ones, "annotation": rows, "instance": rows, "visibility": rows}
    return TruthBoxes(**vars(boxes), **more)


def as_detections(boxes: BoxColumns, score: np.ndarray) -> DetectedBoxes:  # type: ignore[type-arg]
    return DetectedBoxes(**vars(boxes), score=score, num_pts=np.full(len(boxes), -1))


def detections_near(generator: Generator, truth: TruthBoxes, noise: float, false: int) -> DetectedBoxes:
    """Annotations, displaced and distorted, a fifth of them left out, and others besides."""
    kept = truth.take(generator.random(len(truth)) < 0.8)
    labels = sorted(set(truth.label.tolist())) or [0]
    other = random_boxes(generator, false, labels)
    both = {name: np.concatenate([getattr(kept, name), getattr(other, name)]) for name in vars(other)}
    count = len(both["label"])
    both["translation"] = both["translation"] + generator.normal(size=(count, 3)) * noise
    both["size"] = both["size"] * generator.uniform(1 - noise / 4, 1 + noise / 4, (count, 3))
    both["velocity"] = both["velocity"] + generator.normal(size=(count, 2)) * noise
    turned = generator.random(count) < noise
    both["rotation"][turned] = random_rotations(generator, int(turned.sum()))
    changed = (generator.random(count) < 0.3) & (both["attribute"] >= 0)
    both["attribute"] = np.where(changed, generator.integers(0, 8, count), both["attribute"]).astype(np.int32)
    boxes = BoxColumns(**both).take(np.argsort(both["sample"], kind="stable"))
    return as_detections(boxes, generator.random(count))


def noisy(generator: Generator) -> Case:
    labels = generator.choice(len(DETECTION_CLASSES), 3, replace=False).tolist()
    truth = as_truth(random_boxes(generator, int(generator.integers(1, 30)), labels))
    return truth, detections_near(generator, truth, generator.uniform(0.05, 1.5), int(generator.integers(0, 20)))


def perfect(generator: Generator) -> Case:
    truth, _ = noisy(generator)
    return truth, as_detections(BoxColumns(**{name: getattr(truth, name) for name in BoxColumns.__annotations__}),
                                generator.random(len(truth)))  # fmt: skip


def nothing_detected(generator: Generator) -> Case:
    truth, detections = noisy(generator)
    return truth, detections.take(np.zeros(0, np.int64))


def nothing_annotated(generator: Generator) -> Case:
    truth, detections = noisy(generator)
    return truth.take(np.zeros(0, np.int64)), detections


def one_class(generator: Generator) -> Case:
    truth = as_truth(random_boxes(generator, 20, [int(generator.integers(0, 10))]))
    return truth, detections_near(generator, truth, 0.5, 5)


def ties_in_score(generator: Generator) -> Case:
    truth, detections = noisy(generator)
    return truth, replace(detections, score=np.round(detections.score, int(generator.integers(0, 2))))


def duplicates(generator: Generator) -> Case:
    """Every box several times; of the annotations some coincide, too."""
    truth, detections = noisy(generator)
    twice = np.sort(generator.integers(0, len(truth), len(truth)))
    detections = detections.take(np.repeat(np.arange(len(detections)), 3))
    return truth.take(twice), replace(detections, score=np.round(detections.score, 1))


def velocities_unknown(generator: Generator) -> Case:
    truth, detections = noisy(generator)
    truth.velocity[generator.random(len(truth)) < generator.choice([0.5, 1.0])] = np.nan
    detections.velocity[generator.random(len(detections)) < 0.3] = np.nan
    return truth, detections


def attributes_missing(generator: Generator) -> Case:
    truth, detections = noisy(generator)
    truth.attribute[generator.random(len(truth)) < generator.choice([0.5, 1.0])] = -1
    detections.attribute[generator.random(len(detections)) < 0.5] = -1
    return truth, detections


def on_the_thresholds(generator: Generator) -> Case:
    """Distances of exactly 0.5, 1, 2 and 4 m, and a hair to either side; many of them equal."""
    truth, detections = noisy(generator)
    truth.translation[:] = np.round(truth.translation)
    distance = generator.choice([0.5, 1.0, 2.0, 4.0], len(detections))
    detections.translation[:] = np.round(detections.translation)
    detections.translation[:, 0] += distance * generator.choice([1, 1, 1 - 1e-16, 1 + 3e-16, 1 - 1e-10], len(distance))
    return truth, detections


CASES: dict[str, Callable[[Generator], Case]] = {
    case.__name__: case
    for case in (
        noisy,
        perfect,
        nothing_detected,
        nothing_annotated,
        one_class,
        ties_in_score,
        duplicates,
        velocities_unknown,
        attributes_missing,
        on_the_thresholds,
    )
}


def devkit_boxes(boxes: TruthBoxes | DetectedBoxes, tokens: tuple[str, ...] = ("0", "1", "2")) -> EvalBoxes:
    """The same boxes as the devkit holds them."""
    made = EvalBoxes()
    for token in tokens:
        made.add_boxes(token, [])
    for row, sample in enumerate(boxes.sample.tolist()):
        box = DetectionBox(
            sample_token=tokens[sample],
            translation=tuple(boxes.translation[row].tolist()),
            size=tuple(boxes.size[row].tolist()),
            rotation=tuple(boxes.rotation[row].tolist()),
            velocity=tuple(boxes.velocity[row].tolist()),
            num_pts=int(boxes.num_pts[row]),
            detection_name=DETECTION_CLASSES[boxes.label[row]],
            detection_score=float(boxes.score[row]) if isinstance(boxes, DetectedBoxes) else -1.0,
            attribute_name=ATTRIBUTES[boxes.attribute[row]] if boxes.attribute[row] >= 0 else "",
        )
        made.add_boxes(tokens[sample], [box])
    return made
