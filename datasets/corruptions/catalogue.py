"""The corruptions that are measured, with their severities and where these come from. docs/robustness.md has the table.

Numbers are those of the published benchmarks as their code has them; where that code does something else than it says
(a rotation that is none, cameras drawn twice), what it says is done. "Ours" marks numbers that no benchmark gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from datasets.corruptions.absence import BlackPictures, Dropped, PoseDropped, SomeDropped
from datasets.corruptions.corruption import Corruption, Together
from datasets.corruptions.lens import Dirty, MotionBlurred
from datasets.corruptions.lidar_weather import LidarWeather
from datasets.corruptions.light import Brightened, Darkened, Noisy
from datasets.corruptions.misalignment import Late, Misaligned
from datasets.corruptions.picture_weather import PictureFog, PictureRain, PictureSnow
from datasets.corruptions.points import BeamsReduced, FieldOfView, PointsDropped
from datasets.corruptions.pose import PoseDelay, PoseDrift, PoseJitter
from datasets.samples.batch import Modality

NUSCENES_C = "nuScenes-C (Dong et al. 2023)"
MULTICORRUPT = "MultiCorrupt (Beemelmanns et al. 2024)"
ROBOBEV = "RoboBEV (Xie et al. 2023)"
IMAGENET_C = "ImageNet-C (Hendrycks and Dietterich 2019)"
METABEV = "MetaBEV (Ge et al. 2023)"
YU = "Yu et al. (arXiv 2205.14951)"
OCCLUDED = "Occluded nuScenes"
OURS = "ours"

Strength = TypeVar("Strength", int, float)


@dataclass(frozen=True)
class Level:
    """One strength of a corruption, or one case of several; `label` says in a few letters which."""

    label: str
    corruption: Corruption


@dataclass(frozen=True)
class Series:
    """A corruption in its severities, 1 the weakest; or, where `graded` is False, cases that are not stronger or
    weaker than each other. `name` is what the command line takes, `source` where the strengths come from.
    """

    name: str
    levels: tuple[Level, ...]
    source: str
    graded: bool = True


@dataclass(frozen=True)
class Sensors:
    """What a detector looks at: channels, and whether it hears of the vehicle's motion."""

    cameras: tuple[str, ...]
    lidar: str | None
    radars: tuple[str, ...]
    pose: bool

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those that are there, in the order of MODALITIES."""
        there: tuple[tuple[Modality, bool], ...] = (
            ("camera", bool(self.cameras)),
            ("lidar", self.lidar is not None),
            ("radar", bool(self.radars)),
            ("pose", self.pose),
        )
        return tuple(modality for modality, is_there in there if is_there)


def catalogue(sensors: Sensors) -> tuple[Series, ...]:
    """Every series that says something about a detector with these sensors, in the order of a report."""
    series = [*_missing(sensors)]
    if sensors.cameras:
        series += _of_cameras(sensors.cameras)
    if sensors.lidar is not None:
        series += _of_lidar(sensors.lidar)
    if sensors.cameras and sensors.lidar is not None:
        series += _of_weather(sensors.lidar)
    if sensors.radars:
        series += _of_radars(sensors.radars)
    return (*series, *_of_poses())


def _graded(
    name: str,
    source: str,
    strengths: Sequence[Strength],
    label: Callable[[Strength], str],
    corruption: Callable[[Strength], Corruption],
) -> Series:
    return Series(name, tuple(Level(label(strength), corruption(strength)) for strength in strengths), source)


def _missing(sensors: Sensors) -> list[Series]:
    """Every proper subset of the modalities, and each camera and each radar alone missing."""
    modalities = sensors.modalities
    subsets = [kept for count in range(len(modalities) - 1, 0, -1) for kept in combinations(modalities, count)]
    cases = [
        Series(
            "sensor_subset", tuple(Level("+".join(kept), _only(kept, sensors)) for kept in subsets), OURS, graded=False
        ),
        Series("one_camera_dead", tuple(Level(name, Dropped((name,))) for name in sensors.cameras), YU, graded=False),
        Series("one_radar_dead", tuple(Level(name, Dropped((name,))) for name in sensors.radars), OURS, graded=False),
    ]
    return [series for series in cases if series.levels]


def _only(kept: Sequence[Modality], sensors: Sensors) -> Corruption:
    channels = (
        *(sensors.cameras if "camera" not in kept else ()),
        *((sensors.lidar,) if sensors.lidar is not None and "lidar" not in kept else ()),
        *(sensors.radars if "radar" not in kept else ()),
    )
    dropped = Dropped(channels)
    return dropped if "pose" in kept else Together((dropped, PoseDropped()))


def _of_cameras(cameras: tuple[str, ...]) -> list[Series]:
    snow = (
        (0.1, 0.3, 3.0, 0.5, 10.0, 4.0, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12.0, 4.0, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12.0, 8.0, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12.0, 8.0, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12.0, 12.0, 0.55),
    )
    dark = ((0.6, 250, 0.008), (0.4, 120, 0.018), (0.3, 50, 0.026))
    rain = ((0.01, 0.2), (0.06, 0.73), (0.1, 1.5625), (0.15, 3.125), (0.2, 7.29))
    return [
        _graded(
            "cameras_dead",
            METABEV,
            range(1, len(cameras) + 1),
            lambda count: f"{count} of {len(cameras)}",
            lambda count: SomeDropped(cameras, count),
        ),
        _graded("pictures_black", ROBOBEV, (2 / 6, 4 / 6, 5 / 6), lambda p: f"p {p:.2f}", BlackPictures),
        Series("dark", tuple(Level(f"x {f:g}", Darkened(f, 2.0, photons, n)) for f, photons, n in dark), MULTICORRUPT),
        _graded("bright", MULTICORRUPT, (0.5, 0.6, 0.7), lambda shift: f"+ {shift:g}", Brightened),
        _graded("picture_noise", IMAGENET_C, (0.08, 0.12, 0.18, 0.26, 0.38), lambda s: f"std {s:g}", Noisy),
        _graded("motion_blur", NUSCENES_C, (0.01, 0.02, 0.03, 0.04, 0.05), lambda s: f"{s:.0%} width", MotionBlurred),
        _graded("dirty_lens", OCCLUDED, (0.1, 0.2, 0.3), lambda share: f"{share:.0%}", Dirty),
        _graded("picture_fog", f"{NUSCENES_C}, fog of its LiDAR", _FOG, _visibility, PictureFog),
        Series("picture_rain", tuple(Level(f"{r:.2g} mm/h", PictureRain(s, r)) for s, r in rain), NUSCENES_C),
        Series("picture_snow", tuple(Level(str(n), PictureSnow(*p)) for n, p in enumerate(snow, start=1)), IMAGENET_C),
        _graded(
            "cameras_misaligned",
            f"{YU}; shift {OURS}",
            (1.0, 2.0, 3.0, 4.0, 5.0),
            lambda degrees: f"{degrees:g} deg",
            lambda degrees: Misaligned(cameras, degrees, _SHIFT_FOR_DEGREE * degrees),
        ),
        _late("cameras_late", cameras),
    ]


# Extinction of fog in 1/m, and rates of rain and snow in mm/h: those of nuScenes-C's LiDAR.
_FOG = (0.005, 0.01, 0.02, 0.03, 0.06)
_RATES = (0.2, 0.73, 1.5625, 3.125, 7.29)
# Yu et al. shift by 0.5 to 1 cm at 1 to 5 degrees, which nobody would notice: ours is what a loose mount has.
_SHIFT_FOR_DEGREE = 0.05


def _visibility(extinction: float) -> str:
    return f"{3.0 / extinction:.0f} m"


def _millimetres(rate: float) -> str:
    return f"{rate:.2g} mm/h"


def _late(name: str, channels: tuple[str, ...]) -> Series:
    """MultiCorrupt's three probabilities of the keyframe before; then always that one, and always the one before it."""
    chances = tuple(Level(f"p {p:g}", Late(channels, 1, p)) for p in (0.2, 0.4, 0.6))
    always = tuple(Level(f"{count * 0.5:g} s", Late(channels, count)) for count in (1, 2))
    return Series(name, (*chances, *always), f"{MULTICORRUPT}; 4 and 5 {OURS}")


