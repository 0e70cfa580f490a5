"""Fusion over time by itself: the warp against worlds that are known, and what a memory may and may not do."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calibration.transforms import Transform, from_yaw, invert, transform_points
from datasets.augmentation.bev import BevAugmentation
from datasets.frames import LogFrame
from datasets.nuscenes.reader import NuScenesReader
from perception.bev_neck import BevNeckConfig
from perception.grid import BevGrid
from perception.temporal import FrameBevs, TemporalConfig, TemporalFusion, along_stream, follows, warped

GRID = BevGrid((-8.0, 8.0), (-6.4, 6.4), 0.8)  # 16 rows, 20 columns
SQUARE = BevGrid((-7.2, 7.2), (-7.2, 7.2), 0.8)


def bev_of(grid: BevGrid, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, channels, *grid.shape, generator=torch.Generator().manual_seed(seed))


def drive(seed: int) -> Transform:
    """A pose as they are in a city: a kilometre from the origin, on a slope."""
    yaw, x, y = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    tilt = torch.eye(4, dtype=torch.float64)
    tilt[1:3, 1:3] = from_yaw(0.02)[:2, :2]
    return from_yaw(7 * yaw, (1000 * x + 500, 1000 * y + 500, 3.0)) @ tilt


@pytest.mark.parametrize("seed", range(5))
def test_a_world_that_stands_is_warped_to_itself(seed: int) -> None:
    """To the bit, with poses whose difference is not quite the identity."""
    bev, pose = bev_of(GRID), drive(seed)
    again = invert(invert(pose))
    found, known = warped(bev, torch.linalg.solve(pose, again)[None], GRID)
    assert torch.equal(found, bev)
    assert known.all()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turn_by_quarters_turns_the_memory_exactly(quarters: int) -> None:
    bev, earlier = bev_of(SQUARE), drive(1)
    now = earlier @ from_yaw(quarters * math.pi / 2)
    found, known = warped(bev, torch.linalg.solve(earlier, now)[None], SQUARE)
    # Rows run along y, columns along x; what is now at (x, y) was at (-y, x) before a turn to the left.
    assert torch.equal(found, torch.rot90(bev, quarters, dims=(2, 3)))
    assert known.all()


def test_what_lies_ahead_comes_nearer_and_what_was_never_seen_is_not_known() -> None:
    bev, earlier = bev_of(GRID), drive(2)
    now = earlier @ from_yaw(0.0, (3 * 0.8, 0.0, 0.0))
    found, known = warped(bev, torch.linalg.solve(earlier, now)[None], GRID)
    assert torch.equal(found[..., :-3], bev[..., 3:])
    assert known[..., :-3].all()
    assert not known[..., -3:].any()
    assert not found[..., -3:].any()


@pytest.mark.parametrize("seed", range(4))
def test_the_warp_equals_a_loop_over_cells(seed: int) -> None:
    bev = bev_of(GRID, channels=2, seed=seed)
    earlier = drive(seed)
    now = earlier @ from_yaw(0.3 * seed - 0.4, (1.37, -0.61, 0.1))
    found, known = warped(bev, torch.linalg.solve(earlier, now)[None], GRID)
    rows, columns = GRID.shape
    unknown = 0
    for row in range(rows):
        for column in range(columns):
            x, y = GRID.x_range[0] + (column + 0.5) * 0.8, GRID.y_range[0] + (row + 0.5) * 0.8
            place = invert(earlier) @ now @ torch.tensor([x, y, 0.0, 1.0], dtype=torch.float64)
            u = (float(place[0]) - GRID.x_range[0]) / 0.8 - 0.5
            v = (float(place[1]) - GRID.y_range[0]) / 0.8 - 0.5
            if not (0 <= u <= columns - 1 and 0 <= v <= rows - 1):
                assert not known[0, row, column]
                assert not found[0, :, row, column].any()
                unknown += 1
                continue
            assert known[0, row, column]
            for channel in range(2):
                total = 0.0
                for i in (math.floor(v), math.floor(v) + 1):
                    for j in (math.floor(u), math.floor(u) + 1):
                        if i < rows and j < columns:
                            total += (1 - abs(v - i)) * (1 - abs(u - j)) * float(bev[0, channel, i, j])
                assert float(found[0, channel, row, column]) == pytest.approx(total, abs=2e-3)
    assert 0 < unknown < rows * columns / 2


@pytest.mark.parametrize("seed", range(8))
def test_a_known_world_stays_in_its_place_however_it_is_augmented(seed: int) -> None:
    """A slope over global x and y, which bilinear sampling carries without error: turned, scaled, mirrored, shifted."""
    slope = torch.tensor([0.7, -0.4], dtype=torch.float64)

    def seen_from(global_from_augmented: Transform) -> torch.Tensor:
        centers = GRID.centers().double() @ global_from_augmented[:2, :2].T + global_from_augmented[:2, 3]
        return ((centers - 500.0) @ slope)[None, None].float()

    augmented_from_ego = BevAugmentation(translation_std=0.5).draw(torch.Generator().manual_seed(seed))
    first = from_yaw(0.8 * seed, (510.0, 507.0, 0.0))
    second = first @ from_yaw(0.2, (2.3, 0.4, 0.0))
    # As `augment` has it: the sample's pose is that of the augmented world in global.
    earlier, now = (pose @ torch.linalg.inv(augmented_from_ego) for pose in (first, second))
    found, known = warped(seen_from(earlier), torch.linalg.solve(earlier, now)[None], GRID)
    assert known.float().mean() > 0.5
    assert float((found - seen_from(now))[known[:, None]].abs().max()) < 2e-3


def frames_of(
    bevs: list[torch.Tensor], seconds: list[float], poses: list[torch.Tensor] | None = None
) -> list[FrameBevs]:
    """One frame each, newest first."""
    poses = poses or [from_yaw(0.0, (100.0 - 4.0 * back, 50.0, 0.0)) for back in range(len(bevs))]
    return [
        FrameBevs(
            bev=bev,
            sensed=torch.ones(len(bev), dtype=torch.bool),
            scene_names=("scene",) * len(bev),
            timestamps_us=torch.full((len(bev),), round(1_533_000_000_000_000 + at * 1e6)),
            global_from_ego=pose.expand(len(bev), 4, 4),
        )
        for bev, at, pose in zip(bevs, seconds, poses, strict=True)
    ]


@pytest.fixture
def fusion() -> TemporalFusion:
    torch.manual_seed(0)
    return TemporalFusion(TemporalConfig(earlier_frames=2, neck=BevNeckConfig((8, 8), (1, 1))), GRID, 3)


@pytest.fixture
def frames() -> list[FrameBevs]:
    return frames_of([bev_of(GRID, seed=seed) for seed in range(3)], [1.0, 0.5, 0.0])


def spoilt(pose: Transform) -> Transform:
    pose = pose.clone()
    pose[..., 0, 0] = torch.nan
    return pose


BREAKS: dict[str, Callable[[FrameBevs], FrameBevs]] = {
    "another scene": lambda frame: replace(frame, scene_names=("other",)),
    "a gap": lambda frame: replace(frame, timestamps_us=frame.timestamps_us - 710_000),
    "time that goes back": lambda frame: replace(frame, timestamps_us=frame.timestamps_us + 600_000),
    "no time at all": lambda frame: replace(frame, timestamps_us=frame.timestamps_us + 500_000),
    "a jump": lambda frame: replace(frame, global_from_ego=from_yaw(0.0, (60.0, 50.0, 0.0))[None]),
    "a pose that is not finite": lambda frame: replace(frame, global_from_ego=spoilt(frame.global_from_ego)),
}


@pytest.mark.parametrize("name", [*BREAKS, "no sensor"])
@torch.no_grad()
def test_what_the_present_does_not_follow_has_no_influence(
    fusion: TemporalFusion, frames: list[FrameBevs], name: str
) -> None:
    """Bit for bit, whatever the memory holds; and what is older than a break counts as little as the break itself."""
    now, before, oldest = frames
    if name == "no sensor":
        before = replace(before, sensed=torch.tensor([False]))
        # The frame before says nothing, the one before that still does.
        lone = fusion(now, [before, oldest])
        assert not torch.equal(lone, fusion(now, []))
        assert torch.equal(lone, fusion(now, [replace(before, bev=before.bev * torch.nan), oldest]))
        return
    assert not torch.equal(fusion(now, [before]), now.bev)
    broken = BREAKS[name](before)
    for earlier in ([broken], [broken, oldest], [replace(broken, bev=broken.bev * torch.nan), oldest]):
        assert torch.equal(fusion(now, earlier), now.bev)
    # Beside another sample which is remembered, the convolutions run; the present still stands as it is.
    pair = frames_of([torch.cat([frame.bev] * 2) for frame in frames], [1.0, 0.5, 0.0])
    both = [replace(pair[1], scene_names=("scene", "other")), pair[2]]
    together = fusion(pair[0], both)
    assert torch.equal(together[1], now.bev[0])
    torch.testing.assert_close(together[:1], fusion(now, [before, oldest]))


@torch.no_grad()
def test_where_nothing_is_known_of_earlier_frames_the_present_stands(fusion: TemporalFusion) -> None:
    """The vehicle has come four metres: what is now farthest ahead was not on the grid before."""
    now, before = frames_of([bev_of(GRID, seed=seed) for seed in range(2)], [1.0, 0.5])
    out = fusion(now, [before])
    assert torch.equal(out[..., -5:], now.bev[..., -5:])
    assert (out[..., :-5] != now.bev[..., :-5]).any(dim=1).float().mean() > 0.9


@torch.no_grad()
def test_every_frame_and_its_age_count(fusion: TemporalFusion, frames: list[FrameBevs]) -> None:
    now, before, oldest = frames
    out = fusion(now, [before, oldest])
    assert not torch.allclose(out, fusion(now, [before]), atol=1e-4)
    assert not torch.allclose(out, fusion(now, [before, replace(oldest, bev=bev_of(GRID, seed=9))]), atol=1e-4)
    older = replace(oldest, timestamps_us=oldest.timestamps_us - 200_000)
    assert not torch.allclose(out, fusion(now, [before, older]), atol=1e-5)
    # More frames than the config asks for play no part.
    assert torch.equal(out, fusion(now, [before, oldest, replace(oldest, timestamps_us=oldest.timestamps_us - 1)]))


def test_gradients_reach_every_weight_and_the_present(fusion: TemporalFusion, frames: list[FrameBevs]) -> None:
    bev = frames[0].bev.clone().requires_grad_()
    out = fusion(replace(frames[0], bev=bev), frames[1:])
    (out * bev_of(GRID, seed=5)).sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name
    assert bev.grad is not None
    assert (bev.grad != 0).all()


@torch.no_grad()
def test_frames_of_a_stream_side_by_side_have_the_same_past_as_one_by_one(fusion: TemporalFusion) -> None:
    """Two scenes after one another, in batches of any size."""
    bevs = [bev_of(GRID, seed=seed) for seed in range(6)]
    poses = [from_yaw(0.05 * index, (100.0 + 3.0 * index, 50.0, 0.0)) for index in range(6)]
    singles = frames_of(bevs, [0.5 * index for index in range(6)], poses)
    stream = [replace(frame, scene_names=("a",) if index < 4 else ("b",)) for index, frame in enumerate(singles)]
    expected = []
    for index, frame in enumerate(stream):
        expected.append(fusion(frame, list(reversed(stream[:index]))[:2]))
    for size in (1, 2, 4, 6):
        history: FrameBevs | None = None
        found = []
        for start in range(0, 6, size):
            now = stream[start]
            for frame in stream[start + 1 : start + size]:
                now = now.followed_by(frame)
            history = now if history is None else history.followed_by(now)
            found.append(fusion(now, along_stream(history, len(now), 2)))
            history = history.rows(range(max(len(history) - 2, 0), len(history)))
        torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "fields", [{"earlier_frames": 0}, {"earlier_frames": 5}, {"max_gap": 0.0}, {"max_speed": -1.0}]
)
def test_what_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        TemporalConfig(**fields)  # type: ignore[arg-type]


MEADOW = BevGrid((-6.4, 6.4), (-6.4, 6.4), 0.8)


def moving_dots(count: int, seed: int) -> tuple[FrameBevs, FrameBevs, torch.Tensor, torch.Tensor]:
    """One dot in each of two frames of a moving, turning vehicle: now, before, the dot's cell, its velocity (ego)."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    place, velocity = uniform(-3.2, 3.2, count, 2), uniform(-3.0, 3.0, count, 2)
    poses = torch.stack([from_yaw(yaw, (500.0, 300.0, 0.0)) for yaw in uniform(-3.0, 3.0, count).tolist()])
    steps = zip(uniform(-0.3, 0.3, count).tolist(), uniform(0.0, 2.0, count).tolist(), strict=True)
    earlier_from_now = torch.stack([from_yaw(turn, (ahead, 0.0, 0.0)) for turn, ahead in steps])
    before = torch.cat([place - 0.5 * velocity, torch.zeros(count, 1), torch.ones(count, 1)], dim=1)
    seen = (earlier_from_now @ before[..., None])[:, :2, 0]

    def frame(at: torch.Tensor, time_us: int, global_from_ego: torch.Tensor) -> FrameBevs:
        distance = (MEADOW.centers()[None].double() - at[:, None, None]).norm(dim=-1)
        bev = torch.exp(-((distance / 0.8) ** 2)).float()[:, None].repeat(1, 8, 1, 1)
        sensed, times = torch.ones(count, dtype=torch.bool), torch.full((count,), time_us)
        return FrameBevs(bev, sensed, ("scene",) * count, times, global_from_ego)

    now, earlier = frame(place, 1_500_000, poses), frame(seen, 1_000_000, poses @ torch.linalg.inv(earlier_from_now))
    return now, earlier, MEADOW.cells(place).floor().long(), velocity.float()


