"""Pictures: boxes land where the calibration says, the BEV has ego x up and ego y left, nothing breaks when empty."""

import math
from dataclasses import replace

import cv2
import pytest
import torch

from calibration.cameras import PinholeCamera, project
from calibration.rig import EgoState, SensorRig
from calibration.transforms import from_yaw, invert, rigid, transform_points
from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.faults import FaultReason, SensorFault
from datasets.frames import Annotations, CameraImage, LogFrame, PointSweep
from perception.grid import BevGrid
from tools.drawing.bev import BevScene, BevView, draw_bev
from tools.drawing.boxes import box_strokes, draw_boxes
from tools.drawing.canvas import blank, fill
from tools.drawing.features import heat, principal_colors
from tools.drawing.frame_scene import annotation_colors
from tools.drawing.legend import wrapped
from tools.drawing.palette import CLASS_COLORS, GROUND, RADAR
from tools.drawing.sheet import FusedView, draw_sheet

CAMERA = PinholeCamera(160, 90, torch.tensor([[120.0, 0, 79.5], [0, 120.0, 44.5], [0, 0, 1]], dtype=torch.float64))
# A camera at the ego origin, 1.5 m up, that looks along ego x.
EGO_FROM_CAM = rigid(
    torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64),
    torch.tensor([0.0, 0, 1.5], dtype=torch.float64),
)
CAM_FROM_EGO = invert(EGO_FROM_CAM)
VIEW = BevView((-20.0, 20.0), (-20.0, 20.0), 5.0)


def box(x: float, y: float, z: float = 0.75, yaw: float = 0.0, label: int = 0, speed: float = 0.0) -> Boxes3D:
    return Boxes3D(
        centers=torch.tensor([[x, y, z]]),
        sizes_wlh=torch.tensor([[2.0, 4.0, 1.5]]),
        yaws=torch.tensor([yaw]),
        velocities=torch.tensor([[speed * math.cos(yaw), speed * math.sin(yaw)]]),
        labels=torch.tensor([label]),
        scores=torch.ones(1),
        attributes=torch.tensor([-1]),
    )


def boxes_at(*places: tuple[float, float]) -> Boxes3D:
    boxes = box(0.0, 0.0)[torch.zeros(len(places), dtype=torch.int64)]
    return replace(boxes, centers=torch.tensor([[x, y, 0.75] for x, y in places]))


def logged_frame(annotations: Boxes3D | None, cameras: tuple[str, ...] = CAMERA_CHANNELS) -> LogFrame:
    """A frame away from the global origin, with grey pictures and a few LiDAR points."""
    global_from_ego = from_yaw(0.7, (900.0, 1200.0, 3.0))
    state = EgoState(
        1_600_000_000_000_000, global_from_ego, torch.zeros(3).double(), torch.zeros(3).double(), 0.0, None
    )
    encoded = cv2.imencode(".png", torch.full((90, 160, 3), 90, dtype=torch.uint8).numpy())[1].tobytes()
    points = torch.tensor([[5.0, 5.0, 0.0, 10.0, 1.0], [float("nan"), 0.0, 0.0, 0.0, 0.0]])
    return LogFrame(
        token="a" * 32,
        scene_name="scene-0103",
        timestamp_us=1_600_000_000_000_000,
        global_from_ego=global_from_ego,
        rig=SensorRig(
            dict.fromkeys((*CAMERA_CHANNELS, LIDAR_CHANNEL), EGO_FROM_CAM),
            dict.fromkeys(CAMERA_CHANNELS, CAMERA),
        ),
        ego_states=(state,),
        images={channel: CameraImage(1_600_000_000_000_000, global_from_ego, encoded, channel) for channel in cameras},
        lidar_sweeps={LIDAR_CHANNEL: (PointSweep(1_600_000_000_000_000, global_from_ego, points),)},
        radar_sweeps={},
        annotations=None
        if annotations is None
        else Annotations(
            annotations.to(torch.float64).transformed(global_from_ego),
            ("t",) * len(annotations),
            ("i",) * len(annotations),
            torch.ones(len(annotations), dtype=torch.int64),
            torch.ones(len(annotations), dtype=torch.int64),
        ),
        faults=tuple(
            SensorFault(channel, FaultReason.MISSING_FILE, f"samples/{channel}/a.jpg: there is no such file")
            for channel in CAMERA_CHANNELS
            if channel not in cameras
        ),
        impairments=(),
    )


def test_box_in_front_of_the_camera_lands_where_project_says() -> None:
    car = box(12.0, 1.0, yaw=0.4)
    strokes = box_strokes(car, CAM_FROM_EGO, CAMERA)
    corners = transform_points(CAM_FROM_EGO, car.corners().double()[0])
    expected, _ = project(CAMERA.intrinsics, corners)
    ends = torch.cat([strokes.starts_img, strokes.ends_img])
    assert len(strokes.starts_img) == 13
    distance = torch.cdist(expected, ends).min(dim=1).values
    assert float(distance.max()) < 1e-4


