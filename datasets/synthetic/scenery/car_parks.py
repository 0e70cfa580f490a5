"""Car parks beside the main road: rows of bays with lanes between them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array

BAY_WIDTH, BAY_DEPTH, AISLE = 2.6, 5.1, 6.2


@dataclass(frozen=True)
class CarPark:
    """A paved rectangle: `x`, `y` is the middle of its edge along the road; `yaw` runs along that edge, the park to the
    left of it. Bays are turned by `slant` (radians) from a right angle to the rows."""

    x: float
    y: float
    yaw: float
    length: float
    rows: int
    slant: float

    @property
    def _row_middles(self) -> list[float]:
        """How far each row's middle is from the road: a row, a lane, then rows in pairs with a lane between pairs."""
        middles, depth = [], 0.0
        for row in range(self.rows):
            middles.append(depth + BAY_DEPTH / 2)
            depth += BAY_DEPTH + (AISLE if row % 2 == 0 else 0.0)
        return middles

    @property
    def depth(self) -> float:
        """From the edge along the road to the far edge, metres."""
        return self._row_middles[-1] + BAY_DEPTH / 2 + (AISLE if self.rows % 2 else 0.0)

    def outline(self) -> Float64[Array, "4 2"]:
        """Its corners in world x, y."""
        half, depth = self.length / 2, self.depth
        return self._placed(np.array([[-half, 0.0], [half, 0.0], [half, depth], [-half, depth]]))

    def place(self, along: float, away: float) -> tuple[float, float]:
        """World x, y of a place so far along the edge (from its middle) and away from the road."""
        x, y = self._placed(np.array([[along, away]]))[0]
        return float(x), float(y)

    def bays(self) -> list[list[tuple[float, float, float]]]:
        """For each row, nearest to the road first: x, y and the heading out of each bay towards its lane."""
        pitch = BAY_WIDTH / np.cos(self.slant)
        count = int((self.length - 2.0) / pitch)
        along = (np.arange(count) - (count - 1) / 2) * pitch
        rows = []
        for number, middle in enumerate(self._row_middles):
            # Rows 0, 2, ... have their lane on the far side, the others on the near side.
            heading = self.yaw + (np.pi / 2 if number % 2 == 0 else -np.pi / 2) + self.slant
            places = self._placed(np.column_stack([along, np.full(count, middle)]))
            rows.append([(float(x), float(y), float(heading)) for x, y in places])
        return rows

    def lines(self) -> list[Float64[Array, "4 2"]]:
        """The corners of the white line on each side of each bay."""
        found = []
        for row in self.bays():
            for x, y, heading in row:
                out, side = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
                middle = np.array([x, y]) + side * BAY_WIDTH / 2
                reach = out * (BAY_DEPTH / 2 - 0.2)
                found.append(middle + np.array([reach + 0.06 * side, reach - 0.06 * side,
                                                -reach - 0.06 * side, -reach + 0.06 * side]))  # fmt: skip
        return found

    def _placed(self, local: Float64[Array, "N 2"]) -> Float64[Array, "N 2"]:
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.asarray(local @ np.array([[cos, sin], [-sin, cos]]) + np.array([self.x, self.y]))
