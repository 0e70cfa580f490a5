"""Fusion over time: the fused BEVs of the frames before, moved to where the vehicle is now, beside the present one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from perception.bev_neck import BevNeck, BevNeckConfig, CellLinear
from perception.grid import BevGrid

# Places between cells are told apart to this fraction of a cell (0.2 mm of 0.8 m). Poses in global have last bits of
# their own: without it a vehicle that stands would see its memory interpolated.
_STEPS = 4096


@dataclass(frozen=True)
class TemporalConfig:
    """How many frames before the present one are remembered, and when one follows another.

    A frame follows another of its scene that is at most `max_gap` seconds older, and from which the vehicle came at
    `max_speed` (m/s) or less: beyond that its pose has jumped. Without that, neither this nor any older frame counts.
    `neck`: the convolutions that look at all frames together; it must reach as far as objects move.
    """

    earlier_frames: int = 1
    max_gap: float = 1.2
    """nuScenes' keyframes are 0.5 s apart: one of them may be missing."""
    max_speed: float = 60.0
    neck: BevNeckConfig = field(default_factory=lambda: BevNeckConfig((32, 32, 32), (1, 1, 1)))

    def __post_init__(self) -> None:
        if not 1 <= self.earlier_frames <= 4:
            raise ValueError(f"earlier_frames must lie between 1 and 4, not {self.earlier_frames}")
        if not (self.max_gap > 0 and self.max_speed > 0):
            raise ValueError("max_gap and max_speed must be positive")


@dataclass(frozen=True)
class FrameBevs:
    """The fused BEV of each of B frames, with when and where it was.

    sensed: whether the frame had a camera, LiDAR or radar at all; a BEV that was made of nothing is not remembered.
    """

    bev: Float[Tensor, "B C Y X"]
    sensed: Bool[Tensor, "B"]
    scene_names: tuple[str, ...]
    timestamps_us: Int64[Tensor, "B"]
    global_from_ego: Float64[Tensor, "B 4 4"]

    def __len__(self) -> int:
        return len(self.scene_names)

    def rows(self, indices: Sequence[int]) -> "FrameBevs":
        """Some of these frames."""
        chosen = torch.tensor(list(indices), dtype=torch.int64, device=self.bev.device)
        return FrameBevs(
            bev=self.bev[chosen],
            sensed=self.sensed[chosen],
            scene_names=tuple(self.scene_names[index] for index in indices),
            timestamps_us=self.timestamps_us[chosen],
            global_from_ego=self.global_from_ego[chosen],
        )

    def followed_by(self, later: "FrameBevs") -> "FrameBevs":
        """These frames, then those."""
        return FrameBevs(
            bev=torch.cat([self.bev, later.bev]),
            sensed=torch.cat([self.sensed, later.sensed]),
            scene_names=self.scene_names + later.scene_names,
            timestamps_us=torch.cat([self.timestamps_us, later.timestamps_us]),
            global_from_ego=torch.cat([self.global_from_ego, later.global_from_ego]),
        )

    def detached(self) -> "FrameBevs":
        """The same frames, through which no gradient runs."""
        return replace(self, bev=self.bev.detach())


def along_stream(history: FrameBevs, count: int, earlier_frames: int) -> list[FrameBevs]:
    """For the last `count` frames of a stream (in recorded order): those one frame before each, two frames before ...

    Before the first frame stands that frame itself; from one to the other no time passes, so it is not followed.
    """
    last = range(len(history) - count, len(history))
    return [history.rows([max(row - back, 0) for row in last]) for back in range(1, earlier_frames + 1)]


def follows(config: TemporalConfig, later: FrameBevs, earlier: FrameBevs) -> Bool[Tensor, "B"]:
    """Frame by frame, whether `later` is the same drive as `earlier`, a little later; see TemporalConfig."""
    seconds = _seconds(later, earlier)
    moved = (later.global_from_ego[:, :3, 3] - earlier.global_from_ego[:, :3, 3]).norm(dim=1)
    same_scene = [one == other for one, other in zip(later.scene_names, earlier.scene_names, strict=True)]
    poses_finite = (later.global_from_ego.isfinite() & earlier.global_from_ego.isfinite()).all(dim=2).all(dim=1)
    result: Tensor = (
        torch.tensor(same_scene, device=seconds.device)
        & (seconds > 0)
        & (seconds <= config.max_gap)
        & (moved <= config.max_speed * seconds)
        & poses_finite
    )
    return result


def _seconds(later: FrameBevs, earlier: FrameBevs) -> Float64[Tensor, "B"]:
    return (later.timestamps_us - earlier.timestamps_us).double() * 1e-6