def test_box_behind_the_camera_draws_nothing() -> None:
    assert len(box_strokes(box(-12.0, 0.0), CAM_FROM_EGO, CAMERA).starts_img) == 0
    picture = blank(90, 160, (0, 0, 0))
    draw_boxes(picture, box(-12.0, 0.0), CAM_FROM_EGO, CAMERA, [(255, 255, 255)], 2)
    assert not picture.any()


def test_box_across_the_image_plane_is_clipped_on_the_true_edges() -> None:
    """Each clipped end must still lie on the projected edge: check against points on the 3D edge, densely sampled."""
    car = box(1.0, 2.5, yaw=0.1)
    strokes = box_strokes(car, CAM_FROM_EGO, CAMERA)
    assert len(strokes.starts_img) > 0
    for ends in (strokes.starts_img, strokes.ends_img):
        assert bool((ends >= -9.0).all() and (ends[:, 0] <= 169).all() and (ends[:, 1] <= 99).all())
    corners = transform_points(CAM_FROM_EGO, car.corners().double()[0])
    middle = corners[[2, 3, 6, 7]].mean(dim=0)
    edges = [(a, b) for a in range(8) for b in range(a) if _is_edge(corners[a], corners[b])]
    lines = [(corners[a], corners[b]) for a, b in edges] + [(middle, corners[[2, 3]].mean(dim=0))]
    fractions = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    seen = torch.cat([start + fractions * (end - start) for start, end in lines])
    pixels, depth = project(CAMERA.intrinsics, seen)
    pixels = pixels[depth > 0.05]
    halves = (strokes.starts_img + strokes.ends_img) / 2
    assert float(torch.cdist(halves, pixels).min(dim=1).values.max()) < 1.0


def _is_edge(a: torch.Tensor, b: torch.Tensor) -> bool:
    length = float((a - b).norm())
    return any(abs(length - side) < 1e-4 for side in (2.0, 4.0, 1.5))


def test_far_off_boxes_leave_the_picture_clean() -> None:
    picture = blank(90, 160, (0, 0, 0))
    row = boxes_at((0.2, 8.0), (0.2, 40.0), (0.2, 900.0), (0.2, -30.0))
    draw_boxes(picture, row, CAM_FROM_EGO, CAMERA, [(255, 255, 255)] * 4, 1)
    assert not picture.any()


def test_no_boxes_no_strokes() -> None:
    assert len(box_strokes(Boxes3D.empty(), CAM_FROM_EGO, CAMERA).starts_img) == 0
    draw_boxes(blank(90, 160, (0, 0, 0)), Boxes3D.empty(), CAM_FROM_EGO, CAMERA, [], 2)


def test_bev_pixels_have_ahead_up_and_left_left() -> None:
    ahead, left, origin = VIEW.pixels(torch.tensor([[10.0, 0.0], [0.0, 10.0], [0.0, 0.0]]))
    assert ahead[1] < origin[1]
    assert ahead[0] == origin[0]
    assert left[0] < origin[0]
    assert left[1] == origin[1]
    assert origin.tolist() == [99.5, 99.5]


def test_a_detection_is_painted_where_it_stands() -> None:
    empty = draw_bev(BevScene(torch.zeros(0, 3), torch.zeros(0, 4), None, (), None), VIEW)
    drawn = draw_bev(BevScene(torch.zeros(0, 3), torch.zeros(0, 4), None, (), box(10.0, 8.0)), VIEW)
    v, u = (empty != drawn).any(dim=2).nonzero().float().mean(dim=0).tolist()
    expected = VIEW.pixels(torch.tensor([[10.0, 8.0]]))[0]
    assert abs(u - float(expected[0])) < 1.5
    assert abs(v - float(expected[1])) < 3.0  # the tick towards the front pulls the mean forward


def test_lidar_point_and_radar_return_are_painted_where_they_are() -> None:
    points, returns = torch.tensor([[15.0, -9.0, 1.0]]), torch.tensor([[-12.0, 5.0, 0.0, 0.0]])
    picture = draw_bev(BevScene(points, returns, None, (), None), VIEW)
    u, v = VIEW.pixels(points[:, :2])[0].round().long().tolist()
    assert picture[v, u].tolist() != list(GROUND)
    u, v = VIEW.pixels(returns[:, :2])[0].round().long().tolist()
    close = torch.tensor(RADAR).float() - picture[v - 1 : v + 2, u - 1 : u + 2].float().amax(dim=(0, 1))
    assert float(close.abs().max()) < 40


def test_points_that_are_not_finite_or_outside_change_nothing() -> None:
    empty = draw_bev(BevScene(torch.zeros(0, 3), torch.zeros(0, 4), None, (), None), VIEW)
    bad = torch.tensor([[math.nan, 0.0, 0.0], [math.inf, 0.0, 0.0], [1e6, 0.0, 0.0], [0.0, -25.0, 0.0]])
    returns = torch.tensor([[math.nan, 0.0, 0.0, 0.0]])
    assert torch.equal(draw_bev(BevScene(bad, returns, Boxes3D.empty(), (), Boxes3D.empty()), VIEW), empty)


