"""A LogFrame: one instant of a log, as the sensors gave it."""

from dataclasses import dataclass, field

from jaxtyping import Float32, Int64
from torch import Tensor

from calibration.rig import EgoState, SensorRig
from calibration.transforms import Transform
from datasets.boxes import Boxes3D
from datasets.faults import SensorFault

# The columns of a LiDAR sweep's points: sensor frame, metres; intensity 0..255; ring is the beam's number.
LIDAR_FIELDS: tuple[str, ...] = ("x", "y", "z", "intensity", "ring")

# The columns of a radar sweep's points: the 18 fields of nuScenes' radar format, in its order, whatever the file's.
# Sensor frame; metres, m/s, dBsm. vx_comp and vy_comp are the radial velocity with the ego motion taken out.
RADAR_FIELDS: tuple[str, ...] = (
    "x", "y", "z", "dyn_prop", "id", "rcs", "vx", "vy", "vx_comp", "vy_comp", "is_quality_valid", "ambig_state",
    "x_rms", "y_rms", "invalid_state", "pdh0", "vx_rms", "vy_rms",
)  # fmt: skip


@dataclass(frozen=True)
class CameraImage:
    """One picture as it was recorded: encoded (JPEG or PNG), with its own time and its own ego pose.

    `source` is the name to use when something is wrong with it (a path under the dataset's root, a topic).
    """

    timestamp_us: int
    global_from_ego: Transform
    encoded: bytes
    source: str


@dataclass(frozen=True)
class PointSweep:
    """One sweep of a LiDAR (P, 5: LIDAR_FIELDS) or a radar (P, 18: RADAR_FIELDS), in the sensor's frame.

    With its own time and its own ego pose: at speed the vehicle moves a metre between two sweeps.
    """

    timestamp_us: int
    global_from_ego: Transform
    points: Float32[Tensor, "P C"]


@dataclass(frozen=True)
class MergedSweeps:
    """A LiDAR's sweeps in the ego frame of their frame's instant (`datasets.sensors.sweeps.merge_lidar_sweeps`).

    `points`: x, y, z; intensity scaled to 0..1; age in seconds. One sweep's behind another's, newest first; `sizes`:
    how many each has. `close_radius` (metres): nearer points were left out.
    """

    points: Float32[Tensor, "P 5"]
    sizes: tuple[int, ...]
    close_radius: float

    def newest(self, count: int) -> "MergedSweeps":
        """Only the newest `count` sweeps, or all where there are fewer."""
        sizes = self.sizes[:count]
        return MergedSweeps(self.points[: sum(sizes)], sizes, self.close_radius)


@dataclass(frozen=True)
class Annotations:
    """The annotated boxes of a frame, in global, float64, with only the ten detection classes.

    `tokens` and `instance_tokens` (M) name the annotation and its track; `lidar_point_counts` and
    `radar_point_counts` (M) are the dataset's own counts of points in each box.
    """

    boxes_global: Boxes3D
    tokens: tuple[str, ...]
    instance_tokens: tuple[str, ...]
    lidar_point_counts: Int64[Tensor, "M"]
    radar_point_counts: Int64[Tensor, "M"]


@dataclass(frozen=True)
class LogFrame:
    """One instant of a log.

    `global_from_ego` is the pose at the frame's instant, the one that detections refer to (nuScenes: LIDAR_TOP's).
    `ego_states`: the recent past, oldest first, the frame's own state last. `lidar_sweeps` and `radar_sweeps`: by
    channel, newest first. `annotations` is None where the log has none (a test split, a fresh recording).
    A channel that is absent from the dictionaries has an entry in `faults` that says why. `impairments`: what
    a channel that is there has lost all the same, an earlier sweep that could not be read, points that are not finite.
    `merged_lidar` has, by channel, LiDARs whose sweeps a reader moved while it read them: no sweep of theirs is in
    `lidar_sweeps`. Such a frame is for `make_sample`; what works on sweeps takes `raw_lidar_sweeps`.
    Raises ValueError for a channel in both.
    """

    token: str
    scene_name: str
    timestamp_us: int
    global_from_ego: Transform
    rig: SensorRig
    ego_states: tuple[EgoState, ...]
    images: dict[str, CameraImage]
    lidar_sweeps: dict[str, tuple[PointSweep, ...]]
    radar_sweeps: dict[str, tuple[PointSweep, ...]]
    annotations: Annotations | None
    faults: tuple[SensorFault, ...]
    impairments: tuple[SensorFault, ...] = ()
    merged_lidar: dict[str, MergedSweeps] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if both := self.lidar_sweeps.keys() & self.merged_lidar.keys():
            raise ValueError(f"frame {self.token}: {', '.join(sorted(both))} in lidar_sweeps and in merged_lidar")

    @property
    def raw_lidar_sweeps(self) -> dict[str, tuple[PointSweep, ...]]:
        """`lidar_sweeps`, for what works on them. Raises ValueError where a LiDAR would only seem not to be there."""
        self.refuse_merged_lidar()
        return self.lidar_sweeps

    def refuse_merged_lidar(self) -> None:
        """Raise ValueError where a LiDAR's sweeps are not as they were recorded."""
        if self.merged_lidar:
            names = ", ".join(self.merged_lidar)
            raise ValueError(f"frame {self.token}: its reader merged the sweeps of {names}, raw ones are needed")
