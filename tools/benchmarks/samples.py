"""How fast samples are made, side by side with the ways that other code goes, in one process on one thread."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from calibration.transforms import from_quaternion, transform_points
from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.frames import CameraImage, LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.sweep_files import FrameFaults, RecordedSweep, read_merged_lidar
from datasets.samples.batch import PointBatch
from datasets.sensors.picture_change import PictureChange
from datasets.sensors.points_in_boxes import points_in_boxes
from datasets.synthetic.config import WorldConfig
from perception.voxelize import VoxelGrid, voxelize
from tools.benchmarks.base_sample import BaseSampleFigures, bench_base_sample
from tools.benchmarks.side_by_side import Agreement, Comparison, interleaved, one_thread
from tools.presets import base

_WORLD = WorldConfig(scenes=1, keyframes=2, image_width=1600, seed=7)
_SWEEPS, _BOXES, _SPCONV_POINTS = 10, 40, 10
# How near the ways must come to each other. Pictures: the least ratio of peak signal to noise. PIL's bicubic looks at
# all pixels that become one, as a scaled decoding does; cv2's linear at four of them only. (One pixel to the side, or
# red and blue exchanged, gives less than 32.)
_SWEEP_METRES, _MEAN_METRES = 1e-4, 1e-4
_PIL_DECIBELS, _CV2_DECIBELS = 38.0, 34.0
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # ImageNet


@dataclass(frozen=True)
class SampleBenchmark:
    """The comparisons; what a `base` training sample costs; and the threads that were used."""

    comparisons: tuple[Comparison, ...]
    base_sample: BaseSampleFigures
    threads: int

    def table(self) -> str:
        """The result as lines of text."""
        lines = [f"{self.threads} thread; medians of CPU time; ratios to Bevel"]
        for comparison in self.comparisons:
            lines += comparison.lines()
        return "\n".join(lines + self.base_sample.lines())

    def out_of_bounds(self) -> tuple[str, ...]:
        """The work of the comparisons whose ways do not agree."""
        return tuple(comparison.work for comparison in self.comparisons if not comparison.agreement.within)


def bench_samples(*, rounds: int = 5, repeats: int = 5, world: Path | None = None) -> SampleBenchmark:
    """Measure the steps from a nuScenes dataroot to a training sample.

    `rounds`, `repeats`: of each way (`interleaved`). `world`: a dataroot with pictures of 1600 x 900; without one a
    small synthetic world is written (a minute) and removed. The numbers of points and bytes are those of that world.
    """
    if world is None:
        with TemporaryDirectory() as folder:
            from datasets.synthetic.simulate import simulate  # brings open3d

            simulate(Path(folder) / "world", _WORLD)
            return bench_samples(rounds=rounds, repeats=repeats, world=Path(folder) / "world")
    with one_thread():
        config = base().sample
        reader = NuScenesReader(
            world, lidar_sweeps=_SWEEPS, radar_sweeps=config.radar_sweeps, merge_lidar=config.close_radius
        )
        token = reader.frame_tokens("all")[-1]
        frame = reader.frame(token)
        comparisons = (
            _bench_sweeps(world, reader, frame, rounds, repeats),
            _bench_points_in_boxes(frame, rounds, repeats),
            _bench_pictures(frame, rounds, repeats),
            _bench_voxels(frame, rounds, repeats),
        )
        base_sample = bench_base_sample(reader, token, config, rounds, repeats)
        return SampleBenchmark(comparisons, base_sample, threads=1)


def _bench_sweeps(root: Path, reader: NuScenesReader, frame: LogFrame, rounds: int, repeats: int) -> Comparison:
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.data_classes import LidarPointCloud

    devkit = NuScenes(reader.version, str(root), verbose=False)
    sample = devkit.get("sample", frame.token)
    rows = [devkit.get("sample_data", sample["data"][LIDAR_CHANNEL])]
    while rows[-1]["prev"] and len(rows) < _SWEEPS:
        rows.append(devkit.get("sample_data", rows[-1]["prev"]))
    poses = [devkit.get("ego_pose", row["ego_pose_token"]) for row in rows]

    def bevel() -> torch.Tensor:
        # With the matrices of the poses, which the devkit makes anew each time as well.
        recorded = [
            RecordedSweep(row["filename"], row["timestamp"], from_quaternion(pose["rotation"], pose["translation"]))
            for row, pose in zip(rows, poses, strict=True)
        ]
        return read_merged_lidar(
            root,
            LIDAR_CHANNEL,
            recorded,
            FrameFaults([], []),
            timestamp_us=frame.timestamp_us,
            global_from_ego=frame.global_from_ego,
            ego_from_sensor=frame.rig.ego_from_sensor[LIDAR_CHANNEL],
            close_radius=1.0,
        ).points

    def by_devkit() -> NDArray[np.float32]:
        cloud, _ = LidarPointCloud.from_file_multisweep(
            devkit, sample, LIDAR_CHANNEL, LIDAR_CHANNEL, nsweeps=_SWEEPS, min_distance=1.0
        )
        return np.asarray(cloud.points)

    expected = torch.from_numpy(by_devkit()[:3].T.copy())
    in_ego = transform_points(frame.rig.ego_from_sensor[LIDAR_CHANNEL], expected.double())
    merged = bevel()
    off = float((merged[:, :3].double() - in_ego).abs().max()) if len(merged) == len(in_ego) else math.inf
    times = interleaved({"bevel": bevel, "nuscenes-devkit": by_devkit}, rounds, repeats)
    work = f"{len(rows)} LiDAR sweeps read, checked and moved, {len(merged)} points"
    agreement = Agreement(f"same points, at most {off:.1e} m apart, bound {_SWEEP_METRES:.0e}", off <= _SWEEP_METRES)
    return Comparison.of(work, times, agreement)


def _bench_points_in_boxes(frame: LogFrame, rounds: int, repeats: int) -> Comparison:
    from nuscenes.utils.data_classes import Box
    from nuscenes.utils.geometry_utils import points_in_box
    from pyquaternion import Quaternion

    cloud = frame.merged_lidar[LIDAR_CHANNEL].points
    boxes = _scattered_boxes()
    devkit_boxes = [
        Box(center.tolist(), size.tolist(), Quaternion(axis=[0, 0, 1], angle=float(yaw)))
        for center, size, yaw in zip(boxes.centers, boxes.sizes_wlh, boxes.yaws, strict=True)
    ]
    transposed = np.ascontiguousarray(cloud[:, :3].numpy().T)

    def by_devkit() -> list[int]:
        return [int(points_in_box(box, transposed).sum()) for box in devkit_boxes]

    found = points_in_boxes(boxes, cloud).counts.tolist()
    equal = sum(a == b for a, b in zip(found, by_devkit(), strict=True))
    ways = {"bevel": lambda: points_in_boxes(boxes, cloud), "nuscenes-devkit": by_devkit}
    work = f"{len(cloud)} points in {_BOXES} boxes"
    agreement = Agreement(f"{equal} of {_BOXES} counts equal", equal == _BOXES)
    return Comparison.of(work, interleaved(ways, rounds, repeats), agreement)


def _scattered_boxes() -> Boxes3D:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(_BOXES, 7, dtype=torch.float64, generator=generator)
    return Boxes3D(
        centers=(draws[:, :3] - torch.tensor([0.5, 0.5, 0.0])) * torch.tensor([80.0, 80.0, 2.0]),
        sizes_wlh=0.5 + draws[:, 3:6] * torch.tensor([2.0, 8.0, 3.0]),
        yaws=6.0 * draws[:, 6],
        velocities=torch.zeros(_BOXES, 2, dtype=torch.float64),
        labels=torch.zeros(_BOXES, dtype=torch.int64),
        scores=torch.ones(_BOXES, dtype=torch.float64),
        attributes=torch.full((_BOXES,), -1),
    )


def _bench_pictures(frame: LogFrame, rounds: int, repeats: int) -> Comparison:
    images = [frame.images[channel] for channel in CAMERA_CHANNELS]
    config = base().sample
    fitted = PictureChange.fit(frame.rig.cameras[CAMERA_CHANNELS[0]], config.image_height, config.image_width)
    mean = torch.from_numpy(255.0 * _MEAN)[:, None, None]
    inverse_std = torch.from_numpy(1.0 / (255.0 * _STD))[:, None, None]

    def normalised(pixels: torch.Tensor) -> torch.Tensor:
        """In place, as the network does it; the other way with torch gets the same."""
        return pixels.float().sub_(mean).mul_(inverse_std)

    def bevel(image: CameraImage) -> torch.Tensor:
        return normalised(fitted.decoded(image))

    def by_pil(image: CameraImage) -> torch.Tensor:
        """The way of the published pipelines (BEVDet, BEVFusion)."""
        picture = Image.open(io.BytesIO(image.encoded)).convert("RGB")
        picture = picture.resize((fitted.resized_width, fitted.resized_height), Image.Resampling.BICUBIC)
        picture = picture.crop((0, fitted.top, fitted.width, fitted.top + fitted.height))
        pixels = (np.asarray(picture, np.float32) / 255.0 - _MEAN) / _STD
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def by_cv2(image: CameraImage) -> torch.Tensor:
        pixels = cv2.imdecode(np.frombuffer(image.encoded, np.uint8), cv2.IMREAD_COLOR)
        size = (fitted.resized_width, fitted.resized_height)
        resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)[fitted.top :]
        rgb = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
        return normalised(torch.from_numpy(np.ascontiguousarray(rgb)))

    def decibels_to(other: Callable[[CameraImage], torch.Tensor]) -> float:
        """The peak signal to noise ratio between Bevel's picture and another way's, of the worst picture."""
        differences = [(bevel(image) - other(image)) / inverse_std for image in images]
        return min(float(10.0 * torch.log10(255.0**2 / each.square().mean())) for each in differences)

    ways: dict[str, Callable[[], object]] = {
        "bevel": lambda: [bevel(image) for image in images],
        "PIL, bicubic": lambda: [by_pil(image) for image in images],
        "cv2 at full size, linear": lambda: [by_cv2(image) for image in images],
    }
    to_pil, to_cv2 = decibels_to(by_pil), decibels_to(by_cv2)
    agreement = Agreement(
        f"at least {to_pil:.1f} dB to PIL, bound {_PIL_DECIBELS:.0f}, "
        f"and {to_cv2:.1f} to cv2, bound {_CV2_DECIBELS:.0f}",
        to_pil >= _PIL_DECIBELS and to_cv2 >= _CV2_DECIBELS,
    )
    work = (
        f"{len(images)} JPEGs of {fitted.recorded_width}x{fitted.recorded_height} to {fitted.height}x{fitted.width}, "
        "normalised"
    )
    return Comparison.of(work, interleaved(ways, rounds, repeats), agreement)


def _bench_voxels(frame: LogFrame, rounds: int, repeats: int) -> Comparison:
    from spconv.pytorch.utils import PointToVoxel

    detector = base().detector
    cloud = frame.merged_lidar[LIDAR_CHANNEL].points
    bev, z_range, height = replace(detector.grid, cell_size=0.075), (-5.0, 3.0), 0.2
    grid = VoxelGrid(bev, z_range, 40)
    lows, highs = zip(bev.x_range, bev.y_range, z_range, strict=True)
    # As many points a voxel and voxels as the published configs keep, and room for all of this cloud.
    by_spconv = PointToVoxel([0.075, 0.075, height], [*lows, *highs], cloud.shape[1], len(cloud), _SPCONV_POINTS)
    batch = PointBatch.of([cloud])

    def bevel() -> torch.Tensor:
        voxels = voxelize(batch, grid)
        return voxels.mean(voxels.points)

    def spconv_mean() -> torch.Tensor:
        voxels, _, counts = by_spconv(cloud)
        return torch.as_tensor(voxels.sum(dim=1) / counts[:, None])

    work = f"{len(cloud)} points to voxels of 0.075 x 0.075 x 0.2 m, means"
    ways: dict[str, Callable[[], object]] = {"bevel": bevel, "spconv PointToVoxel": spconv_mean}
    # spconv's voxels come in the order of their first points, and hold the first ten points only.
    places = torch.as_tensor(by_spconv(cloud)[1])
    voxels, theirs = voxelize(batch, grid), torch.from_numpy(np.lexsort(places.numpy().T[::-1]))
    same = torch.equal(voxels.indices[:, 1:], places[theirs])
    off = math.inf
    if same:
        small = voxels.counts < _SPCONV_POINTS
        off = float((bevel() - spconv_mean()[theirs])[small][:, :3].abs().max())
    agreement = Agreement(
        f"{len(voxels.counts)} voxels {'are' if same else 'are not'} the same, means at most {off:.1e} m apart, bound "
        f"{_MEAN_METRES:.0e}",
        off <= _MEAN_METRES,
    )
    return Comparison.of(work, interleaved(ways, rounds, repeats), agreement)