@pytest.mark.parametrize("remembers", [True, False])
def test_it_learns_how_things_move_while_the_vehicle_moves(remembers: bool) -> None:
    """Dots whose velocity no single frame shows, up to 3 m/s each way: 0.4 m/s of error are left, without it 1.5."""
    torch.manual_seed(0)
    fusion = TemporalFusion(TemporalConfig(neck=BevNeckConfig((16, 16), (1, 1))), MEADOW, 8)
    velocity_of = torch.nn.Linear(8, 2)
    optimizer = torch.optim.AdamW([*fusion.parameters(), *velocity_of.parameters()], lr=1e-2)
    seen, others = moving_dots(512, seed=1), moving_dots(128, seed=2)

    def error_on(dots: tuple[FrameBevs, FrameBevs, torch.Tensor, torch.Tensor], rows: list[int]) -> torch.Tensor:
        now, earlier, cells, velocities = dots
        bev = fusion(now.rows(rows), [earlier.rows(rows)] if remembers else [])
        found = velocity_of(bev[torch.arange(len(rows)), :, cells[rows, 1], cells[rows, 0]])
        return (found - velocities[rows]).abs().mean()

    for step in range(80):
        optimizer.zero_grad()
        error_on(seen, [(16 * step + index) % 512 for index in range(16)]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    left = float(error_on(others, list(range(128))).detach())
    assert left < 0.6 if remembers else left > 1.3


def test_what_stands_in_a_real_recording_is_where_the_memory_says(real_data: Path) -> None:
    """Annotated objects that stand, drawn as dots in the BEV of a real keyframe and carried on to the next one."""
    reader = NuScenesReader(real_data / "nuscenes-minival")
    grid, config = BevGrid((-40.0, 40.0), (-40.0, 40.0), 0.8), TemporalConfig()

    def dots(frame: LogFrame, instances: list[str]) -> FrameBevs:
        centers = torch.stack([centers_of(frame)[token] for token in instances])
        centers = transform_points(invert(frame.global_from_ego), centers)
        distance = (grid.centers().double()[:, :, None] - centers[:, :2]).norm(dim=-1)
        return FrameBevs(
            bev=torch.exp(-((distance / 3.2) ** 2)).amax(dim=-1).float()[None, None],
            sensed=torch.tensor([True]),
            scene_names=(frame.scene_name,),
            timestamps_us=torch.tensor([frame.timestamp_us]),
            global_from_ego=frame.global_from_ego[None],
        )

    tokens = reader.frame_tokens("scene-0916")  # it turns by half a circle
    for place in range(0, len(tokens) - 1, 4):
        first, second = reader.frame(tokens[place]), reader.frame(tokens[place + 1])
        before, after = centers_of(first), centers_of(second)
        standing = [token for token in before.keys() & after.keys() if (before[token] - after[token]).norm() < 0.05]
        assert len(standing) >= 5
        earlier, now = dots(first, standing), dots(second, standing)
        assert follows(config, now, earlier).all()
        found, known = warped(earlier.bev, torch.linalg.solve(earlier.global_from_ego, now.global_from_ego), grid)
        here = known[:, None]
        # Bilinear sampling of such dots leaves 0.05, their 5 cm another 0.02; unmoved they differ ten times as much.
        assert float((found - now.bev)[here].abs().max()) < 0.12
        assert float((earlier.bev - now.bev)[here].abs().max()) > 0.6


def centers_of(frame: LogFrame) -> dict[str, torch.Tensor]:
    """In global, by instance."""
    assert frame.annotations is not None
    return dict(zip(frame.annotations.instance_tokens, frame.annotations.boxes_global.centers, strict=True))
