"""From a hand-built frame to a sample: every number is known."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from calibration.cameras import PinholeCamera, project
from calibration.rig import EgoState, GpsFix, SensorRig
from calibration.transforms import from_yaw, invert, rigid, transform_points
from datasets.boxes import Boxes3D
from datasets.faults import FaultReason
from datasets.frames import RADAR_FIELDS, Annotations, CameraImage, LogFrame, PointSweep
from datasets.nuscenes.reader import NuScenesReader
from datasets.samples.ego_motion import ego_motion_rows
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.samples.sample import FULL_RADAR_POINT_FIELDS
from datasets.sensors.picture_change import PictureChange
from perception.radar_branch import with_states_apart

NOW = 1_532_402_927_000_000
CONFIG = SampleConfig(image_height=24, image_width=80)
# A forward-looking camera: cam z is ego x, cam x is ego -y, cam y is ego -z.
EGO_FROM_CAM = rigid(
    torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64),
    torch.tensor([1.5, 0.0, 1.6], dtype=torch.float64),
)
EGO_FROM_LIDAR = from_yaw(-math.pi / 2, (1.0, 0.0, 1.8))
EGO_FROM_RADAR = from_yaw(math.pi / 2, (0.5, 0.8, 0.5))


def radar_point(**values: float) -> torch.Tensor:
    return torch.tensor([[{"ambig_state": 3.0, **values}.get(name, 0.0) for name in RADAR_FIELDS]])


def jpeg(width: int = 160, height: int = 90) -> bytes:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2] = (255, 0, 0)  # blue (BGR) sky
    picture[height // 2 :] = (0, 0, 255)  # red ground
    return bytes(cv2.imencode(".png", picture)[1])


def frame(**changes: object) -> LogFrame:
    global_from_ego = from_yaw(0.3, (100.0, 50.0, 0.0))
    earlier = global_from_ego @ from_yaw(0.0, (-5.0, 0.0, 0.0))
    values: dict[str, object] = {
        "token": "frame",
        "scene_name": "scene",
        "timestamp_us": NOW,
        "global_from_ego": global_from_ego,
        "rig": SensorRig(
            {"CAM_FRONT": EGO_FROM_CAM, "LIDAR_TOP": EGO_FROM_LIDAR, "RADAR_FRONT": EGO_FROM_RADAR},
            {
                "CAM_FRONT": PinholeCamera(
                    160, 90, torch.tensor([[120.0, 0, 79.5], [0, 120, 44.5], [0, 0, 1]], dtype=torch.float64)
                )
            },
        ),
        "ego_states": (),
        "images": {"CAM_FRONT": CameraImage(NOW - 40_000, earlier, jpeg(), "front.png")},
        "lidar_sweeps": {
            "LIDAR_TOP": (
                PointSweep(NOW, global_from_ego, torch.tensor([[0.0, 10.0, -1.0, 255.0, 3.0], [0.2, 0.1, 0.0, 9, 1]])),
                PointSweep(NOW - 500_000, earlier, torch.tensor([[0.0, 10.0, -1.0, 0.0, 3.0]])),
            )
        },
        "radar_sweeps": {
            "RADAR_FRONT": (
                PointSweep(NOW, global_from_ego, radar_point(x=20.0, rcs=7.5, vx_comp=4.0)),
                PointSweep(NOW - 500_000, global_from_ego, radar_point(x=20.0, vx_comp=4.0)),
                PointSweep(NOW - 500_000, global_from_ego, radar_point(x=20.0, invalid_state=1.0)),
            )
        },
        "annotations": None,
        "faults": (),
    }
    return LogFrame(**(values | changes))  # type: ignore[arg-type]


def test_lidar_is_moved_by_the_vehicles_motion_and_its_own_body_is_dropped() -> None:
    points = make_sample(frame(), CONFIG).lidar_points
    # 10 m ahead of the sensor is ego x = 11; half a second ago the vehicle stood 5 m further back.
    torch.testing.assert_close(
        points, torch.tensor([[11.0, 0.0, 0.8, 1.0, 0.0], [6.0, 0.0, 0.8, 0.0, 0.5]]), atol=1e-5, rtol=0
    )


def test_radar_is_moved_by_its_own_velocity_too_and_filtered() -> None:
    sample = make_sample(frame(), CONFIG)
    # The radar looks to the left: 20 m out is ego y = 20.8, its velocity points along ego y.
    torch.testing.assert_close(
        sample.radar_points,
        torch.tensor([[0.5, 20.8, 0.5, 7.5, 0.0, 4.0, 0.0], [0.5, 22.8, 0.5, 0.0, 0.0, 4.0, 0.5]]),
        atol=1e-5,
        rtol=0,
    )
    assert sample.radar_available.tolist() == [True, False, False, False, False]


def test_the_full_radar_fields_stand_behind_the_basic_ones() -> None:
    point = radar_point(x=20.0, vx=3.0, vy=1.0, pdh0=2.0, x_rms=19.0, ambig_state=3.0)
    global_from_ego = from_yaw(0.3, (100.0, 50.0, 0.0))
    full_config = replace(CONFIG, radar_fields="full", radar_filter="none")
    of_frame = frame(radar_sweeps={"RADAR_FRONT": (PointSweep(NOW, global_from_ego, point),)})
    basic = make_sample(of_frame, replace(full_config, radar_fields=None)).radar_points
    full = make_sample(of_frame, full_config).radar_points
    assert full.shape == (1, 19)
    assert torch.equal(full[:, :7], basic)
    values = dict(zip(FULL_RADAR_POINT_FIELDS, full[0].tolist(), strict=True))
    # The radar looks to the left: its x is ego y.
    assert (values["vx"], values["vy"]) == pytest.approx((-1.0, 3.0), abs=1e-6)
    for name in ("dyn_prop", "id", "is_quality_valid", "ambig_state", "x_rms", "y_rms", "invalid_state", "pdh0"):
        assert values[name] == float(point[0, RADAR_FIELDS.index(name)]), name


@pytest.mark.real_data
def test_real_states_are_within_what_the_network_knows(real_data: Path) -> None:
    reader = NuScenesReader(real_data / "nuscenes-keyframe", lidar_sweeps=1, radar_sweeps=1)
    config = SampleConfig(32, 64, radar_filter="none", radar_fields="full")
    points = make_sample(reader.frame(reader.frame_tokens("all")[0]), config).radar_points
    assert len(points) > 100
    apart = with_states_apart(points)
    assert apart.shape == (len(points), 7 + 6 + 8 + 5 + 18 + 2 + 7)
    for first, count in ((13, 8), (21, 5), (26, 18), (44, 2)):
        assert torch.equal(apart[:, first : first + count].sum(dim=1), torch.ones(len(points))), first
    assert torch.equal(apart[:, 46:].sum(dim=1), points[:, FULL_RADAR_POINT_FIELDS.index("pdh0")])


def test_the_picture_keeps_its_geometry() -> None:
    log_frame = frame()
    sample = make_sample(log_frame, CONFIG)
    index = CONFIG.camera_channels.index("CAM_FRONT")
    assert sample.camera_available.tolist() == [channel == "CAM_FRONT" for channel in CONFIG.camera_channels]
    # Resized to 80 x 45, the upper 21 rows cut off; RGB; the horizon between rows 22 and 23 of the resized picture.
    picture = sample.images[index]
    assert picture[:, 0, 40].tolist() == [0, 0, 255]
    assert picture[:, 4, 40].tolist() == [255, 0, 0]
    # A point on the axis 30 m ahead of where the camera was when the picture was taken.
    ahead_cam = torch.tensor([[0.0, 0.0, 30.0]])
    ahead_ego = transform_points(sample.ego_from_cam[index], ahead_cam)
    torch.testing.assert_close(ahead_ego, torch.tensor([[26.5, 0.0, 1.6]]), atol=1e-5, rtol=0)
    pixels, _ = project(sample.intrinsics[index], ahead_cam)
    torch.testing.assert_close(pixels, torch.tensor([[39.5, 22.0 - 21.0]]), atol=1e-4, rtol=0)


def test_a_flat_picture_gets_black_rows_on_top() -> None:
    camera = PinholeCamera(160, 40, torch.tensor([[120.0, 0, 79.5], [0, 120, 19.5], [0, 0, 1]], dtype=torch.float64))
    fitted = PictureChange.fit(camera, 24, 80)
    assert (fitted.width, fitted.height, fitted.top) == (80, 24, -4)
    rig = SensorRig({"CAM_FRONT": EGO_FROM_CAM}, {"CAM_FRONT": camera})
    image = CameraImage(NOW, from_yaw(0.0), jpeg(160, 40), "flat.png")
    picture = make_sample(frame(rig=rig, images={"CAM_FRONT": image}, lidar_sweeps={}, radar_sweeps={}), CONFIG).images
    index = CONFIG.camera_channels.index("CAM_FRONT")
    assert not picture[index, :, :4].any()
    assert picture[index, 2, 4].min() == 255


def test_an_empty_frame_is_a_sample_without_sensors() -> None:
    sample = make_sample(frame(images={}, lidar_sweeps={}, radar_sweeps={}), CONFIG)
    assert not sample.camera_available.any()
    assert not sample.lidar_available
    assert not sample.radar_available.any()
    assert not sample.ego_motion_valid.any()
    assert sample.lidar_points.shape == (0, 5)
    assert sample.radar_points.shape == (0, 7)
    assert sample.boxes is None
    # No singular matrix: the geometry inverts them.
    assert torch.linalg.det(sample.intrinsics).min() > 0


def test_a_picture_that_does_not_decode_is_a_fault_of_its_camera() -> None:
    broken = CameraImage(NOW, from_yaw(0.0), b"<html>not found</html>", "samples/front.jpg")
    sample = make_sample(frame(images={"CAM_FRONT": broken}), CONFIG)
    assert not sample.camera_available.any()
    (fault,) = sample.faults
    assert (fault.channel, fault.reason) == ("CAM_FRONT", FaultReason.NOT_AN_IMAGE)
    assert "samples/front.jpg" in fault.detail


def test_only_boxes_that_a_point_hit_are_targets_and_they_are_in_ego() -> None:
    global_from_ego = frame().global_from_ego
    in_ego = Boxes3D(
        centers=torch.tensor([[10.0, 2.0, 1.0], [20.0, 0.0, 1.0], [30.0, 0.0, 1.0]], dtype=torch.float64),
        sizes_wlh=torch.tensor([[2.0, 4.5, 1.7]], dtype=torch.float64).repeat(3, 1),
        yaws=torch.tensor([0.2, 0.0, 0.0], dtype=torch.float64),
        velocities=torch.tensor([[3.0, 0.0], [math.nan, math.nan], [0.0, 0.0]], dtype=torch.float64),
        labels=torch.tensor([0, 0, 1]),
        scores=torch.ones(3, dtype=torch.float64),
        attributes=torch.tensor([0, 1, -1]),
    )
    annotations = Annotations(
        boxes_global=in_ego.transformed(global_from_ego),
        tokens=("a", "b", "c"),
        instance_tokens=("i", "j", "k"),
        lidar_point_counts=torch.tensor([5, 0, 0]),
        radar_point_counts=torch.tensor([0, 1, 0]),
    )
    boxes = make_sample(frame(annotations=annotations), CONFIG).boxes
    assert boxes is not None
    assert boxes.labels.tolist() == [0, 0]
    torch.testing.assert_close(boxes.centers, in_ego.centers[:2].float())
    torch.testing.assert_close(boxes.yaws, in_ego.yaws[:2].float())
    torch.testing.assert_close(boxes.velocities, in_ego.velocities[:2].float(), equal_nan=True)


def ego_state(age: float, x: float, gps: GpsFix | None) -> EgoState:
    zero = torch.zeros(3, dtype=torch.float64)
    velocity = torch.tensor([8.0, 0.0, 0.0], dtype=torch.float64)
    pose = from_yaw(math.pi / 2, (0.0, x, 0.0))
    return EgoState(NOW - round(age * 1e6), pose, velocity, zero, 0.1, gps)


def test_ego_motion_is_relative_to_now() -> None:
    # The vehicle drives north (yaw 90 degrees) at 8 m/s; GPS one degree of latitude is 111 km.
    here = GpsFix(42.0, -71.0, 0.0)
    before = GpsFix(42.0 - 4.0 / 111_079.0, -71.0, 0.0)
    states = (ego_state(0.5, -4.0, before), ego_state(0.0, 0.0, here))
    rows, valid = ego_motion_rows(states, states[-1].global_from_ego, 3)
    assert valid.tolist() == [False, True, True]
    assert not rows[0].any()
    expected = [-4.0, 0.0, 0.0, 1.0, 8.0, 0.1, 0.0, 0.5, -4.0, 0.0, 1.0]
    assert rows[1].tolist() == pytest.approx(expected, abs=2e-2)
    assert rows[2].tolist() == pytest.approx([0, 0, 0, 1, 8, 0.1, 0, 0, 0, 0, 1], abs=1e-6)


def test_without_gps_and_without_states_nothing_is_made_up() -> None:
    states = (ego_state(0.5, -4.0, None), ego_state(0.0, 0.0, None))
    rows, valid = ego_motion_rows(states, states[-1].global_from_ego, 2)
    assert valid.all()
    assert not rows[:, 8:].any()
    rows, valid = ego_motion_rows((), from_yaw(0.0), 2)
    assert not rows.any()
    assert not valid.any()


def test_a_huge_cloud_is_thinned_evenly() -> None:
    points = torch.rand(1000, 5) * 40 + 2
    pose = frame().global_from_ego
    log_frame = frame(lidar_sweeps={"LIDAR_TOP": (PointSweep(NOW, pose, points),)})
    config = SampleConfig(image_height=24, image_width=80, max_lidar_points=100)
    thinned = make_sample(log_frame, config).lidar_points
    assert len(thinned) == 100
    lidar_from_ego = invert(EGO_FROM_LIDAR)
    torch.testing.assert_close(
        transform_points(lidar_from_ego, thinned[-1:, :3]), points[-1:, :3], rtol=1e-4, atol=1e-4
    )