def _of_lidar(lidar: str) -> list[Series]:
    return [
        _graded(
            "beams_reduced",
            MULTICORRUPT,
            (2, 4, 8),
            lambda every: f"{32 / every:g} of 32",
            lambda every: BeamsReduced(lidar, every),
        ),
        _graded(
            "points_dropped",
            MULTICORRUPT,
            (0.7, 0.8, 0.9),
            lambda share: f"- {share:.0%}",
            lambda share: PointsDropped((lidar,), share),
        ),
        _graded(
            "density_decreased",
            NUSCENES_C,
            (0.06, 0.12, 0.18, 0.24, 0.3),
            lambda share: f"- {share:.0%}",
            lambda share: PointsDropped((lidar,), share),
        ),
        _graded(
            "view_limited",
            NUSCENES_C,
            (105.0, 90.0, 75.0, 60.0, 45.0),
            lambda half: f"+-{half:g} deg",
            lambda half: FieldOfView(lidar, half),
        ),
        _graded("lidar_fog", NUSCENES_C, _FOG, _visibility, lambda a: LidarWeather("fog", lidar, a)),
        _graded("lidar_rain", NUSCENES_C, _RATES, _millimetres, lambda r: LidarWeather("rain", lidar, r)),
        _graded("lidar_snow", NUSCENES_C, _RATES, _millimetres, lambda r: LidarWeather("snow", lidar, r)),
        _graded(
            "lidar_misaligned",
            f"{YU}; shift {OURS}",
            (1.0, 2.0, 3.0, 4.0, 5.0),
            lambda degrees: f"{degrees:g} deg",
            lambda degrees: Misaligned((lidar,), degrees, _SHIFT_FOR_DEGREE * degrees),
        ),
        _late("lidar_late", (lidar,)),
    ]


