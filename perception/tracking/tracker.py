"""The online tracker: one frame after another, tracks come out.

Detections with a high score are matched with the tracks first, then those with a low score with what is left, so that
an object that is hard to see for a moment keeps its track (ByteTrack, Zhang et al., 2022).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.tracks import Tracks
from perception.tracking.association import associate
from perception.tracking.config import TrackerConfig
from perception.tracking.motion import Motion, Noise, corrected, first_seen, predicted


@dataclass(frozen=True)
class _Known:
    """The T tracks that the tracker follows. `seen_us`: when last detected."""

    numbers: Int64[Tensor, "T"]
    labels: Int64[Tensor, "T"]
    hits: Int64[Tensor, "T"]
    seen_us: Int64[Tensor, "T"]
    motion: Motion

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Bool[Tensor, "T"] | Int64[Tensor, "K"]) -> "_Known":
        return _Known(self.numbers[rows], self.labels[rows], self.hits[rows], self.seen_us[rows], self.motion[rows])


class Tracker:
    """Follows the objects of one recording; ask it frame by frame, in the order of time.

    Equal detections give equal tracks, and the names of tracks do not come back: not after `reset` either.
    """

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        motions = self.config.motions
        self._tracked = torch.tensor([motion is not None for motion in motions])

        def column(name: str) -> Float64[Tensor, "_"]:
            values = [1.0 if motion is None else float(getattr(motion, name)) for motion in motions]
            return torch.tensor(values, dtype=torch.float64)

        self._gates = column("gate")
        self._noise = Noise(column("acceleration"), column("position_noise"), column("velocity_noise"), column("speed"))
        self._next_number = 1
        self._now_us: int | None = None
        self._known = self._begun(Boxes3D.empty(torch.float64), 0)

    def reset(self) -> None:
        """Forget all tracks: what comes is another recording."""
        self._known = self._known[torch.zeros(len(self._known), dtype=torch.bool)]
        self._now_us = None

    def step(self, timestamp_us: int, boxes_global: Boxes3D) -> Tracks:
        """The tracks that are detected at this moment: float64, on the CPU, in the order of their detections.

        Positions (x, y) and velocities are the filter's; height, size, heading, score and attribute the detection's.
        After a gap of more than `max_gap` seconds all tracks are new. Raises ValueError for a moment that is not later
        than the last one, and for boxes whose positions or scores are not finite.
        """
        boxes = boxes_global.to(torch.device("cpu")).to(torch.float64)
        if not bool(boxes.centers.isfinite().all()) or not bool(boxes.scores.isfinite().all()):
            raise ValueError("boxes must have finite positions and scores to be tracked")
        self._advance(timestamp_us)
        boxes = boxes[self._tracked[boxes.labels] & (boxes.scores >= self.config.low_score)]
        high = boxes.scores >= self.config.high_score
        track_of_box = torch.full((len(boxes),), -1)
        for stage in (high, ~high):
            self._match(boxes, torch.nonzero(stage)[:, 0], track_of_box)
        matched = track_of_box >= 0
        known = self._updated(boxes[matched], track_of_box[matched], timestamp_us)
        fresh = torch.nonzero(high & ~matched)[:, 0]
        track_of_box[fresh] = len(known) + torch.arange(len(fresh))
        known = _joined(known, self._begun(boxes[fresh], timestamp_us))
        told = track_of_box >= 0
        told[told.clone()] = known.hits[track_of_box[told]] >= self.config.min_hits
        tracks = _told(boxes[told], known[track_of_box[told]])
        # One that is not confirmed yet ends where it is missed.
        self._known = known[(known.hits >= self.config.min_hits) | (known.seen_us == timestamp_us)]
        return tracks

    def _advance(self, timestamp_us: int) -> None:
        """Move what is known to this moment and let go of what was not seen for too long."""
        if self._now_us is not None:
            seconds = (timestamp_us - self._now_us) * 1e-6
            if seconds <= 0:
                raise ValueError(f"frames must come in the order of time: {timestamp_us} us is after {self._now_us} us")
            if seconds > self.config.max_gap:
                self.reset()
            known = self._known[(timestamp_us - self._known.seen_us) * 1e-6 <= self.config.max_age]
            motion = predicted(known.motion, seconds, self._noise[known.labels])
            self._known = _Known(known.numbers, known.labels, known.hits, known.seen_us, motion)
        self._now_us = timestamp_us

    def _match(self, boxes: Boxes3D, rows: Int64[Tensor, "K"], track_of_box: Int64[Tensor, "M"]) -> None:
        """Give tracks that have no box yet to boxes of these rows, in `track_of_box`."""
        free = torch.ones(len(self._known), dtype=torch.bool)
        free[track_of_box[track_of_box >= 0]] = False
        left = torch.nonzero(free)[:, 0]
        labels = self._known.labels[left]
        pairs = associate(
            self._known.motion.positions[left],
            labels,
            boxes.centers[rows, :2],
            boxes.labels[rows],
            self._gates[labels],
        )
        track_of_box[rows[pairs[1]]] = left[pairs[0]]

    def _updated(self, boxes: Boxes3D, tracks: Int64[Tensor, "K"], timestamp_us: int) -> _Known:
        """All tracks, those of these rows corrected by their boxes."""
        known = self._known
        noise = self._noise[known.labels[tracks]]
        seen = corrected(known.motion[tracks], boxes.centers[:, :2], boxes.velocities, noise)
        motion = Motion(
            known.motion.positions.index_copy(0, tracks, seen.positions),
            known.motion.velocities.index_copy(0, tracks, seen.velocities),
            known.motion.covariance.index_copy(0, tracks, seen.covariance),
        )
        return _Known(
            known.numbers,
            known.labels,
            known.hits.index_add(0, tracks, torch.ones_like(tracks)),
            known.seen_us.index_fill(0, tracks, timestamp_us),
            motion,
        )

    def _begun(self, boxes: Boxes3D, timestamp_us: int) -> _Known:
        """A track for each box."""
        numbers = self._next_number + torch.arange(len(boxes))
        self._next_number += len(boxes)
        return _Known(
            numbers,
            boxes.labels,
            torch.ones_like(boxes.labels),
            torch.full_like(boxes.labels, timestamp_us),
            first_seen(boxes.centers[:, :2], boxes.velocities, self._noise[boxes.labels]),
        )


def _joined(a: _Known, b: _Known) -> _Known:
    motion = Motion(
        torch.cat([a.motion.positions, b.motion.positions]),
        torch.cat([a.motion.velocities, b.motion.velocities]),
        torch.cat([a.motion.covariance, b.motion.covariance]),
    )
    return _Known(
        torch.cat([a.numbers, b.numbers]),
        torch.cat([a.labels, b.labels]),
        torch.cat([a.hits, b.hits]),
        torch.cat([a.seen_us, b.seen_us]),
        motion,
    )


def _told(boxes: Boxes3D, known: _Known) -> Tracks:
    boxes = Boxes3D(
        centers=torch.cat([known.motion.positions, boxes.centers[:, 2:]], dim=1),
        sizes_wlh=boxes.sizes_wlh,
        yaws=boxes.yaws,
        velocities=known.motion.velocities,
        labels=boxes.labels,
        scores=boxes.scores,
        attributes=boxes.attributes,
    )
    return Tracks(boxes, tuple(map(str, known.numbers.tolist())))
