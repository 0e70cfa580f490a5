"""What reflects a radar: places on the background's surfaces and on road users, each with the directions it serves.

An extended object is a set of scattering centres (Buddendick and Eibert, "Bistatic scattering center models for the
simulation of wave propagation in automotive radar systems", 2010): what a radar sees of a vehicle follows from the few
that face it, so cross-section depends on class, aspect and distance without a table of angles.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from datasets.arrays import Array
from datasets.synthetic.radar.shadows import Obstacles, Scenery
from datasets.synthetic.radar.unit import FAR, HOPE, NEAR
from datasets.synthetic.rays import BACKGROUND, Target
from datasets.synthetic.scenery.bodies import RADAR_LOOKS, Body, RadarLook
from datasets.synthetic.scenery.materials import FACADES, Material
from datasets.synthetic.scenery.meshes import Mesh
from datasets.synthetic.world import World

# Above this (metres) the antenna's beam sees nothing that matters.
_TOP = 6.0
_FLASH_HALF_WIDTH, _OUTLINE_HALF_WIDTH = np.radians(14.0), np.radians(55.0)
# Between scattering centres along a vehicle's faces, metres, and the spread of their cross-sections, dB.
_FLASH_SPACING, _OUTLINE_SPACING, _SPREAD = 2.0, 1.5, 3.0
_POSE_STEP, _STANDS = 0.02, 0.3
_UNDER, _AROUND, _SMALL = 14.0, 5.0, 2.5
# Sides of vehicles at least this high (metres) mirror like walls.
_MIRROR_HEIGHT = 1.2
# Side of the squares (metres) from which sight is found out; a cross-section (dBsm) that nothing makes good.
_SQUARE, _HOPELESS = 3.0, -10.0
_SIGHT_HEIGHT = 0.6


@dataclass(frozen=True)
class _Surface:
    """Scattering centres for each square metre, and of each its mean cross-section (dBsm), spread (dB), half width."""

    density: float
    rcs: float
    spread: float
    half_width: float


_DIFFUSE = np.radians(70.0)
# Rough walls scatter everywhere a little and from their window frames and ledges a lot; metal posts are strong for
# their size; leaves and curbs are weak (roadside objects at 95 GHz: Narayanan et al., Int. J. Infrared and Millimeter
# Waves 18, 1997). Densities and levels are set against real keyframes.
_FACADE = _Surface(0.28, 4.0, 7.5, _DIFFUSE)
_SURFACES: dict[Material, _Surface] = {
    **dict.fromkeys(FACADES, _FACADE),
    Material.METAL: _Surface(3.0, 5.0, 6.0, _DIFFUSE),
    Material.BARK: _Surface(2.5, 1.0, 5.0, _DIFFUSE),
    Material.LEAVES: _Surface(0.5, -4.0, 5.0, _DIFFUSE),
    Material.LEAVES_DARK: _Surface(0.5, -4.0, 5.0, _DIFFUSE),
    Material.PLASTIC: _Surface(0.4, 3.0, 6.0, _DIFFUSE),
    Material.SAFETY_WHITE: _Surface(4.0, 9.0, 5.0, np.radians(20.0)),
    Material.CURB: _Surface(3.0, -4.0, 5.0, np.radians(45.0)),
}


@dataclass(frozen=True)
class Reflectors:
    """Scattering centres in world coordinates.

    `facing` is the azimuth (radians) of the middle of the lobe over which a centre reflects; its cross-section `rcs`
    (dBsm) is 3 dB less `half_width` away from there. `two_sided` ones reflect to the opposite side alike. `owners` are
    road users' numbers or BACKGROUND; `moves` says what is part of something that moves; `flat` ones lie on something
    that a radar sees itself and others mirrored in.
    """

    places: Float64[Array, "N 3"]
    velocities: Float64[Array, "N 2"]
    facing: Float64[Array, "N"]
    half_width: Float64[Array, "N"]
    rcs: Float64[Array, "N"]
    two_sided: Bool[Array, "N"]
    flat: Bool[Array, "N"]
    moves: Bool[Array, "N"]
    owners: Int64[Array, "N"]

    def __getitem__(self, chosen: Bool[Array, "N"] | Int64[Array, "K"]) -> "Reflectors":
        return Reflectors(
            places=self.places[chosen],
            velocities=self.velocities[chosen],
            facing=self.facing[chosen],
            half_width=self.half_width[chosen],
            rcs=self.rcs[chosen],
            two_sided=self.two_sided[chosen],
            flat=self.flat[chosen],
            moves=self.moves[chosen],
            owners=self.owners[chosen],
        )

    def towards(self, place: Float64[Array, "2"]) -> Float64[Array, "N"]:
        """Cross-section (dBsm) of each centre for a radar at this place."""
        direction = np.arctan2(place[1] - self.places[:, 1], place[0] - self.places[:, 0])
        period = np.where(self.two_sided, np.pi, 2 * np.pi)
        off = np.abs((direction - self.facing + period / 2) % period - period / 2)
        lobe: Float64[Array, N] = self.rcs - np.minimum(3.0 * (off / self.half_width) ** 2, 30.0)
        return lobe


def body_reflectors(body: Body, rng: np.random.Generator) -> Reflectors:
    """Of one object, in its own frame (along x, standing on z = 0)."""
    width, length, height = body.size_wlh
    look = RADAR_LOOKS[body.kind]
    rows = [*_flashes(length, width, look), *_outline(length, width, look)]
    table = np.array(rows, np.float64)
    count = len(table)
    heights = np.full(count, min(0.4 * height, 1.0))
    none = np.zeros(count, bool)
    return Reflectors(
        places=np.column_stack([table[:, :2], heights]),
        velocities=np.zeros((count, 2)),
        facing=table[:, 2],
        half_width=table[:, 3],
        rcs=table[:, 4] + rng.normal(0.0, _SPREAD, count),
        two_sided=none,
        flat=(table[:, 3] <= _FLASH_HALF_WIDTH) & (height > _MIRROR_HEIGHT),
        moves=none,
        owners=np.zeros(count, np.int64),
    )


# A scattering centre while a body is put together: x, y, facing, half width, RCS.
_Row = tuple[float, float, float, float, float]


def _flashes(length: float, width: float, look: RadarLook) -> list[_Row]:
    rows: list[_Row] = []
    for facing, rcs, away, along in (
        (0.0, look.front, length, width),
        (np.pi, look.rear, length, width),
        (np.pi / 2, look.side, width, length),
        (-np.pi / 2, look.side, width, length),
    ):
        count = max(1, round(along / _FLASH_SPACING))
        half_width = _FLASH_HALF_WIDTH if along > 1.0 else _OUTLINE_HALF_WIDTH
        for offset in (np.arange(count) + 0.5) / count * along - along / 2:
            normal = np.array([np.cos(facing), np.sin(facing)])
            x, y = (away / 2 - 0.1) * normal + offset * np.array([-normal[1], normal[0]])
            rows.append((float(x), float(y), facing, half_width, rcs))
    return rows


def _outline(length: float, width: float, look: RadarLook) -> list[_Row]:
    """Corners and, on long sides, wheel housings."""
    if max(length, width) < 1.0:
        return [(0.0, 0.0, facing, _OUTLINE_HALF_WIDTH, look.outline) for facing in (0.8, 2.4, -0.8, -2.4)]
    rows: list[_Row] = []
    for side in (-1, 1):
        for end in (-1, 1):
            place = (end * (length / 2 - 0.2), side * (width / 2 - 0.15))
            rows.append((*place, float(np.arctan2(side, end)), _OUTLINE_HALF_WIDTH, look.outline))
        for x in np.arange(_OUTLINE_SPACING - length / 2, length / 2 - 0.5 * _OUTLINE_SPACING, _OUTLINE_SPACING):
            rows.append((float(x), side * (width / 2 - 0.15), side * np.pi / 2, _OUTLINE_HALF_WIDTH, look.outline))
    return rows


def background_reflectors(mesh: Mesh, rng: np.random.Generator) -> Reflectors:
    """Of the upright surfaces of a mesh, as many as its materials ask for."""
    corners = mesh.vertices.astype(np.float64)[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = 0.5 * np.linalg.norm(normals, axis=1)
    table = np.zeros((len(Material), 4))
    for material, surface in _SURFACES.items():
        table[material] = (surface.density, surface.rcs, surface.spread, surface.half_width)
    upright = np.abs(normals[:, 2]) < 0.8 * 2.0 * areas
    counts = rng.poisson(areas * upright * table[mesh.materials, 0])
    triangle = np.repeat(np.arange(len(counts)), counts)
    weights = rng.dirichlet([1.0, 1.0, 1.0], len(triangle))
    places = np.einsum("ki,kij->kj", weights, corners[triangle])
    low = places[:, 2] < _TOP
    triangle, places = triangle[low], places[low]
    material = mesh.materials[triangle]
    count = len(triangle)
    return Reflectors(
        places=places,
        velocities=np.zeros((count, 2)),
        facing=np.arctan2(normals[triangle, 1], normals[triangle, 0]),
        half_width=table[material, 3],
        rcs=table[material, 1] + table[material, 2] * rng.normal(0.0, 1.0, count),
        two_sided=np.ones(count, bool),
        flat=np.isin(material, FACADES),
        moves=np.zeros(count, bool),
        owners=np.full(count, BACKGROUND, np.int64),
    )


class ReflectorMap:
    """All scattering centres of a world: those that stand are placed once, those that move for each instant.

    `still` are the surfaces of what stands. What they hide of one another is found out once for each square of the
    ground that a radar comes to, from the square's middle: a radar measures there a hundred times.
    """

    def __init__(self, world: World, still: Target, seed: list[int]) -> None:
        self.still = still
        self._in_sight: dict[tuple[int, int], Reflectors] = {}
        own = [(user, body_reflectors(user.body, np.random.default_rng([*seed, user.number]))) for user in world.users]
        resting = [_placed(body, np.array([[*user.track.at(0.0)]]), user.number) for user, body in own
                   if not user.track.moves]  # fmt: skip
        background = background_reflectors(world.background, np.random.default_rng(seed))
        self._still = _joined([background, *resting])
        self._movers = [(user, body) for user, body in own if user.track.moves]
        drive = world.drive.track.times
        self._start = float(drive[0])
        times = np.arange(self._start, float(drive[-1]) + _POSE_STEP, _POSE_STEP)
        self._poses = np.array([user.track.sampled(times) for user, _ in self._movers]).reshape(-1, len(times), 3)
        bodies = [body for _, body in self._movers]
        self._user = np.repeat(np.arange(len(bodies)), [len(body.rcs) for body in bodies])
        self._bodies = _joined(bodies) if bodies else None
        self._numbers = np.array([user.number for user, _ in self._movers], np.int64)
        sizes = [
            (user.body.size_wlh[1] / 2, user.body.size_wlh[0] / 2, user.body.size_wlh[2]) for user, _ in self._movers
        ]
        self._sizes = np.array(sizes, np.float64).reshape(-1, 3)
        self.through_loss = np.array([_through_loss(user.body) for user in world.users], np.float64)

    def at(self, time: float, origin: Float64[Array, "3"]) -> Reflectors:
        """Those that a radar at this place may see, where they are at a time and how fast they move over ground.

        The `rcs` of those that stand is less by what hides them.
        """
        square = (math.floor(origin[0] / _SQUARE), math.floor(origin[1] / _SQUARE))
        if square not in self._in_sight:
            self._in_sight[square] = self._seen_from(square)
        if self._bodies is None:
            return self._in_sight[square]
        poses, rates = self._motion(time)
        owners = self._numbers[self._user]
        moving = _moved(self._bodies, poses[self._user], rates[self._user], owners, True)
        return _joined([self._in_sight[square], moving])

    def _seen_from(self, square: tuple[int, int]) -> Reflectors:
        scenery = Scenery(self.still, self.obstacles(0.0), self.through_loss, 0.0)
        # At one height for all radars: which of them comes first must not matter.
        origin = np.array([*((np.array(square) + 0.5) * _SQUARE), _SIGHT_HEIGHT])
        ranges = np.hypot(*(self._still.places[:, :2] - origin[:2]).T) - _SQUARE
        ahead = np.zeros(len(ranges))
        needed = np.minimum(NEAR.faintest_at(ranges, ahead), FAR.faintest_at(ranges, ahead)) - HOPE
        near = self._still[self._still.rcs > np.maximum(needed, _HOPELESS)]
        seen = replace(near, rcs=near.rcs - scenery.hidden(origin, near.places, near.owners))
        return seen[seen.rcs > _HOPELESS]

    def obstacles(self, time: float) -> Obstacles:
        """What moves, as boxes, where it is at a time."""
        return Obstacles(self._motion(time)[0], self._sizes, self._numbers, self.through_loss[self._numbers])

    def standing(self, time: float) -> Bool[Array, "U"]:
        """Which road users stand in traffic at a time; parked ones do not count."""
        standing = np.zeros(len(self.through_loss), bool)
        standing[self._numbers] = np.hypot(*self._motion(time)[1][:, :2].T) < _STANDS
        return standing

    def _motion(self, time: float) -> tuple[Float64[Array, "M 3"], Float64[Array, "M 3"]]:
        """x, y, yaw of those that move, and their rates of change."""
        step = min(max((time - self._start) / _POSE_STEP, 0.0), self._poses.shape[1] - 1.001)
        below = int(step)
        before, after = self._poses[:, below], self._poses[:, below + 1]
        return before + (step - below) * (after - before), (after - before) / _POSE_STEP


def _through_loss(body: Body) -> float:
    """What an object takes (dB, two ways) from what lies behind it: waves pass under vehicles, around small things."""
    return _UNDER if body.size_wlh[1] > _SMALL else _AROUND


def _moved(
    body: Reflectors, poses: Float64[Array, "N 3"], rates: Float64[Array, "N 3"], owners: Int64[Array, "N"], moves: bool
) -> Reflectors:
    """Centres of bodies, each put at its x, y, yaw, with the velocity that follows from how these change."""
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    x, y = cos * body.places[:, 0] - sin * body.places[:, 1], sin * body.places[:, 0] + cos * body.places[:, 1]
    return Reflectors(
        places=np.column_stack([x + poses[:, 0], y + poses[:, 1], body.places[:, 2]]),
        velocities=np.column_stack([rates[:, 0] - rates[:, 2] * y, rates[:, 1] + rates[:, 2] * x]),
        facing=body.facing + poses[:, 2],
        half_width=body.half_width,
        rcs=body.rcs,
        two_sided=body.two_sided,
        flat=body.flat,
        moves=np.full(len(body.rcs), moves),
        owners=owners,
    )


def _placed(body: Reflectors, pose: Float64[Array, "1 3"], number: int) -> Reflectors:
    count = len(body.rcs)
    return _moved(body, np.repeat(pose, count, axis=0), np.zeros((count, 3)), np.full(count, number, np.int64), False)


def _joined(parts: list[Reflectors]) -> Reflectors:
    return Reflectors(
        places=np.concatenate([part.places for part in parts]),
        velocities=np.concatenate([part.velocities for part in parts]),
        facing=np.concatenate([part.facing for part in parts]),
        half_width=np.concatenate([part.half_width for part in parts]),
        rcs=np.concatenate([part.rcs for part in parts]),
        two_sided=np.concatenate([part.two_sided for part in parts]),
        flat=np.concatenate([part.flat for part in parts]),
        moves=np.concatenate([part.moves for part in parts]),
        owners=np.concatenate([part.owners for part in parts]),
    )
