"""Sensor readings as Foxglove messages. Frames of reference: `map` (global), `base_link` (ego), a sensor's channel."""

from collections.abc import Sequence

from foxglove.messages import (
    CameraCalibration,
    CompressedImage,
    FrameTransform,
    FrameTransforms,
    LocationFix,
    Odometry,
    PackedElementField,
    PackedElementFieldNumericType,
    PointCloud,
    Pose,
    PoseInFrame,
    Quaternion,
    Timestamp,
    Vector3,
)
from jaxtyping import Float32
from torch import Tensor

from calibration.cameras import PinholeCamera
from calibration.rig import EgoState, GpsFix
from calibration.transforms import Transform, to_quaternion

MAP, BASE_LINK = "map", "base_link"


def nanoseconds(timestamp_us: int) -> int:
    """MCAP counts time in nanoseconds."""
    return timestamp_us * 1000


def stamp(timestamp_us: int) -> Timestamp:
    """The time as the messages' header has it."""
    return Timestamp(sec=timestamp_us // 1_000_000, nsec=timestamp_us % 1_000_000 * 1000)


def pose(a_from_b: Transform) -> Pose:
    """Where b is in a."""
    return Pose(position=_translation(a_from_b), orientation=_rotation(a_from_b))


def transforms(timestamp_us: int, edges: Sequence[tuple[str, str, Transform]]) -> FrameTransforms:
    """Edges of the frame tree: (parent, child, parent_from_child)."""
    return FrameTransforms(
        transforms=[
            FrameTransform(
                timestamp=stamp(timestamp_us),
                parent_frame_id=parent,
                child_frame_id=child,
                translation=_translation(parent_from_child),
                rotation=_rotation(parent_from_child),
            )
            for parent, child, parent_from_child in edges
        ]
    )


def compressed_image(timestamp_us: int, frame: str, encoded: bytes) -> CompressedImage:
    """A picture as it was recorded, not encoded once more."""
    picture_format = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return CompressedImage(timestamp=stamp(timestamp_us), frame_id=frame, data=encoded, format=picture_format)


def camera_calibration(timestamp_us: int, frame: str, camera: PinholeCamera) -> CameraCalibration:
    """An undistorted camera: K, and P the same with a column of zeros."""
    k = camera.intrinsics.tolist()
    return CameraCalibration(
        timestamp=stamp(timestamp_us),
        frame_id=frame,
        width=camera.width,
        height=camera.height,
        K=[value for row in k for value in row],
        R=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        P=[value for row in k for value in (*row, 0.0)],
    )


def point_cloud(timestamp_us: int, frame: str, points: Float32[Tensor, "P C"], fields: Sequence[str]) -> PointCloud:
    """Points (P, C) in the sensor's frame, one float32 for each of the C fields."""
    if points.shape[1] != len(fields):
        raise ValueError(f"{points.shape[1]} columns, but {len(fields)} fields")
    return PointCloud(
        timestamp=stamp(timestamp_us),
        frame_id=frame,
        pose=Pose(position=Vector3(), orientation=Quaternion(w=1.0)),
        point_stride=4 * len(fields),
        fields=[
            PackedElementField(name=name, offset=4 * index, type=PackedElementFieldNumericType.Float32)
            for index, name in enumerate(fields)
        ],
        data=points.contiguous().numpy().astype("<f4", copy=False).tobytes(),
    )


def pose_in_map(timestamp_us: int, global_from_ego: Transform) -> PoseInFrame:
    """Where the vehicle is."""
    return PoseInFrame(timestamp=stamp(timestamp_us), frame_id=MAP, pose=pose(global_from_ego))


def odometry(state: EgoState) -> Odometry:
    """Where the vehicle is and how it moves (in its own axes)."""
    return Odometry(
        timestamp=stamp(state.timestamp_us),
        frame_id=MAP,
        body_frame_id=BASE_LINK,
        pose=pose(state.global_from_ego),
        linear_velocity=Vector3(**dict(zip("xyz", state.velocity.tolist(), strict=True))),
        angular_velocity=Vector3(z=state.yaw_rate),
    )


def location_fix(timestamp_us: int, fix: GpsFix) -> LocationFix:
    """A GPS fix."""
    return LocationFix(
        timestamp=stamp(timestamp_us),
        frame_id=BASE_LINK,
        latitude=fix.latitude,
        longitude=fix.longitude,
        altitude=fix.altitude,
    )


def _translation(a_from_b: Transform) -> Vector3:
    x, y, z = a_from_b[:3, 3].tolist()
    return Vector3(x=x, y=y, z=z)


def _rotation(a_from_b: Transform) -> Quaternion:
    w, x, y, z = to_quaternion(a_from_b)
    return Quaternion(x=x, y=y, z=z, w=w)
