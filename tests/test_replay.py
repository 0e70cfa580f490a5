"""The command `replay`: what is in the MCAP file equals what is in the dataset and what the detector says."""

import math
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory

from calibration.rig import GpsFix
from datasets.classes import CAMERA_CHANNELS, DETECTION_CLASSES, RADAR_CHANNELS
from datasets.faults import InputRefused
from datasets.frames import LIDAR_FIELDS
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.recording import messages_of_scene
from datasets.samples.batch import collate
from datasets.samples.make_sample import make_sample
from tests.nuscenes_fixture import read_table, write_dataset
from tools.exit_codes import Interrupted
from tools.foxglove_log.messages import location_fix
from tools.foxglove_log.writer import McapLog
from tools.replay import ReplayArguments, output_path, replay
from tools.training.run_folder import load_detector

SCENE, KEYFRAMES = "scene-0103", 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuscenes")
    write_dataset(folder, keyframes=KEYFRAMES, can_bus=True)
    return folder


@pytest.fixture(scope="module")
def log(root: Path, untrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, Any]]:
    """(topic, log time in ns, message) of the whole file, in the order of the file."""
    output = tmp_path_factory.mktemp("replay")
    return read_log(replay(ReplayArguments(SCENE, root, untrained_run, min_score=0.0, output=output)))


def read_log(path: Path) -> list[tuple[str, int, Any]]:
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        return [
            (channel.topic, message.log_time, decoded)
            for _, channel, message, decoded in reader.iter_decoded_messages(log_time_order=False)
        ]


def test_every_sensor_message_is_there_once_and_in_time_order(root: Path, log: list[tuple[str, int, Any]]) -> None:
    times = [time for _, time, _ in log]
    assert times == sorted(times)
    expected: Counter[str] = Counter()
    samples = {row["token"] for row in read_table(root, "sample") if row["scene_token"] == f"{SCENE}-token"}
    for row in read_table(root, "sample_data"):
        if row["sample_token"] in samples:
            expected[row["filename"].split("/")[1].lower()] += 1
    topics = Counter(topic for topic, _, _ in log)
    for channel in CAMERA_CHANNELS:
        assert topics[f"/{channel.lower()}/image_rect_compressed"] == expected[channel.lower()] > 0
        assert topics[f"/{channel.lower()}/camera_info"] == expected[channel.lower()]
    for channel in ("LIDAR_TOP", *RADAR_CHANNELS):
        assert topics[f"/{channel.lower()}"] == expected[channel.lower()] > 0
    assert topics["/tf"] == sum(expected.values())
    assert topics["/markers/annotations"] == topics["/markers/detections"] == topics["/bev/fused"] == KEYFRAMES
    assert topics["/gps"] > 0


def test_pictures_and_points_are_those_of_the_files(root: Path, log: list[tuple[str, int, Any]]) -> None:
    image = next(message for topic, _, message in log if topic == "/cam_back/image_rect_compressed")
    assert image.data == sorted((root / "samples" / "CAM_BACK").glob(f"{SCENE}*"))[0].read_bytes()
    assert image.format == "jpeg"
    cloud = next(message for topic, _, message in log if topic == "/lidar_top")
    first = sorted((root / "samples" / "LIDAR_TOP").glob(f"{SCENE}*"))[0]
    assert cloud.data == first.read_bytes()
    assert [field.name for field in cloud.fields] == list(LIDAR_FIELDS)
    assert cloud.point_stride == 20


def test_points_moved_by_the_logged_transforms_fall_into_the_logged_annotations(
    log: list[tuple[str, int, Any]],
) -> None:
    """The fixture puts five LiDAR points into each box: seen through /tf they must lie in the cubes."""
    cloud = next(message for topic, _, message in log if topic == "/lidar_top")
    time = next(time for topic, time, _ in log if topic == "/lidar_top")
    tree = next(
        {edge.child_frame_id: edge for edge in message.transforms}
        for topic, logged, message in log
        if topic == "/tf" and logged == time and any(edge.child_frame_id == "LIDAR_TOP" for edge in message.transforms)
    )
    points = np.frombuffer(cloud.data, np.float32).reshape(-1, 5)[:, :3].astype(float)
    for frame in ("LIDAR_TOP", "base_link"):
        points = points @ rotation(tree[frame].rotation).T + vector(tree[frame].translation)
    boxes = next(message for topic, _, message in log if topic == "/markers/annotations")
    assert len(boxes.entities) == 10
    for entity in boxes.entities:
        cube = entity.cubes[0]
        local = (points - vector(cube.pose.position)) @ rotation(cube.pose.orientation)
        inside = (np.abs(local) <= vector(cube.size) / 2 + 1e-4).all(axis=1)
        assert inside.sum() >= 5


def vector(message: Any) -> np.ndarray:
    return np.array([message.x, message.y, message.z])