def _of_weather(lidar: str) -> list[Series]:
    """Camera and LiDAR in the same fog, rain, snow. (Radar does not mind.)"""
    one_sensor = {series.name: series for series in (*_of_cameras(("",)), *_of_lidar(lidar))}
    both = []
    for kind in ("fog", "rain", "snow"):
        pairs = zip(one_sensor[f"picture_{kind}"].levels, one_sensor[f"lidar_{kind}"].levels, strict=True)
        levels = tuple(Level(air.label, Together((seen.corruption, air.corruption))) for seen, air in pairs)
        both.append(Series(kind, levels, f"picture_{kind} and lidar_{kind}"))
    return both


def _of_radars(radars: tuple[str, ...]) -> list[Series]:
    return [
        _graded(
            "radars_dead",
            OURS,
            range(1, len(radars) + 1),
            lambda count: f"{count} of {len(radars)}",
            lambda count: SomeDropped(radars, count),
        ),
        _graded(
            "radar_returns_dropped",
            f"{OCCLUDED}; 2 to 4 {OURS}",
            (0.25, 0.5, 0.75, 0.9),
            lambda share: f"- {share:.0%}",
            lambda share: PointsDropped(radars, share),
        ),
        _late("radars_late", radars),
    ]


def _of_poses() -> list[Series]:
    jitter = ((0.02, 0.002), (0.04, 0.004), (0.06, 0.006), (0.08, 0.008), (0.1, 0.01))
    drift = ((0.1, 0.002), (0.25, 0.005), (0.5, 0.01), (1.0, 0.02), (2.0, 0.04))
    return [
        Series("pose_jitter", tuple(Level(f"{m:g} m", PoseJitter(m, r)) for m, r in jitter), NUSCENES_C),
        Series("pose_drift", tuple(Level(f"{s:g} m/s", PoseDrift(s, y)) for s, y in drift), OURS),
        _graded("pose_delay", OURS, (0.05, 0.1, 0.2, 0.3, 0.5), lambda s: f"{s:g} s", PoseDelay),
    ]
