"""How fast samples are made, side by side with the ways that other code goes, in one process on one thread."""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from calibration.transforms import transform_points
from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.augmentation.images import ImageAugmentation
from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.frames import CameraImage, LogFrame
from datasets.nuscenes.files import read_lidar_sweep
from datasets.nuscenes.reader import NuScenesReader
from datasets.samples.batch import PointBatch
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.make_sample import make_sample
from datasets.sensors.picture_change import PictureChange
from datasets.sensors.points_in_boxes import points_in_boxes
from datasets.sensors.sweeps import merge_lidar_sweeps, moving_sweeps
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.simulate import simulate
from perception.voxelize import VoxelGrid, voxelize
from tools.presets import base

_WORLD = WorldConfig(scenes=1, keyframes=2, image_width=1600, seed=7)
_SWEEPS, _BOXES = 10, 40
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # ImageNet


@dataclass(frozen=True)
class Way:
    """One way to do a piece of work: the median of the CPU time, milliseconds."""

    name: str
    milliseconds: float


@dataclass(frozen=True)
class Comparison:
    """Bevel's way to do a piece of work, the others', and whether all agree within the stated bound."""

    work: str
    bevel: Way
    others: tuple[Way, ...]
    agreement: str

    def ratios(self) -> dict[str, float]:
        """How many times as long each other way takes."""
        return {way.name: way.milliseconds / self.bevel.milliseconds for way in self.others}


@dataclass(frozen=True)
class SampleBenchmark:
    """The comparisons; how many `base` training samples a core makes in a second; and the threads that were used."""

    comparisons: tuple[Comparison, ...]
    samples_per_second: float
    sample_milliseconds: Mapping[str, float]
    threads: int

    def table(self) -> str:
        """The result as lines of text."""
        lines = [f"{self.threads} thread; medians of CPU time; ratios to Bevel"]
        for comparison in self.comparisons:
            lines.append(f"{comparison.work}: {comparison.bevel.milliseconds:.1f} ms ({comparison.agreement})")
            lines += [
                f"    {way.name}: {way.milliseconds:.1f} ms, {comparison.ratios()[way.name]:.1f} x"
                for way in comparison.others
            ]
        parts = ", ".join(f"{name} {value:.0f} ms" for name, value in self.sample_milliseconds.items())
        lines.append(f"base training samples: {self.samples_per_second:.1f} a second on a core ({parts})")
        return "\n".join(lines)


def bench_samples(*, rounds: int = 5, repeats: int = 5, world: Path | None = None) -> SampleBenchmark:
    """Measure the steps from a nuScenes dataroot to a training sample.

    Each way runs `repeats` times in a row, the first of them not counted, then the next way, in `rounds` rounds.
    `world`: a dataroot with pictures of 1600 x 900; without one a small synthetic world is written (a minute) and
    removed. The numbers of points and bytes are those of that world.
    """
    if world is None:
        with TemporaryDirectory() as folder:
            simulate(Path(folder) / "world", _WORLD)
            return bench_samples(rounds=rounds, repeats=repeats, world=Path(folder) / "world")
    with _one_thread():
        config = base().sample
        reader = NuScenesReader(world, lidar_sweeps=_SWEEPS, radar_sweeps=config.radar_sweeps)
        token = reader.frame_tokens("all")[-1]
        frame = reader.frame(token)
        comparisons = (
            _bench_sweeps(world, reader, frame, rounds, repeats),
            _bench_points_in_boxes(frame, rounds, repeats),
            _bench_pictures(frame, rounds, repeats),
            _bench_voxels(frame, rounds, repeats),
        )
        augmentation = Augmentation(BevAugmentation(), ImageAugmentation())
        dataset = FusionDataset(reader, [token], config, augmentation=augmentation)
        times = _interleaved(
            {
                "read": lambda: reader.frame(token),
                "made": lambda: make_sample(frame, config),
                "read, made, augmented": lambda: dataset[0],
            },
            rounds,
            repeats,
        )
        return SampleBenchmark(comparisons, 1e3 / times["read, made, augmented"], times, threads=1)