def rotation(q: Any) -> np.ndarray:
    w, x, y, z = q.w, q.x, q.y, q.z
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_detections_equal_those_of_the_detector(
    root: Path, untrained_run: Path, log: list[tuple[str, int, Any]]
) -> None:
    config, detector = load_detector(untrained_run)
    reader = NuScenesReader(root, lidar_sweeps=config.sample.lidar_sweeps, radar_sweeps=config.sample.radar_sweeps)
    logged = [message for topic, _, message in log if topic == "/markers/detections"]
    tokens = reader.frame_tokens(SCENE)
    assert len(tokens) == len(logged)
    total = 0
    for token, message in zip(tokens, logged, strict=True):
        frame = reader.frame(token)
        boxes = detector.detect(collate([make_sample(frame, config.sample)]))[0].to(torch.float64)
        boxes = boxes.transformed(frame.global_from_ego)
        total += len(boxes)
        assert len(message.entities) == len(boxes)
        for index, entity in enumerate(message.entities):
            facts = {pair.key: pair.value for pair in entity.metadata}
            cube = entity.cubes[0]
            assert np.allclose(vector(cube.pose.position), boxes.centers[index], atol=1e-9)
            assert np.allclose(vector(cube.size), boxes.sizes_wlh[index][[1, 0, 2]])
            yaw = 2 * math.atan2(cube.pose.orientation.z, cube.pose.orientation.w)
            assert math.isclose(math.cos(yaw - float(boxes.yaws[index])), 1.0)
            assert facts["class"] == DETECTION_CLASSES[int(boxes.labels[index])]
            assert math.isclose(float(facts["score"]), float(boxes.scores[index]), rel_tol=1e-6)
            assert math.isclose(float(facts["vx"]), float(boxes.velocities[index, 0]), rel_tol=1e-6, abs_tol=1e-9)
    assert total > 0


def test_a_keyframe_is_detected_when_its_last_sensor_was_heard(root: Path, log: list[tuple[str, int, Any]]) -> None:
    times = [time for topic, time, _ in log if topic == "/markers/detections"]
    messages = messages_of_scene(NuScenesReader(root), SCENE)
    for token, time in zip(NuScenesReader(root).frame_tokens(SCENE), times, strict=True):
        heard = max(message.timestamp_us for message in messages if message.keyframe_token == token)
        assert time == heard * 1000


def test_missing_files_are_survived_and_counted(
    untrained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", (SCENE,), keyframes=2)
    for channel in (*CAMERA_CHANNELS, "LIDAR_TOP"):
        for file in (tmp_path / "data" / "samples" / channel).iterdir():
            file.unlink()
    path = replay(ReplayArguments(SCENE, tmp_path / "data", untrained_run, min_score=0.0, output=tmp_path))
    assert Counter(topic for topic, _, _ in read_log(path))["/markers/detections"] == 2
    said = capsys.readouterr().out
    assert "14 sensor messages could not be read" in said
    assert "missing_file" in said
    assert "real-time factor" in said


def test_without_a_run_there_are_no_detections(root: Path, tmp_path: Path) -> None:
    topics = {topic for topic, _, _ in read_log(replay(ReplayArguments(SCENE, root, output=tmp_path)))}
    assert "/markers/annotations" in topics
    assert "/markers/detections" not in topics


def test_unknown_scene_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no scene 'scene-9999'"):
        replay(ReplayArguments("scene-9999", root, output=tmp_path))
    assert not list(tmp_path.iterdir())


def test_interruption_leaves_a_whole_file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the second keyframe is read: the file ends there, and reads back without a fault."""
    read = NuScenesReader.frame

    def press_ctrl_c(reader: NuScenesReader, token: str) -> Any:
        if token.endswith("-1"):
            os.kill(os.getpid(), signal.SIGINT)
        return read(reader, token)

    monkeypatch.setattr(NuScenesReader, "frame", press_ctrl_c)
    with pytest.raises(Interrupted, match="2 of 3 keyframes"):
        replay(ReplayArguments(SCENE, root, output=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [f"{SCENE}.mcap"]
    topics = Counter(topic for topic, _, _ in read_log(tmp_path / f"{SCENE}.mcap"))
    assert topics["/markers/annotations"] == 2


def test_a_failed_log_leaves_nothing(tmp_path: Path) -> None:
    fix = location_fix(5, GpsFix(1.0, 2.0, 3.0))
    with McapLog(tmp_path / "a.mcap") as log:
        log.write("/gps", 5, fix)
        with pytest.raises(ValueError, match="after one at"):
            log.write("/gps", 4, fix)
    assert not list(tmp_path.iterdir())


def test_output_stays_in_its_folder() -> None:
    assert output_path(Path("out"), "../../x").parent == Path("out")
    assert output_path(Path("out"), "../../x").name.endswith("x.mcap")