def test_unknown_velocity_draws_no_arrow() -> None:
    still = box(5.0, 5.0)
    unknown = replace(still, velocities=torch.full((1, 2), math.nan))
    scenes = [BevScene(torch.zeros(0, 3), torch.zeros(0, 4), None, (), boxes) for boxes in (still, unknown)]
    assert torch.equal(draw_bev(scenes[0], VIEW), draw_bev(scenes[1], VIEW))


def test_fill_stays_inside_its_polygon() -> None:
    picture = blank(20, 20, (0, 0, 0))
    fill(picture, torch.tensor([[5.0, 5.0], [10.0, 5.0], [10.0, 10.0], [5.0, 10.0]]), (200, 100, 50), 0.5)
    assert picture[7, 7].tolist() == [100, 50, 25]
    assert not picture[13:].any()
    fill(picture, torch.tensor([[500.0, 5.0], [510.0, 5.0], [510.0, 10.0]]), (255, 255, 255))
    assert not picture[13:].any()


def test_feature_picture_is_aligned_with_the_bev() -> None:
    """A feature that is one ahead on the left must be bright at the top left."""
    bev = torch.zeros(4, 8, 10)
    bev[:, 7, 9] = 5.0  # the largest y (left) and the largest x (ahead)
    for picture in (principal_colors(bev, 1), heat(bev[0], 0.0, 5.0)):
        assert tuple(picture.shape) == (10, 8, 3)
        brightness = picture.float().sum(dim=2)
        assert int(brightness.argmax()) == 0
        assert float(brightness[5, 5]) < 20


def test_the_pattern_of_the_patches_is_taken_out() -> None:
    noise = torch.randn(6, 8, 12, generator=torch.Generator().manual_seed(0))
    pattern = torch.arange(4.0).reshape(2, 2).repeat(4, 6) * 100.0
    with_pattern = principal_colors(noise + pattern, 2).float()
    assert float((with_pattern - principal_colors(noise, 2).float()).abs().max()) <= 2.0


@pytest.mark.parametrize("channels", [1, 2, 3, 16])
def test_feature_pictures_of_odd_inputs(channels: int) -> None:
    bev = torch.zeros(channels, 4, 6)
    assert not principal_colors(bev, 1).any()
    bev[:, 0, 0] = math.nan
    assert principal_colors(bev, 3)[5, 3].tolist() == [0, 0, 0]
    assert not principal_colors(torch.full((channels, 4, 6), math.nan), 2).any()


def test_sheet_shows_the_annotation_in_the_cameras() -> None:
    car = box(15.0, 0.0)
    with_box = draw_sheet(logged_frame(car))
    without = draw_sheet(logged_frame(Boxes3D.empty()))
    # The front camera's tile, in the middle of the upper row.
    tile = (slice(84, 84 + 335), slice(24 + 604, 24 + 604 + 596))
    changed = (with_box[tile] != without[tile]).any(dim=2)
    assert changed.any()
    painted = with_box[tile][changed].float().mean(dim=0)
    assert int(painted.argmax()) == int(torch.tensor(CLASS_COLORS[0]).argmax())


def test_an_annotation_that_no_point_hit_is_dimmed() -> None:
    frame = logged_frame(boxes_at((15.0, 0.0), (9.0, 4.0)))
    assert frame.annotations is not None
    unseen = replace(
        frame.annotations, lidar_point_counts=torch.tensor([3, 0]), radar_point_counts=torch.tensor([0, 0])
    )
    colors = annotation_colors(replace(frame, annotations=unseen), plain=True)
    assert colors[0] == CLASS_COLORS[0]
    assert sum(colors[1]) < sum(colors[0])
    assert annotation_colors(logged_frame(None), plain=True) == ()


def test_sheet_of_a_frame_with_nothing() -> None:
    frame = replace(logged_frame(None, cameras=()), lidar_sweeps={}, ego_states=())
    sheet = draw_sheet(frame)
    assert sheet.shape[1] == 2560
    grid = BevGrid((-8.0, 8.0), (-8.0, 8.0), 1.0)
    fused = FusedView(torch.zeros(4, 16, 16), grid, 2, ("camera",), torch.zeros(1, 16, 16))
    assert draw_sheet(frame, Boxes3D.empty(), fused).shape[0] > sheet.shape[0]


def test_sheet_survives_a_picture_that_cannot_be_decoded() -> None:
    frame = logged_frame(box(10.0, 0.0))
    broken = replace(frame.images["CAM_BACK"], encoded=b"\xff\xd8 no picture")
    sheet = draw_sheet(replace(frame, images={**frame.images, "CAM_BACK": broken}))
    assert not torch.equal(sheet, draw_sheet(frame))


def test_long_words_are_broken() -> None:
    lines = wrapped("samples/" + "x" * 300 + " does not exist", 13, 200.0)
    assert "".join(lines).replace(" ", "") == "samples/" + "x" * 300 + "doesnotexist"
    assert len(lines) > 5
    assert wrapped("", 13, 200.0) == []
