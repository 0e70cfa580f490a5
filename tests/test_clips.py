"""Clips of a recording: which frames they hold, how they are augmented, what trains and detects with them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.augmentation.sensor_dropout import SensorDropout
from datasets.corruptions.corruption import Together
from datasets.corruptions.reader import CorruptedReader
from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import read_results
from datasets.object_paste.paste import ObjectPaste
from datasets.samples.batch import collate
from datasets.samples.fusion_dataset import FusionDataset
from datasets.shards.manifest import Contents
from datasets.shards.pack import pack
from datasets.shards.reader import ShardReader
from perception.weights import save_weights
from tests.nuscenes_fixture import write_dataset
from tests.small_run import small_config
from tests.test_replay import read_log
from tests.test_temporal_detector import config_of, detector
from tools.detection import DetectorStream
from tools.predict import PredictArguments, batches_in_order, predict
from tools.replay import ReplayArguments, replay
from tools.run_config import RunConfig, config_to_json, write_config
from tools.train import TrainArguments, train
from tools.training.loading import load_batches
from tools.training.order import EpochIndex
from tools.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of four keyframes each, both of the official split mini_train."""
    root = tmp_path_factory.mktemp("nuscenes")
    write_dataset(root, ("scene-0061", "scene-0553"), keyframes=4)
    return root


def run_config(steps: int, augmentation: Augmentation | None = None) -> RunConfig:
    config = small_config(steps, checkpoint_interval=2, modality_dropout=0.5)
    return replace(config, detector=config_of(), training=replace(config.training, augmentation=augmentation))


def reader_of(root: Path) -> NuScenesReader:
    return NuScenesReader(root, lidar_sweeps=2, radar_sweeps=2)


def test_the_frames_before_are_those_of_the_same_scene(data_root: Path, tmp_path: Path) -> None:
    """From tables, from shards in which they lie in another shard, and behind a corruption."""
    tables = reader_of(data_root)
    tokens = tables.frame_tokens("all")
    pack([tables.frame(token) for token in tokens], tmp_path / "shards", contents_of(tables), samples_per_shard=3)
    shards = ShardReader(str(tmp_path / "shards"))
    for reader in (tables, shards, CorruptedReader(tables, Together(()), tokens)):
        assert reader.earlier_tokens(tokens[3], 4) == (tokens[2], tokens[1], tokens[0])
        assert reader.earlier_tokens(tokens[3], 2) == (tokens[2], tokens[1])
        assert reader.earlier_tokens(tokens[4], 2) == ()
        assert reader.earlier_tokens(tokens[5], 2) == (tokens[4],)
        with pytest.raises(KeyError):
            reader.earlier_tokens("nowhere", 1)
    config = run_config(1).sample
    for index in (3, 5):  # the fourth lies in the second shard, those before it in the first
        one = FusionDataset(tables, tokens, config, earlier_frames=2)[index]
        # A part of the tokens: the frames before are found all the same.
        other = FusionDataset(shards, tokens[index : index + 1], config, earlier_frames=2)[0]
        assert [frame.token for frame in one.previous] == list(tables.earlier_tokens(tokens[index], 2))
        for a, b in zip((one, *one.previous), (other, *other.previous), strict=True):
            assert a.token == b.token
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.lidar_points, b.lidar_points)
            assert torch.equal(a.global_from_ego, b.global_from_ego)
    assert FusionDataset(tables, tokens, config)[3].previous == ()


def contents_of(reader: NuScenesReader) -> Contents:
    return Contents(
        dataset="fixture", version=reader.version, split="all", lidar_sweeps=2, radar_sweeps=2, ego_states=5
    )


def test_a_clip_is_augmented_as_one(data_root: Path) -> None:
    """What stands in the world lies in all its frames where the poses say, and lost sensors are lost in all."""
    augmentation = Augmentation(bev=BevAugmentation(translation_std=0.5), dropout=SensorDropout(camera=0.5))
    reader = reader_of(data_root)
    tokens, config = reader.frame_tokens("all"), run_config(1).sample
    dataset = FusionDataset(reader, tokens, config, augmentation=augmentation, earlier_frames=2)
    plain = FusionDataset(reader, tokens, config, augmentation=augmentation)
    for epoch in range(4):
        clip, alone = dataset.sample(3, epoch), plain.sample(3, epoch)
        assert torch.equal(clip.lidar_points, alone.lidar_points)
        assert torch.equal(clip.global_from_ego, alone.global_from_ego)
        assert clip.boxes is not None
        assert len(clip.previous) == 2
        standing = clip.boxes.velocities.norm(dim=1) < 0.1
        assert standing.sum() >= 3
        for earlier in clip.previous:
            assert torch.equal(earlier.camera_available, clip.camera_available)
            assert earlier.boxes is not None
            now_from_earlier = torch.linalg.solve(clip.global_from_ego, earlier.global_from_ego)
            moved = earlier.boxes.centers.double() @ now_from_earlier[:3, :3].T + now_from_earlier[:3, 3]
            torch.testing.assert_close(moved[standing], clip.boxes.centers[standing].double(), atol=1e-3, rtol=1e-4)
            # They did move under the vehicle, and were turned: this is not the identity.
            assert float((earlier.boxes.centers - clip.boxes.centers).norm(dim=1).min()) > 0.5


