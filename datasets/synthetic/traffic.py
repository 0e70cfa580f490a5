"""Road users: who stands and drives where, so that nobody ever overlaps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from datasets.synthetic.arrays import Array
from datasets.synthetic.bodies import CATEGORY_OF_KIND, Body, Kind
from datasets.synthetic.motion import Track

# Centre of the ego vehicle's body before its rear axle, and its half length and half width, metres.
EGO_CENTRE, EGO_HALF = 1.35, (2.1, 0.9)
_MARGIN = 0.15
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
        return CATEGORY_OF_KIND[self.body.kind]

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


class Occupancy:
    """Rectangles on the ground over time. What would ever overlap one that is already there is turned away."""

    def __init__(self, duration: float) -> None:
        self._times = np.arange(-0.5, duration + 0.51, 0.25)
        self._poses: list[Float64[Array, "T 3"]] = []
        self._halves: list[tuple[float, float]] = []

    def claim(self, track: Track, half_size: tuple[float, float], margin: float = _MARGIN) -> bool:
        """Take the ground of a rectangle (half length, half width) on a track, if it is free all the time."""
        poses = track.sampled(self._times)
        half = (half_size[0] + margin, half_size[1] + margin)
        if self._poses and _overlap(poses, half, np.stack(self._poses), np.array(self._halves)):
            return False
        self._poses.append(poses)
        self._halves.append(half_size)
        return True


def _overlap(
    poses: Float64[Array, "T 3"],
    half: tuple[float, float],
    other_poses: Float64[Array, "N T 3"],
    other_halves: Float64[Array, "N 2"],
) -> bool:
    """Whether one rectangle ever meets any of N others: separating axes of both, at each of T instants."""
    between = other_poses[..., :2] - poses[None, :, :2]
    reach = np.hypot(*half) + np.hypot(other_halves[:, 0], other_halves[:, 1])
    near = (np.linalg.norm(between, axis=2) < reach[:, None]).nonzero()
    offset, own, other = between[near], poses[near[1], 2], other_poses[near][:, 2]
    other_half = other_halves[near[0]]
    cos, sin = np.abs(np.cos(other - own)), np.abs(np.sin(other - own))
    apart = np.zeros(len(own), dtype=bool)
    for yaw, mine, theirs in ((own, np.array(half), other_half), (other, other_half, np.array(half))):
        mine, theirs = np.broadcast_to(mine, (len(own), 2)), np.broadcast_to(theirs, (len(own), 2))
        ahead = np.abs(offset[:, 0] * np.cos(yaw) + offset[:, 1] * np.sin(yaw))
        aside = np.abs(offset[:, 1] * np.cos(yaw) - offset[:, 0] * np.sin(yaw))
        apart |= ahead > mine[:, 0] + theirs[:, 0] * cos + theirs[:, 1] * sin
        apart |= aside > mine[:, 1] + theirs[:, 0] * sin + theirs[:, 1] * cos
    return bool((~apart).any())


class Street:
    """The users of a scene while it is being filled."""

    def __init__(self, duration: float) -> None:
        self.occupancy = Occupancy(duration)
        self.users: list[RoadUser] = []

    def add(self, body: Body, track: Track, *, parked: bool = True, margin: float = _MARGIN) -> bool:
        """Put a body on a track unless something is there already; says whether it was put."""
        width, length, _ = body.size_wlh
        if not self.occupancy.claim(track, (length / 2, width / 2), margin):
            return False
        self.users.append(RoadUser(len(self.users), body, track, parked))
        return True


def draw_vehicle_kind(rng: np.random.Generator) -> Kind:
    """What drives in a lane."""
    kinds: tuple[Kind, ...] = ("car", "truck", "bus", "motorcycle")
    return kinds[int(rng.choice(len(kinds), p=(0.74, 0.14, 0.05, 0.07)))]