def warped(
    bev: Float[Tensor, "B C Y X"], earlier_from_now: Float64[Tensor, "B 4 4"], grid: BevGrid
) -> tuple[Float[Tensor, "B C Y X"], Bool[Tensor, "B Y X"]]:
    """What a BEV of earlier shows at each cell of now (bilinear), and where it shows anything; zeros elsewhere.

    A cell is known where all cells that it is interpolated from are on the grid. The ground is taken to be flat: what
    a BEV has no height for cannot tilt. Turns by 90 degrees and shifts by whole cells are exact, to the bit.
    """
    rows, columns = grid.shape
    batch, channels = bev.shape[:2]
    centers = grid.centers().view(-1, 2).to(earlier_from_now)
    places = centers @ earlier_from_now[:, :2, :2].transpose(1, 2) + earlier_from_now[:, None, :2, 3]
    places = (grid.cells(places.flatten(0, 1)).view(batch, -1, 2) - 0.5).mul(_STEPS).round().div(_STEPS)
    column, row = places.unbind(-1)
    known = (column >= 0) & (column <= columns - 1) & (row >= 0) & (row <= rows - 1)
    column, row = torch.where(known, column, 0.0), torch.where(known, row, 0.0)
    low_column, low_row = column.floor().long(), row.floor().long()
    right, down = (column - low_column).to(bev.dtype), (row - low_row).to(bev.dtype)
    cells = bev.permute(0, 2, 3, 1).reshape(-1, channels)  # channels last, as everywhere
    samples = torch.arange(batch, device=bev.device)[:, None] * (rows * columns)
    found = cells.new_zeros(batch * rows * columns, channels)
    for row_step, column_step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at_row, at_column = (low_row + row_step).clamp(max=rows - 1), (low_column + column_step).clamp(max=columns - 1)
        weight = (down if row_step else 1 - down) * (right if column_step else 1 - right)
        corner = cells.index_select(0, (samples + at_row * columns + at_column).flatten())
        found = found + weight.flatten()[:, None] * corner
    found = torch.where(known.flatten()[:, None], found, 0.0).view(batch, rows, columns, channels)
    return found.permute(0, 3, 1, 2), known.view(batch, rows, columns)


class TemporalFusion(nn.Module):
    """The BEV of now with what earlier ones say, cell by cell: `bev + update(bev, warped BEVs, masks, ages)`.

    Aligned BEVs side by side, then convolutions, as BEVDet4D (Huang and Huang 2022) and SOLOFusion (Park et al. 2023)
    have it. Each earlier frame comes with two planes: where it is known, and its age in seconds there. At a cell of
    which nothing earlier is known the present BEV stands as it is, to the bit.

    What is remembered of a frame is its own BEV, before this fusion. So a frame depends on the few before it and on no
    older one: clips in training and a stream on the road give the same.
    """

    def __init__(self, config: TemporalConfig, grid: BevGrid, channels: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.neck = BevNeck(config.neck, channels + config.earlier_frames * (channels + 2), channels)
        self.update = CellLinear(channels, channels)

    def forward(self, now: FrameBevs, earlier: Sequence[FrameBevs]) -> Float[Tensor, "B C Y X"]:
        """The BEV of each frame. `earlier`: one frame before, two before ...; those that are not there do not count,
        and neither do more than the config says.
        """
        bev = now.bev
        slots = self._slots(now, earlier[: self.config.earlier_frames])
        known_anywhere = torch.zeros_like(bev[:, 0], dtype=torch.bool)
        planes = [bev.permute(0, 2, 3, 1)]
        for moved, known, seconds in slots:
            known_anywhere = known_anywhere | known
            age = known * seconds[:, None, None]
            planes += [moved.permute(0, 2, 3, 1), torch.stack([known.to(bev.dtype), age.to(bev.dtype)], dim=-1)]
        if not known_anywhere.any():
            return bev
        missing = self.config.earlier_frames - len(slots)
        planes.append(planes[0].new_zeros(*planes[0].shape[:3], missing * (bev.shape[1] + 2)))
        update: Tensor = self.update(self.neck(torch.cat(planes, dim=-1).permute(0, 3, 1, 2)))
        return torch.where(known_anywhere[:, None], bev + update, bev)

    def _slots(self, now: FrameBevs, earlier: Sequence[FrameBevs]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each earlier frame: its BEV seen from now (zeros where not known), where it is known, and its age."""
        slots = []
        later, usable = now, torch.ones_like(now.sensed)
        for frame in earlier:
            usable = usable & follows(self.config, later, frame)  # a gap hides all that is older
            counts = (usable & frame.sensed)[:, None, None]
            identity = torch.eye(4, dtype=torch.float64, device=counts.device)
            # Not `invert`: augmented poses are scaled and mirrored (global_from_augmented).
            global_from_earlier = torch.where(counts, frame.global_from_ego, identity)
            global_from_now = torch.where(counts, now.global_from_ego, identity)
            moved, inside = warped(frame.bev, torch.linalg.solve(global_from_earlier, global_from_now), self.grid)
            known = inside & counts
            slots.append((torch.where(known[:, None], moved, 0.0), known, _seconds(now, frame)))
            later = frame
        return slots
