"""What hides from a radar: walls take all of an echo, road users only some, for waves pass underneath and around."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from datasets.arrays import Array
from datasets.compiled import compiled
from datasets.synthetic.rays import BACKGROUND, Target
from datasets.synthetic.scenery.materials import Material

# Two-way loss (dB) through leaves and through walls.
_FOLIAGE, OPAQUE = 6.0, 60.0
# A ray this short of its target (metres) has arrived: centres lie on surfaces.
ARRIVED = 0.6
# What is passed is at least this deep (metres): a second ray starts behind it.
_BEHIND = 3.0
# What stands on a sidewalk is not hidden by its curb.
_LOWEST = 0.4


@dataclass(frozen=True)
class Obstacles:
    """M boxes that stand on the ground: x, y, yaw of their middle (world), half length, half width and height.

    `numbers` are those of the road users, `losses` what each takes (dB, two ways) from what lies behind it.
    """

    poses: Float64[Array, "M 3"]
    sizes: Float64[Array, "M 3"]
    numbers: Int64[Array, "M"]
    losses: Float64[Array, "M"]

    def lost(
        self, starts: Float64[Array, "N 3"], ends: Float64[Array, "N 3"], owners: Int64[Array, "N"]
    ) -> Float64[Array, "N"]:
        """The sum of the losses (dB) on each straight way; nobody hides itself (`owners` are the ends' own numbers)."""
        lost: Float64[Array, N] = _lost(starts, ends, owners, self.poses, self.sizes, self.numbers, self.losses)
        return lost


@dataclass(frozen=True)
class Scenery:
    """What the waves travel through: the world without what moves, what moves as boxes, and rain (mm/h).

    `through_loss` is what each road user takes (dB, two ways) from what lies behind it.
    """

    still: Target
    moving: Obstacles
    through_loss: Float64[Array, "U"]
    rain_rate: float

    def hidden(
        self, origin: Float64[Array, "3"], places: Float64[Array, "N 3"], owners: Int64[Array, "N"]
    ) -> Float64[Array, "N"]:
        """Two-way loss in dB by what stands on the way to each place; `owners` are the numbers of whose it is."""
        ends = places.copy()
        ends[:, 2] = np.maximum(ends[:, 2], _LOWEST)
        starts = np.broadcast_to(origin, ends.shape).copy()
        # By owner, the background last: that is where the owner -1 looks.
        by_owner = np.append(self.through_loss, OPAQUE)
        loss, left = np.zeros(len(ends)), np.arange(len(ends))
        for _ in range(2):
            offsets = ends[left] - starts[left]
            distances = np.sqrt(np.einsum("ij,ij->i", offsets, offsets))
            rays = np.empty((len(left), 6), np.float32)
            rays[:, :3], rays[:, 3:] = starts[left], offsets / np.maximum(distances, 1e-6)[:, None]
            met, triangles = self.still.first(rays)
            met_owners, materials = self.still.surfaces.owners[triangles], self.still.surfaces.materials[triangles]
            own = (met_owners == owners[left]) & (met_owners != BACKGROUND)
            blocked = (met < distances - ARRIVED) & ~own
            leaves = (materials == Material.LEAVES) | (materials == Material.LEAVES_DARK)
            taken = np.where(leaves, _FOLIAGE, by_owner[met_owners])
            loss[left] += np.where(blocked, taken, 0.0)
            # Behind what was passed something else may stand.
            passed = met + _BEHIND
            again = blocked & (taken < OPAQUE) & (passed < distances)
            starts[left[again]] += rays[again, 3:].astype(np.float64) * passed[again, None]
            left = left[again]
            if not len(left):
                break
        return loss


@compiled
def _lost(starts, ends, owners, poses, sizes, numbers, losses):  # type: ignore[no-untyped-def]
    lost = np.zeros(len(ends))
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    for i in range(len(ends)):
        for j in range(len(poses)):
            if numbers[j] == owners[i]:
                continue
            # The way in the box's own axes, from share 0 to share 1; then slab by slab.
            dx, dy = starts[i, 0] - poses[j, 0], starts[i, 1] - poses[j, 1]
            wx, wy = ends[i, 0] - starts[i, 0], ends[i, 1] - starts[i, 1]
            first, last = 0.0, 1.0
            for axis in range(2):
                if axis == 0:
                    at, way = cos[j] * dx + sin[j] * dy, cos[j] * wx + sin[j] * wy
                else:
                    at, way = cos[j] * dy - sin[j] * dx, cos[j] * wy - sin[j] * wx
                half = sizes[j, axis]
                if abs(way) < 1e-9:
                    if abs(at) > half:
                        last = -1.0
                else:
                    enter, leave = (-half - at) / way, (half - at) / way
                    first, last = max(first, min(enter, leave)), min(last, max(enter, leave))
            if first < last:
                middle = 0.5 * (first + last)
                if starts[i, 2] + middle * (ends[i, 2] - starts[i, 2]) < sizes[j, 2]:
                    lost[i] += losses[j]
    return lost
