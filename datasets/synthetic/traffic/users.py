"""Road users: who stands and drives where, so that nobody ever overlaps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.synthetic.scenery.bodies import Body
from datasets.synthetic.scenery.meshes import Mesh
from datasets.synthetic.traffic.motion import Track

# Centre of the ego vehicle's body before its rear axle, and its half length and half width, metres.
EGO_CENTRE, EGO_HALF = 1.35, (2.1, 0.9)
_MARGIN = 0.15
_STEP = 0.1  # Seconds between the instants at which ground is claimed.
_MOVING_SPEED = 0.2


@dataclass(frozen=True)
class RoadUser:
    """One annotated object. `parked` says what it is when it stands: parked for good, or stopped in traffic."""

    number: int
    body: Body
    track: Track
    parked: bool

    @property
    def category(self) -> str:
        """The nuScenes category."""
        return self.body.category

    def posture(self, time: float) -> int:
        """The number of the body's posture at a time."""
        return self.body.posture(self.track.travelled(time)) if len(self.body.postures) > 1 else 0

    def mesh_at(self, time: float) -> Mesh:
        """The mesh in its posture at a time, still around its own origin."""
        return self.body.postures[self.posture(time)]

    def attribute(self, time: float) -> str | None:
        """The nuScenes attribute that follows from its motion at a time; None for barriers and cones."""
        if self.body.with_rider is not None:
            return "cycle.with_rider" if self.body.with_rider else "cycle.without_rider"
        moving = float(np.hypot(*self.track.velocity(time))) > _MOVING_SPEED
        if self.body.kind == "pedestrian":
            return "pedestrian.moving" if moving else "pedestrian.standing"
        if self.body.kind in ("barrier", "traffic_cone"):
            return None
        if moving:
            return "vehicle.moving"
        return "vehicle.parked" if self.parked else "vehicle.stopped"


@dataclass(frozen=True)
class _Ground:
    """The rectangle that something needs: its poses at T instants (one for all time), half length, half width."""

    poses: Float64[Array, "T 3"]
    half: tuple[float, float]

    @property
    def bounds(self) -> Float64[Array, "4"]:
        """Least x and y, largest x and y that it ever reaches."""
        reach = np.hypot(*self.half)
        return np.concatenate([self.poses[:, :2].min(axis=0) - reach, self.poses[:, :2].max(axis=0) + reach])

    def meets(self, other: "_Ground", margin: float) -> bool:
        """Whether the two ever come nearer than a margin: separating axes of both, at each instant."""
        one, another = np.broadcast_arrays(self.poses, other.poses)
        x, y = another[:, 0] - one[:, 0], another[:, 1] - one[:, 1]
        half, other_half = np.add(self.half, margin), other.half
        near = x * x + y * y < (np.hypot(*half) + np.hypot(*other_half)) ** 2
        if not near.any():
            return False
        x, y, yaw, other_yaw = x[near], y[near], one[near, 2], another[near, 2]
        cos, sin = np.abs(np.cos(other_yaw - yaw)), np.abs(np.sin(other_yaw - yaw))
        apart = np.zeros(len(x), dtype=bool)
        for turn, mine, theirs in ((yaw, half, other_half), (other_yaw, other_half, half)):
            ahead, aside = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
            apart |= np.abs(ahead) > mine[0] + theirs[0] * cos + theirs[1] * sin
            apart |= np.abs(aside) > mine[1] + theirs[0] * sin + theirs[1] * cos
        return bool((~apart).any())


class Occupancy:
    """Rectangles on the ground over time. What would ever overlap one that is already there is turned away."""

    def __init__(self, duration: float) -> None:
        self._times = np.arange(-0.5, duration + 0.51, _STEP)
        self._taken: list[_Ground] = []
        self._bounds = np.zeros((256, 4))

    def claim(self, track: Track, half_size: tuple[float, float], margin: float = _MARGIN) -> bool:
        """Take the ground of a rectangle (half length, half width) on a track, if it is free all the time."""
        return self.claim_together([(track, half_size)], margin)

    def claim_together(self, tracks: Sequence[tuple[Track, tuple[float, float]]], margin: float = _MARGIN) -> bool:
        """Take the ground of all (they may be closer to one another than the margin) or of none."""
        wanted = [self._needed(track, half_size) for track, half_size in tracks]
        if any(self._is_taken(ground, margin) for ground in wanted):
            return False
        for ground in wanted:
            if len(self._taken) == len(self._bounds):
                self._bounds = np.concatenate([self._bounds, np.zeros_like(self._bounds)])
            self._bounds[len(self._taken)] = ground.bounds
            self._taken.append(ground)
        return True

    def _needed(self, track: Track, half_size: tuple[float, float]) -> _Ground:
        if not track.moves:
            return _Ground(track.poses[:1], half_size)
        poses = track.sampled(self._times)
        # What it drives between two instants belongs to it.
        step = float(np.hypot(*np.diff(poses[:, :2], axis=0).T).max())
        return _Ground(poses, (half_size[0] + 0.5 * step, half_size[1]))

    def _is_taken(self, ground: _Ground, margin: float) -> bool:
        bounds, (left, bottom, right, top) = self._bounds[: len(self._taken)], ground.bounds
        near = (bounds[:, 0] < right + margin) & (bounds[:, 2] > left - margin)
        near &= (bounds[:, 1] < top + margin) & (bounds[:, 3] > bottom - margin)
        return any(ground.meets(self._taken[i], margin) for i in near.nonzero()[0])


class Street:
    """The users of a scene while it is being filled."""

    def __init__(self, duration: float) -> None:
        self.occupancy = Occupancy(duration)
        self.users: list[RoadUser] = []

    def add(self, body: Body, track: Track, *, parked: bool = True, margin: float = _MARGIN) -> bool:
        """Put a body on a track unless something is there already; says whether it was put."""
        return self.add_together([(body, track)], parked=parked, margin=margin)

    def add_together(
        self, bodies: Sequence[tuple[Body, Track]], *, parked: bool = True, margin: float = _MARGIN
    ) -> bool:
        """Put bodies that belong together (a truck and its trailer), all or none."""
        grounds = [(track, (body.size_wlh[1] / 2, body.size_wlh[0] / 2)) for body, track in bodies]
        if not self.occupancy.claim_together(grounds, margin):
            return False
        for body, track in bodies:
            self.users.append(RoadUser(len(self.users), body, track, parked))
        return True

    def claim_for_ego(self, track: Track) -> None:
        """Take the ground that the ego vehicle needs; `track` is its rear axle's."""
        poses = track.poses.copy()
        poses[:, 0] += EGO_CENTRE * np.cos(poses[:, 2])
        poses[:, 1] += EGO_CENTRE * np.sin(poses[:, 2])
        self.occupancy.claim(Track(track.times, poses, 0.0), (EGO_HALF[0] + 0.8, EGO_HALF[1] + 0.3))