def _bench_sweeps(root: Path, reader: NuScenesReader, frame: LogFrame, rounds: int, repeats: int) -> Comparison:
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.data_classes import LidarPointCloud

    devkit = NuScenes(reader.version, str(root), verbose=False)
    sample = devkit.get("sample", frame.token)
    rows = [devkit.get("sample_data", sample["data"][LIDAR_CHANNEL])]
    while rows[-1]["prev"] and len(rows) < _SWEEPS:
        rows.append(devkit.get("sample_data", rows[-1]["prev"]))
    names = [row["filename"] for row in rows]

    def bevel() -> torch.Tensor:
        sweeps = [
            replace(sweep, points=read_lidar_sweep(root, name).points)
            for sweep, name in zip(frame.lidar_sweeps[LIDAR_CHANNEL], names, strict=True)
        ]
        return merge_lidar_sweeps(moving_sweeps(frame, LIDAR_CHANNEL, sweeps), close_radius=1.0)

    def by_devkit() -> NDArray[np.float32]:
        cloud, _ = LidarPointCloud.from_file_multisweep(
            devkit, sample, LIDAR_CHANNEL, LIDAR_CHANNEL, nsweeps=_SWEEPS, min_distance=1.0
        )
        return np.asarray(cloud.points)

    expected = torch.from_numpy(by_devkit()[:3].T.copy())
    in_ego = transform_points(frame.rig.ego_from_sensor[LIDAR_CHANNEL], expected.double())
    merged = bevel()
    off = float((merged[:, :3].double() - in_ego).abs().max())
    times = _interleaved({"bevel": bevel, "nuscenes-devkit": by_devkit}, rounds, repeats)
    work = f"{len(names)} LiDAR sweeps read, checked and moved, {len(merged)} points"
    return _comparison(work, times, f"same points, largest difference {off:.1e} m")


def _bench_points_in_boxes(frame: LogFrame, rounds: int, repeats: int) -> Comparison:
    from nuscenes.utils.data_classes import Box
    from nuscenes.utils.geometry_utils import points_in_box
    from pyquaternion import Quaternion

    cloud = merge_lidar_sweeps(moving_sweeps(frame, LIDAR_CHANNEL, frame.lidar_sweeps[LIDAR_CHANNEL]), close_radius=1.0)
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
    return _comparison(work, _interleaved(ways, rounds, repeats), f"{equal} of {_BOXES} counts equal")


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

    def bevel(image: CameraImage) -> torch.Tensor:
        return (fitted.decoded(image).float() - mean) * inverse_std

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
        return (torch.from_numpy(np.ascontiguousarray(rgb)).float() - mean) * inverse_std

    def peak_signal_to_noise(image: CameraImage) -> float:
        difference = (bevel(image) - by_pil(image)) / inverse_std
        return float(10.0 * torch.log10(255.0**2 / difference.square().mean()))

    ways: dict[str, Callable[[], object]] = {
        "bevel": lambda: [bevel(image) for image in images],
        "PIL, bicubic": lambda: [by_pil(image) for image in images],
        "cv2 at full size, linear": lambda: [by_cv2(image) for image in images],
    }
    worst = min(peak_signal_to_noise(image) for image in images)
    work = (
        f"{len(images)} JPEGs of {fitted.recorded_width}x{fitted.recorded_height} to {fitted.height}x{fitted.width}, "
        "normalised"
    )
    return _comparison(work, _interleaved(ways, rounds, repeats), f"at least {worst:.1f} dB from PIL's")


def _bench_voxels(frame: LogFrame, rounds: int, repeats: int) -> Comparison:
    from spconv.pytorch.utils import PointToVoxel

    detector = base().detector
    cloud = merge_lidar_sweeps(moving_sweeps(frame, LIDAR_CHANNEL, frame.lidar_sweeps[LIDAR_CHANNEL]), close_radius=1.0)
    bev, z_range, height = replace(detector.grid, cell_size=0.075), (-5.0, 3.0), 0.2
    grid = VoxelGrid(bev, z_range, 40)
    lows, highs = zip(bev.x_range, bev.y_range, z_range, strict=True)
    # As many points a voxel and voxels as the published configs keep, and room for all of this cloud.
    by_spconv = PointToVoxel([0.075, 0.075, height], [*lows, *highs], cloud.shape[1], len(cloud), 10)
    batch = PointBatch.of([cloud])

    def bevel() -> torch.Tensor:
        voxels = voxelize(batch, grid)
        return voxels.mean(voxels.points)

    def spconv_mean() -> torch.Tensor:
        voxels, _, counts = by_spconv(cloud)
        return torch.as_tensor(voxels.sum(dim=1) / counts[:, None])

    work = f"{len(cloud)} points to voxels of 0.075 x 0.075 x 0.2 m, means"
    agreement = f"{len(bevel())} voxels, spconv {len(spconv_mean())}"
    ways: dict[str, Callable[[], object]] = {"bevel": bevel, "spconv PointToVoxel": spconv_mean}
    return _comparison(work, _interleaved(ways, rounds, repeats), agreement)


def _comparison(work: str, times: Mapping[str, float], agreement: str) -> Comparison:
    others = tuple(Way(name, value) for name, value in times.items() if name != "bevel")
    return Comparison(work, Way("bevel", times["bevel"]), others, agreement)


def _interleaved(ways: Mapping[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, float]:
    """Milliseconds of CPU time: other processes on the machine make a wall clock useless."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            # Once for the caches and the heap, which the way before has filled with its own.
            run()
            for _ in range(repeats):
                start = time.process_time()
                run()
                times[name].append(1e3 * (time.process_time() - start))
    return {name: median(values) for name, values in times.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
