"""The tracker: what is known to come out, what must not matter, and what it refuses."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from datasets.tracks import Tracks
from perception.tracking.association import associate
from perception.tracking.config import ClassMotion, TrackerConfig
from perception.tracking.motion import Noise, corrected, first_seen, predicted
from perception.tracking.tracker import Tracker

START = 1_533_000_000_000_000


def boxes(
    positions: Sequence[tuple[float, float]],
    velocities: Sequence[tuple[float, float]] | None = None,
    label: str = "car",
    score: float = 0.9,
) -> Boxes3D:
    count = len(positions)
    centers = torch.cat([torch.tensor(positions).double().reshape(count, 2), torch.ones(count, 1).double()], dim=1)
    unknown = torch.full((count, 2), math.nan, dtype=torch.float64)
    return Boxes3D(
        centers=centers,
        sizes_wlh=torch.full((count, 3), 2.0, dtype=torch.float64),
        yaws=torch.zeros(count, dtype=torch.float64),
        velocities=unknown if velocities is None else torch.tensor(velocities).double().reshape(count, 2),
        labels=torch.full((count,), DETECTION_CLASSES.index(label)),
        scores=torch.full((count,), score, dtype=torch.float64),
        attributes=torch.full((count,), -1),
    )


def at(seconds: float) -> int:
    return START + round(seconds * 1e6)


def run(frames: Sequence[tuple[float, Boxes3D]], config: TrackerConfig | None = None) -> list[Tracks]:
    tracker = Tracker(config)
    return [tracker.step(at(seconds), found) for seconds, found in frames]


# Known answers ----------------------------------------------------------------------------------------------------


def test_a_steady_object_keeps_its_track_through_missed_frames() -> None:
    def car(seconds: float) -> Boxes3D:
        return boxes([(12.0 * seconds, 5.0)], [(12.0, 0.0)])

    frames = [(0.5 * frame, car(0.5 * frame) if frame not in (3, 4) else Boxes3D.empty()) for frame in range(8)]
    tracks = run(frames)
    assert [len(found) for found in tracks] == [1, 1, 1, 0, 0, 1, 1, 1]
    assert {name for found in tracks for name in found.ids} == {"1"}
    # At 12 m/s it is 18 m on when it is seen again: without its velocity it would be another one.
    assert torch.allclose(tracks[5].boxes.centers[0, :2], torch.tensor([30.0, 5.0]).double(), atol=1e-9)
    still = [(seconds, replace(found, velocities=found.velocities * 0)) for seconds, found in frames]
    assert len({name for found in run(still) for name in found.ids}) > 1


def test_the_velocity_is_learnt_where_the_detector_has_none() -> None:
    frames = [(0.5 * frame, boxes([(5.0 * frame, 0.0)])) for frame in range(12) if frame != 9]
    wide = ClassMotion(6.0, 3.0, 0.3, 0.4, 10.0)
    tracks = run(frames, TrackerConfig(motions=(wide,) * 10))
    assert {name for found in tracks for name in found.ids} == {"1"}
    assert torch.allclose(tracks[-1].boxes.velocities[0], torch.tensor([10.0, 0.0]).double(), atol=0.05)


def test_objects_that_cross_keep_their_tracks() -> None:
    # They meet at 2.5 s, one metre apart; what tells them apart is where they are going.
    frames = []
    for frame in range(11):
        x = 8.0 * (0.5 * frame - 2.5)
        both = boxes([(x, 0.5), (-x, -0.5)], [(8.0, 0.0), (-8.0, 0.0)])
        frames.append((0.5 * frame, both[torch.tensor([0, 1] if frame % 2 == 0 else [1, 0])]))
    for found in run(frames):
        towards_x = dict(zip(found.ids, (found.boxes.velocities[:, 0] > 0).tolist(), strict=True))
        assert towards_x == {"1": True, "2": False}


def test_steps_of_any_length_are_measured_in_seconds() -> None:
    moments = [0.0, 0.05, 0.7, 0.75, 1.9, 2.0, 3.4]
    tracks = run([(t, boxes([(20.0 * t, -20.0 * t)], [(20.0, -20.0)])) for t in moments])
    assert {name for found in tracks for name in found.ids} == {"1"}


def test_a_track_ends_after_max_age() -> None:
    config = TrackerConfig(max_age=1.6)
    for missed, expected in ((1.5, {"1"}), (1.7, {"1", "2"})):
        tracks = run([(0.0, boxes([(0, 0)])), (missed - 0.4, Boxes3D.empty()), (missed, boxes([(0, 0)]))], config)
        assert {name for found in tracks for name in found.ids} == expected


def test_a_low_score_prolongs_a_track_but_begins_none() -> None:
    high, low = boxes([(0, 0)], score=0.9), boxes([(0.1, 0), (30, 0)], score=0.1)
    tracks = run([(0.0, high), (0.5, low), (1.0, low), (3.0, high)], TrackerConfig(max_age=2.5))
    assert [found.ids for found in tracks] == [("1",), ("1",), ("1",), ("1",)]
    # Without the second stage the track ends in between.
    strict = run([(0.0, high), (0.5, low), (1.0, low), (3.0, high)], TrackerConfig(low_score=0.2, max_age=2.5))
    assert [found.ids for found in strict] == [("1",), (), (), ("2",)]


def test_a_high_score_has_the_first_choice() -> None:
    near_but_low, far_but_high = boxes([(0.2, 0)], score=0.1), boxes([(1.5, 0)], score=0.8)
    second = Boxes3D.concatenated([near_but_low, far_but_high])
    tracks = run([(0.0, boxes([(0, 0)])), (0.5, second)])
    assert tracks[1].ids == ("1",)
    assert tracks[1].boxes.scores.tolist() == [0.8]


def test_min_hits_in_a_row_before_a_track_is_told_of() -> None:
    config = TrackerConfig(min_hits=3)
    seen, none = boxes([(0, 0)]), Boxes3D.empty()
    counts = [len(found) for found in run([(0.5 * i, seen) for i in range(5)], config)]
    assert counts == [0, 0, 1, 1, 1]
    broken = [seen, seen, none, seen, seen, seen, none, seen]
    assert [len(found) for found in run([(0.5 * i, b) for i, b in enumerate(broken)], config)] == [
        0,
        0,
        0,
        0,
        0,
        1,
        0,
        1,
    ]


def test_classes_have_their_own_gates_and_do_not_mix() -> None:
    moved = [(0.0, boxes([(0, 0)], label="pedestrian")), (0.5, boxes([(2.0, 0)], label="pedestrian"))]
    assert [found.ids for found in run(moved)] == [("1",), ("2",)]
    cars = [(0.0, boxes([(0, 0)])), (0.5, boxes([(2.0, 0)]))]
    assert [found.ids for found in run(cars)] == [("1",), ("1",)]
    other = [(0.0, boxes([(0, 0)])), (0.5, boxes([(0, 0)], label="truck"))]
    assert [found.ids for found in run(other)] == [("1",), ("2",)]
    assert [found.ids for found in run([(0.0, boxes([(0, 0)], label="barrier"))])] == [()]


def test_another_recording_has_other_tracks() -> None:
    seen = boxes([(0, 0)])
    tracker = Tracker()
    assert tracker.step(at(0.0), seen).ids == ("1",)
    tracker.reset()
    assert tracker.step(at(-100.0), seen).ids == ("2",)  # another one may be older
    assert tracker.step(at(0.0), seen).ids == ("3",)  # after a gap


# What must not matter ---------------------------------------------------------------------------------------------


def crowd(seed: int, frames: int = 12) -> list[tuple[float, Boxes3D]]:
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(25, 2, generator=generator, dtype=torch.float64) * 40
    speed = torch.randn(25, 2, generator=generator, dtype=torch.float64) * 4
    labels = torch.randint(0, 10, (25,), generator=generator)
    made = []
    for frame in range(frames):
        noise = torch.randn(25, 2, generator=generator, dtype=torch.float64)
        seen = torch.rand(25, generator=generator) < 0.8
        found = boxes((start + speed * 0.5 * frame + 0.3 * noise).tolist(), (speed + 0.3 * noise.flip(0)).tolist())
        scores = torch.rand(25, generator=generator, dtype=torch.float64)
        made.append((0.5 * frame, replace(found, labels=labels, scores=scores)[seen]))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_turning_the_world_turns_the_tracks(seed: int) -> None:
    turned = torch.eye(4, dtype=torch.float64)
    turned[:2, :2] = torch.tensor([[math.cos(2.0), -math.sin(2.0)], [math.sin(2.0), math.cos(2.0)]])
    turned[:2, 3] = torch.tensor([500.0, -300.0])
    frames = crowd(seed)
    there = run([(seconds, found.transformed(turned)) for seconds, found in frames])
    for here, found in zip(run(frames), there, strict=True):
        assert here.ids == found.ids
        assert torch.allclose(here.boxes.transformed(turned).centers, found.boxes.centers, atol=1e-9)


def test_the_same_detections_give_the_same_bits() -> None:
    for first, second in zip(run(crowd(7)), run(crowd(7)), strict=True):
        assert first.ids == second.ids
        assert torch.equal(first.boxes.centers, second.boxes.centers)


def test_a_name_stands_once_in_a_frame() -> None:
    for found in run(crowd(3, frames=30)):
        assert len(set(found.ids)) == len(found.ids)


# The parts --------------------------------------------------------------------------------------------------------


def test_the_filter_is_the_textbook_one() -> None:
    """Against the matrix form of the Kalman filter with all four states at once."""
    q, r, rv = 2.0, 0.3, 0.5
    one = torch.ones(1, dtype=torch.float64)
    noise = Noise(q * one, r * one, rv * one, 8.0 * one)
    motion = first_seen(torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, math.nan]]).double(), noise)
    state = torch.tensor([1.0, 2.0, 0.0, 0.0]).double()
    covariance = torch.diag(torch.tensor([r**2, r**2, 64.0, 64.0]).double())
    generator = torch.Generator().manual_seed(0)
    for step in (0.5, 0.1, 1.3):
        measured = torch.randn(4, generator=generator, dtype=torch.float64)
        motion = corrected(predicted(motion, step, noise), measured[None, :2], measured[None, 2:], noise)
        forward = torch.eye(4, dtype=torch.float64)
        forward[0, 2] = forward[1, 3] = step
        push = torch.tensor([[step**2 / 2, 0], [0, step**2 / 2], [step, 0], [0, step]]).double()
        state, covariance = forward @ state, forward @ covariance @ forward.T + q**2 * push @ push.T
        gain = covariance @ torch.linalg.inv(covariance + torch.diag(torch.tensor([r, r, rv, rv]).double() ** 2))
        state, covariance = state + gain @ (measured - state), covariance - gain @ covariance
    assert torch.allclose(torch.cat([motion.positions[0], motion.velocities[0]]), state, atol=1e-10)
    assert torch.allclose(motion.covariance[0], covariance[0::2, 0::2], atol=1e-10)


def test_a_good_pair_is_not_given_up_for_two_bad_ones() -> None:
    expected, found = torch.tensor([[0.0, 0], [3.9, 0]]).double(), torch.tensor([[0.1, 0], [-3.8, 0]]).double()
    zeros = torch.zeros(2, dtype=torch.int64)
    rows, columns = associate(expected, zeros, found, zeros, torch.full((2,), 4.0, dtype=torch.float64))
    assert (rows.tolist(), columns.tolist()) == ([0], [0])


@pytest.mark.parametrize(("tracks", "detections"), [(0, 0), (3, 0), (0, 3)])
def test_nothing_with_nothing(tracks: int, detections: int) -> None:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64)

    rows, columns = associate(
        zeros(tracks, 2),
        torch.zeros(tracks).long(),
        zeros(detections, 2),
        torch.zeros(detections).long(),
        zeros(tracks),
    )
    assert len(rows) == len(columns) == 0


# Refusals ---------------------------------------------------------------------------------------------------------


def test_time_goes_forward() -> None:
    tracker = Tracker()
    tracker.step(at(1.0), boxes([(0, 0)]))
    for moment in (1.0, 0.5):
        with pytest.raises(ValueError, match="in the order of time"):
            tracker.step(at(moment), boxes([(0, 0)]))


def test_positions_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        Tracker().step(START, boxes([(math.nan, 0.0)]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low_score": 0.5}, "low score"),
        ({"min_hits": 0}, "min_hits"),
        ({"max_age": 0.0}, "max_age"),
        ({"max_age": 6.0}, "max_gap"),
        ({"motions": ()}, "one for each class"),
    ],
)
def test_configs_that_contradict_themselves(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrackerConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gate"):
        ClassMotion(0.0, 1.0, 1.0, 1.0, 1.0)


def test_as_many_names_as_boxes() -> None:
    with pytest.raises(ValueError, match="as many names"):
        Tracks(boxes([(0, 0)]), ())
