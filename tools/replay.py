"""Replay a nuScenes scene in recorded order, detect at every keyframe, and write it all as MCAP (for Foxglove)."""

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from datasets.classes import LIDAR_CHANNEL
from datasets.faults import InputRefused, SensorFault, SensorFileError
from datasets.frames import LIDAR_FIELDS, RADAR_FIELDS
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.recording import (
    RecordedFix,
    RecordedMessage,
    fixes_of_scene,
    messages_of_scene,
    read_picture,
    read_points,
)
from datasets.samples.batch import collate
from datasets.samples.make_sample import make_sample
from perception.detector import Detector
from tools.detection import DetectorStream, in_global
from tools.devices import DeviceChoice, choose_device, limit_threads
from tools.drawing.canvas import enlarged, jpeg_bytes
from tools.drawing.features import principal_colors
from tools.exit_codes import Interrupted
from tools.foxglove_log import messages as convert
from tools.foxglove_log.boxes import numbered, scene_of_boxes
from tools.foxglove_log.writer import McapLog
from tools.missing_sensors import MissingSensors
from tools.open_dataset import open_tables
from tools.progress import Progress
from tools.run_config import RunConfig
from tools.shipped_runs import run_or_shipped
from tools.training.interruption import Interruption
from tools.training.run_folder import load_detector

# The picture of the fused features has so many pixels along its longer side.
_FUSED_PIXELS = 512


@dataclass(frozen=True)
class ReplayArguments:
    """What `bevel replay` takes."""

    scene: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SCENE")]]
    """The scene's name, for example scene-0103."""
    data_root: Path
    """The dataroot: the folder that holds v1.0-mini, say."""
    run: Path | None = None
    """The run folder of the detector, or tiny, which comes with Bevel; left out: sensors and annotations only."""
    version: str | None = None
    """The folder of tables, if there are several."""
    min_score: float = 0.2
    """Detections below this score are not written."""
    output: Path = Path("replay")
    """The folder for the MCAP file, which is named after the scene."""
    device: DeviceChoice = "auto"
    threads: int | None = None
    """CPU threads, otherwise as many as cores."""


@dataclass(frozen=True)
class ReplaySummary:
    """What a replay did. Latencies are seconds from the last sensor message of a keyframe to its detections."""

    path: Path
    message_count: int
    keyframe_count: int
    keyframe_total: int
    detection_count: int
    log_seconds: float
    wall_seconds: float
    latencies: tuple[float, ...]
    missing: MissingSensors
    lost_messages: int

    @property
    def real_time_factor(self) -> float:
        """Seconds of the log for each second of the clock: above 1 the replay is faster than the vehicle was."""
        return self.log_seconds / max(self.wall_seconds, 1e-9)

    def text(self) -> str:
        """What is printed at the end."""
        lines = [
            f"{self.keyframe_count} keyframes, {self.message_count} messages written, {self.detection_count} "
            f"detections; {self.log_seconds:.1f} s of log in {self.wall_seconds:.1f} s: real-time factor "
            f"{self.real_time_factor:.2f}"
        ]
        if self.latencies:
            p50, p95 = torch.tensor(self.latencies).quantile(torch.tensor([0.5, 0.95])).tolist()
            lines.append(
                f"Latency of a keyframe (reading, preparing, detecting): p50 {p50 * 1e3:.0f} ms, p95 {p95 * 1e3:.0f} ms"
            )
        if self.lost_messages:
            lines.append(f"{self.lost_messages} sensor messages could not be read and are left out.")
        return "\n".join([*lines, self.missing.table()])


def replay(arguments: ReplayArguments) -> Path:
    """Replay the scene and return the MCAP file. Sensor files that are missing are reported and survived.

    Raises InputRefused for bad input, and Interrupted after Ctrl-C: the file then holds what was replayed until then.
    """
    summary = run_replay(arguments)
    print(summary.text())
    if summary.keyframe_count < summary.keyframe_total:
        raise Interrupted(
            f"Stopped after {summary.keyframe_count} of {summary.keyframe_total} keyframes; {summary.path} holds them."
        )
    return summary.path


def run_replay(arguments: ReplayArguments) -> ReplaySummary:
    """As `replay`, without a word; after Ctrl-C the summary counts fewer keyframes than there are."""
    limit_threads(arguments.threads)
    config: RunConfig | None = None
    detector: Detector | None = None
    if arguments.run is not None:
        config, detector = load_detector(run_or_shipped(arguments.run), choose_device(arguments.device))
    if Path(arguments.scene).suffix in (".mcap", ".bag", ".db3"):
        raise InputRefused(f"{arguments.scene}: recordings are not read yet; give the name of a nuScenes scene.")
    reader = open_tables(arguments.data_root, arguments.version, config.sample if config is not None else None)
    with Interruption() as interruption:
        replayed = SceneReplay(reader, arguments.scene, config, detector, arguments.min_score)
        return replayed.run(output_path(arguments.output, arguments.scene), interruption)


def output_path(folder: Path, scene: str) -> Path:
    """The MCAP file of a scene."""
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '-', scene)[:100].lstrip('.')}.mcap"


