"""What the tracker expects of each class, and when it begins and ends a track."""

from dataclasses import dataclass, field

from datasets.classes import DETECTION_CLASSES


@dataclass(frozen=True)
class ClassMotion:
    """How far a class's objects and detections may stray.

    `gate`: metres; a detection farther from where a track is expected is not of that track. `acceleration`: m/s², what
    the constant velocity leaves out (standard deviation). `position_noise` (m) and `velocity_noise` (m/s): of a
    detection, along each axis. `speed`: m/s, how fast an object may be whose velocity is unknown.
    """

    gate: float
    acceleration: float
    position_noise: float
    velocity_noise: float
    speed: float

    def __post_init__(self) -> None:
        for name in ("gate", "acceleration", "position_noise", "velocity_noise", "speed"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)}")


# Gates: CenterPoint's (Yin et al., 2021, its tracker's source), the 99.9th percentile of its velocity's error over half
# a second. The others are ours, of the size of what published detectors miss: centres by 0.2 to 0.6 m, velocities by
# 0.2 to 1 m/s.
_MOTIONS: dict[str, ClassMotion] = {
    "car": ClassMotion(4.0, 3.0, 0.3, 0.4, 8.0),
    "truck": ClassMotion(4.0, 2.0, 0.5, 0.4, 8.0),
    "bus": ClassMotion(5.5, 2.0, 0.6, 0.6, 8.0),
    "trailer": ClassMotion(3.0, 2.0, 0.6, 0.4, 6.0),
    "motorcycle": ClassMotion(13.0, 3.0, 0.3, 0.6, 8.0),
    "bicycle": ClassMotion(3.0, 2.0, 0.3, 0.4, 4.0),
    "pedestrian": ClassMotion(1.0, 1.0, 0.2, 0.3, 1.5),
}


def _motions() -> tuple[ClassMotion | None, ...]:
    return tuple(_MOTIONS.get(name) for name in DETECTION_CLASSES)


@dataclass(frozen=True)
class TrackerConfig:
    """When tracks begin and end.

    `high_score`: detections from it on are matched first, and only they begin tracks; those from `low_score` on may
    prolong what is left (ByteTrack). `min_hits`: detections in a row until a track is told of; until then the first
    miss ends it. `max_age`: seconds without a detection after which a track is over. `max_gap`: seconds between two
    frames after which all are: another recording. `motions`: by label, None for classes that are not tracked.
    Raises ValueError for values that contradict one another.
    """

    high_score: float = 0.2
    low_score: float = 0.05
    min_hits: int = 1
    max_age: float = 1.6
    max_gap: float = 5.0
    motions: tuple[ClassMotion | None, ...] = field(default_factory=_motions)

    def __post_init__(self) -> None:
        if not 0 <= self.low_score <= self.high_score <= 1:
            raise ValueError(f"0 <= low score ({self.low_score}) <= high score ({self.high_score}) <= 1 must hold")
        if self.min_hits < 1:
            raise ValueError(f"min_hits must be at least 1, not {self.min_hits}")
        if not 0 < self.max_age <= self.max_gap:
            raise ValueError(f"0 < max_age ({self.max_age} s) <= max_gap ({self.max_gap} s) must hold")
        if len(self.motions) != len(DETECTION_CLASSES):
            raise ValueError(f"motions must be {len(DETECTION_CLASSES)}, one for each class, not {len(self.motions)}")