def test_a_broken_file_of_an_earlier_frame_is_refused(data_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data_root, tmp_path / "broken")
    reader = reader_of(root)
    tokens = reader.frame_tokens("all")
    picture = reader.frame(tokens[0]).images["CAM_FRONT"].source
    (root / picture).write_bytes(b"no picture")
    config = run_config(1)
    dataset = FusionDataset(reader, tokens, config.sample, earlier_frames=1)
    order = [[EpochIndex(0, 1)]]
    with pytest.raises(InputRefused, match="CAM_FRONT"):
        next(load_batches(dataset, order, workers=0, missing_sensors="refuse"))
    loaded = next(load_batches(dataset, order, workers=0, missing_sensors="allow"))
    assert loaded.faults == ((),)
    assert loaded.batch.previous[0].camera_available.sum() == 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a detector with a memory that was not trained."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "temporal")
    folder.path.mkdir()
    config = run_config(1)
    write_config(folder.config, config)
    save_weights(detector(config.detector), folder.weights, config_to_json(config))
    return folder.path


def test_a_recording_is_detected_in_as_trained_on(data_root: Path, run: Path, tmp_path: Path) -> None:
    """`predict` one by one and three at a time, `replay`, and clips give the same boxes."""
    config = run_config(1)
    network = detector(config.detector).eval()
    reader = reader_of(data_root)
    tokens = reader.frame_tokens("all")
    clips = FusionDataset(reader, tokens, config.sample, earlier_frames=2)
    expected, remembers = {}, []
    for index, token in enumerate(tokens):
        batch = collate([clips[index]])
        (boxes,), (alone,) = network.detect(batch), network.detect(replace(batch, previous=()))
        expected[token] = boxes.to(torch.float64).transformed(batch.global_from_ego[0])
        remembers.append(not torch.equal(alone.scores, boxes.scores))
    assert remembers == [False, True, True, True] * 2
    frames = FusionDataset(reader, tokens, config.sample)
    stream, found = DetectorStream(network), {}
    for loaded in batches_in_order(frames, 1, 0, "refuse"):
        found |= stream.detect_global(loaded.batch)
    assert list(found) == list(tokens)
    for token, boxes in found.items():
        assert torch.equal(boxes.scores, expected[token].scores)
        assert torch.equal(boxes.centers, expected[token].centers)
    # Several at a time round otherwise, and boxes that are as good as one another may change places.
    arguments = PredictArguments(run, data_root, split="all", output=tmp_path / "all.json", batch_size=3, device="cpu")
    for token, boxes in read_results(predict(arguments)).items():
        scores = expected[token].scores[: len(boxes)]
        torch.testing.assert_close(boxes.scores, scores, atol=1e-4, rtol=1e-3)
    log = replay(ReplayArguments("scene-0061", data_root, run, min_score=0.0, output=tmp_path, device="cpu"))
    assert scores_in(log) == pytest.approx(
        [float(score) for token in tokens[:4] for score in expected[token].scores], abs=1e-4
    )


def scores_in(log: Path) -> list[float]:
    return [
        float(pair.value)
        for topic, _, message in read_log(log)
        if topic == "/markers/detections"
        for entity in message.entities
        for pair in entity.metadata
        if pair.key == "score"
    ]


def test_a_resumed_run_on_clips_ends_in_the_same_bits(data_root: Path, tmp_path: Path) -> None:
    augmentation = Augmentation(bev=BevAugmentation())
    config = run_config(3, augmentation)
    write_config(tmp_path / "given.json", config)
    given = TrainArguments(str(tmp_path / "given.json"), data_root, split="all", output=tmp_path / "run", device="cpu")
    checkpoint = train(given) / "checkpoints" / "step_00000003"
    expected = load_file(checkpoint / "raw_weights.safetensors")
    shutil.rmtree(checkpoint)
    (tmp_path / "run" / "weights.safetensors").unlink()
    train(replace(given, resume=True, workers=1))
    found = load_file(checkpoint / "raw_weights.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    untrained = detector(config.detector).state_dict()
    assert any(
        not torch.equal(tensor, untrained[name]) for name, tensor in found.items() if name.startswith("temporal.")
    )


def test_what_does_not_go_with_a_memory_is_refused(data_root: Path) -> None:
    with pytest.raises(ValueError, match="late fusion has no fused BEV"):
        config_of("late")
    paste = Augmentation(paste=ObjectPaste(database="objects"))
    with pytest.raises(ValueError, match="leave one of them out"):
        run_config(1, paste)
    reader, config = reader_of(data_root), run_config(1)
    with pytest.raises(ValueError, match="pasted into single frames"):
        FusionDataset(reader, (), config.sample, augmentation=paste, earlier_frames=1)
