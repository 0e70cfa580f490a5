"""The BEV grid: which patch of ground a cell of a BEV tensor stands for."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class BevGrid:
    """A rectangle of the ego frame's x-y plane in square cells (metres). BEV tensors on it are (B, C, Y, X).

    Cell (row 0, column 0) has its corner at (x_range[0], y_range[0]); columns run along x, rows along y.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    cell_size: float

    def __post_init__(self) -> None:
        for name, (low, high) in (("x_range", self.x_range), ("y_range", self.y_range)):
            cells = (high - low) / self.cell_size if self.cell_size > 0 else 0.0
            if cells < 1 or abs(cells - round(cells)) > 1e-6:
                raise ValueError(f"{name} {low}..{high} m is not a whole number of cells of {self.cell_size} m")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (Y) and columns (X)."""
        rows = round((self.y_range[1] - self.y_range[0]) / self.cell_size)
        columns = round((self.x_range[1] - self.x_range[0]) / self.cell_size)
        return rows, columns

    def scaled(self, factor: float) -> "BevGrid":
        """The same rectangle in cells `factor` times as large (0.5: twice as many each way)."""
        return BevGrid(self.x_range, self.y_range, self.cell_size * factor)

    def centers(self) -> Float[Tensor, "Y X 2"]:
        """The (x, y) of each cell's middle, metres, float32."""
        rows, columns = self.shape
        x = self.x_range[0] + (torch.arange(columns) + 0.5) * self.cell_size
        y = self.y_range[0] + (torch.arange(rows) + 0.5) * self.cell_size
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([grid_x, grid_y], dim=-1)

    def cells(self, points_xy: Float[Tensor, "P 2"]) -> Float[Tensor, "P 2"]:
        """Ground points (P, 2; x, y in ego, metres) as fractional (column, row); cell (0, 0): middle (0.5, 0.5)."""
        origin = points_xy.new_tensor([self.x_range[0], self.y_range[0]])
        return (points_xy - origin) / self.cell_size