class SceneReplay:
    """One scene, message by message, as it reached the vehicle's computer.

    A keyframe is complete when the last of its sensors has been heard; then the detector runs on what was recorded
    until then (the sweeps before come from the tables' chains, which lead back in time only).
    """

    def __init__(
        self,
        reader: NuScenesReader,
        scene: str,
        config: RunConfig | None,
        detector: Detector | None,
        min_score: float,
    ) -> None:
        self._reader = reader
        self._config = config
        self._stream = None if detector is None else DetectorStream(detector)
        self._min_score = min_score
        self._messages = messages_of_scene(reader, scene)
        self._fixes = fixes_of_scene(reader, scene)
        self._scene = scene
        self._awaited = Counter(message.keyframe_token for message in self._messages if message.keyframe_token)
        self._keyframe_total = len(self._awaited)
        self._missing = MissingSensors()
        self._lost = 0
        self._detection_count = 0
        self._latencies: list[float] = []

    def run(self, path: Path, interruption: Interruption) -> ReplaySummary:
        """Write the MCAP file; stops early, with a file that is whole, once an interruption is requested."""
        began = time.perf_counter()
        awaited = Counter(self._awaited)
        done, last_us = 0, self._messages[0].timestamp_us
        with McapLog(path) as log, Progress(f"replaying {self._scene}", self._keyframe_total) as shown:
            log.describe("bevel", {"scene": self._scene, "version": self._reader.version})
            for item in _in_order(self._messages, self._fixes):
                if interruption.requested:
                    break
                last_us = item.timestamp_us
                if isinstance(item, RecordedFix):
                    log.write("/gps", item.timestamp_us, convert.location_fix(item.timestamp_us, item.fix))
                    continue
                self._write_sensor(log, item)
                if item.keyframe_token is None:
                    continue
                awaited[item.keyframe_token] -= 1
                if awaited[item.keyframe_token] == 0:
                    self._write_keyframe(log, item.timestamp_us, item.keyframe_token)
                    done += 1
                    shown.advance()
            count = log.count
            log.keep()
        return ReplaySummary(
            path=path,
            message_count=count,
            keyframe_count=done,
            keyframe_total=self._keyframe_total,
            detection_count=self._detection_count,
            log_seconds=(last_us - self._messages[0].timestamp_us) * 1e-6,
            wall_seconds=time.perf_counter() - began,
            latencies=tuple(self._latencies),
            missing=self._missing,
            lost_messages=self._lost,
        )

    def _write_sensor(self, log: McapLog, message: RecordedMessage) -> None:
        """The reading, where the vehicle was, and where the sensor sits. A file that cannot be read is counted."""
        moment, channel = message.timestamp_us, message.channel
        edges = [
            (convert.MAP, convert.BASE_LINK, message.global_from_ego),
            (convert.BASE_LINK, channel, message.ego_from_sensor),
        ]
        log.write("/tf", moment, convert.transforms(moment, edges))
        topic = f"/{channel.lower()}"
        try:
            if message.camera is not None:
                encoded = read_picture(self._reader, message)
                log.write(f"{topic}/camera_info", moment, convert.camera_calibration(moment, channel, message.camera))
                log.write(f"{topic}/image_rect_compressed", moment, convert.compressed_image(moment, channel, encoded))
            else:
                fields = LIDAR_FIELDS if channel == LIDAR_CHANNEL else RADAR_FIELDS
                points = read_points(self._reader, message)
                log.write(topic, moment, convert.point_cloud(moment, channel, points, fields))
        except SensorFileError as error:
            self._lost += 1
            if message.keyframe_token is None:
                self._missing.add(message.filename, [SensorFault(channel, error.reason, error.detail)])
        if channel == LIDAR_CHANNEL:
            log.write("/pose", moment, convert.pose_in_map(moment, message.global_from_ego))

    def _write_keyframe(self, log: McapLog, moment: int, token: str) -> None:
        """Annotations, detections and the fused features of a complete keyframe, logged when it became complete."""
        began = time.perf_counter()
        frame = self._reader.frame(token)
        reading = time.perf_counter() - began
        self._missing.add(token, frame.faults, frame.impairments)
        if frame.ego_states:
            log.write("/odom", moment, convert.odometry(frame.ego_states[-1]))
        if frame.annotations is not None:
            boxes, names = frame.annotations.boxes_global, frame.annotations.instance_tokens
            log.write("/markers/annotations", moment, scene_of_boxes(frame.timestamp_us, boxes, names, 0.25, False))
        if self._stream is None or self._config is None:
            return
        began = time.perf_counter()
        (boxes,), predictions = self._stream.detect(collate([make_sample(frame, self._config.sample)]))
        detections = in_global(boxes[boxes.scores >= self._min_score], frame.global_from_ego)
        self._latencies.append(reading + time.perf_counter() - began)
        self._detection_count += len(detections)
        names = numbered("detection", detections)
        log.write("/markers/detections", moment, scene_of_boxes(frame.timestamp_us, detections, names, 0.5, True))
        picture = convert.compressed_image(
            frame.timestamp_us,
            convert.BASE_LINK,
            _fused_picture(predictions.bev[0].cpu(), self._config.detector.patch),
        )
        log.write("/bev/fused", moment, picture)


def _fused_picture(bev: Float[Tensor, "C Y X"], patch: int) -> bytes:
    """The fused features as a JPEG, ego x up."""
    cells = principal_colors(bev, patch)
    factor = max(1, _FUSED_PIXELS // max(cells.shape[:2]))
    return jpeg_bytes(enlarged(cells, cells.shape[0] * factor, cells.shape[1] * factor))


def _in_order(
    messages: tuple[RecordedMessage, ...], fixes: tuple[RecordedFix, ...]
) -> list[RecordedMessage | RecordedFix]:
    """Sensor messages and GPS fixes by time; fixes from outside the sensors' time are left out."""
    first, last = messages[0].timestamp_us, messages[-1].timestamp_us
    heard = [fix for fix in fixes if first <= fix.timestamp_us <= last]
    return sorted([*messages, *heard], key=lambda item: item.timestamp_us)
