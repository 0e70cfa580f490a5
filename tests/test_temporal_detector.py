"""The detector with a memory: clips and streams come to the same, it trains, and samples of clips belong together."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calibration.transforms import from_yaw, invert, transform_points
from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.augmentation.sensor_dropout import SensorDropout
from datasets.corruptions.corruption import Together
from datasets.corruptions.reader import CorruptedReader
from datasets.faults import InputRefused
from datasets.frames import LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.nuscenes.results import read_results
from datasets.object_paste.paste import ObjectPaste
from datasets.samples.batch import MODALITIES, collate
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.sample import Sample
from datasets.shards.manifest import Contents
from datasets.shards.pack import pack
from datasets.shards.reader import ShardReader
from perception.bev_neck import BevNeckConfig
from perception.detector import Detector, DetectorConfig, Predictions
from perception.fusion.build import FusionKind, fusion_config
from perception.grid import BevGrid
from perception.heads.query_head import QueryHeadConfig
from perception.modality_dropout import drop_modalities
from perception.temporal import FrameBevs, TemporalConfig, follows, warped
from perception.weights import save_weights
from tests.nuscenes_fixture import write_dataset
from tests.random_batch import random_sample
from tests.small_run import small_config, small_detector
from tests.test_replay import read_log
from tools.detection import DetectorStream
from tools.predict import PredictArguments, batches_in_order, predict
from tools.replay import ReplayArguments, replay
from tools.run_config import RunConfig, config_to_json, write_config
from tools.train import TrainArguments, train
from tools.training.loading import load_batches
from tools.training.order import EpochIndex
from tools.training.run_folder import RunFolder

TEMPORAL = TemporalConfig(earlier_frames=2, neck=BevNeckConfig((8, 8), (1, 1)))


def config_of(kind: FusionKind = "concat", head: str = "center") -> DetectorConfig:
    config = small_detector()
    if kind != "transformer":
        config = replace(config, fusion=fusion_config(kind))
    if head == "query":
        config = replace(config, head=QueryHeadConfig(channels=8, hidden=16, queries=20, heads=2, feedforward=16))
    return replace(config, temporal=TEMPORAL)


def detector(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    return Detector(config)


def drive(scene: str, count: int, seed: int) -> list[Sample]:
    """Frames of a vehicle that drives a curve; of the third the LiDAR is gone, of the fourth everything but radar."""
    generator, samples = torch.Generator().manual_seed(seed), []
    for index in range(count):
        sample = random_sample(f"{scene}-{index}", generator, (32, 64), 300, 60, 4, 40.0)
        sample = replace(
            sample,
            scene_name=scene,
            timestamp_us=1_533_000_000_000_000 + 500_000 * index,
            global_from_ego=from_yaw(0.2 * index, (500.0 + 3.0 * index, 800.0, 0.0)),
            lidar_points=sample.lidar_points[: 0 if index in (2, 3) else 300],
            lidar_available=index not in (2, 3),
            camera_available=sample.camera_available & (index != 3),
        )
        samples.append(sample)
    return samples


def clips_of(frames: list[Sample], earlier: int = 2) -> list[Sample]:
    return [
        replace(frame, previous=tuple(reversed(frames[max(index - earlier, 0) : index])))
        for index, frame in enumerate(frames)
    ]


def same_boxes(one: Detector, found: Predictions, expected: Predictions, tolerance: float) -> None:
    torch.testing.assert_close(found.bev, expected.bev, atol=tolerance, rtol=tolerance)
    for a, b in zip(one.decode(found), one.decode(expected), strict=True):
        assert len(a) == len(b) > 0
        for name in ("centers", "velocities", "scores"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=10 * tolerance, rtol=10 * tolerance)


@torch.no_grad()
def test_a_stream_comes_to_the_same_as_clips() -> None:
    """To the last bit, frame by frame over two scenes, a sensor dying in the middle; several at a time to 1e-5."""
    network = detector(config_of()).eval()
    scenes = [drive("one", 5, 0), drive("two", 2, 1)]
    clips = [clip for frames in scenes for clip in clips_of(frames)]
    expected = [network(collate([clip])) for clip in clips]
    alone = [network(collate([replace(clip, previous=())])) for clip in clips]
    memory: FrameBevs | None = None
    for index, clip in enumerate(clips):
        found, memory = network.step(collate([clip]), memory)
        assert torch.equal(found.bev, expected[index].bev)
        assert memory is not None
        assert len(memory) == min(index + 1, 2)
        # The first frame of a scene is looked at by itself, the others are not.
        assert torch.equal(found.bev, alone[index].bev) == (index in (0, 5))
        same_boxes(network, found, expected[index], 0.0)
    # All clips in one batch, stand-ins at the start of scenes included; and the stream in batches.
    together = network(collate(clips))
    for index in range(len(clips)):
        torch.testing.assert_close(together.bev[index], expected[index].bev[0], atol=1e-5, rtol=1e-5)
    memory = None
    for start in range(0, len(clips), 3):
        found, memory = network.step(collate(clips[start : start + 3]), memory)
        wanted = torch.cat([predictions.bev for predictions in expected[start : start + 3]])
        torch.testing.assert_close(found.bev, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "head"), [("concat", "center"), ("transformer", "query")])
def test_every_subset_of_sensors_with_a_memory_trains_a_step_and_detects(kind: FusionKind, head: str) -> None:
    network = detector(config_of(kind, head)).train()
    full = collate([clips_of(drive("one", 2, 0))[-1], clips_of(drive("two", 3, 1))[-1]])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for present in itertools.product([True, False], repeat=3):
        absent = {name for name, here in zip(MODALITIES, present, strict=False) if not here}
        # With every other subset the sensors die just now: the frames before still have them.
        batch = full.without(*absent)
        if sum(present) % 2:
            batch = replace(batch, previous=full.previous)
        optimizer.zero_grad()
        predictions = network(batch)
        losses = network.losses(predictions, full)
        losses.total.backward()
        assert losses.total.isfinite(), absent
        for name, parameter in network.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), (name, absent)
            if not absent:
                assert parameter.grad is not None, name
                assert (parameter.grad != 0).any(), name
        optimizer.step()
        assert all(boxes.centers.isfinite().all() for boxes in network.decode(predictions))


def test_earlier_frames_leave_no_trace_in_the_network_and_none_of_the_absent_sensors_data() -> None:
    """No gradient runs through them, batch norm's statistics count the present frame alone."""
    network = detector(config_of()).train()
    clip = clips_of(drive("one", 2, 0))[-1]
    batch = collate([clip, clip])
    statistics = network.camera.backbone.resnet.state_dict()  # type: ignore[union-attr]
    counts = {name: tensor.clone() for name, tensor in statistics.items() if name.endswith("num_batches_tracked")}
    assert counts
    network(batch)
    for name, tensor in network.camera.backbone.resnet.state_dict().items():  # type: ignore[union-attr]
        if name in counts:
            assert tensor == counts[name] + 1
    assert network.training
    spoilt = replace(batch.previous[0], images=torch.full_like(batch.previous[0].images, 9))
    blind = replace(spoilt, camera_available=torch.zeros_like(spoilt.camera_available))
    network.eval()
    with torch.no_grad():
        one = network(replace(batch, previous=(blind,)))
        other = network(replace(batch, previous=(batch.previous[0].without("camera"),)))
    assert torch.equal(one.bev, other.bev)


def test_modality_dropout_takes_from_earlier_frames_what_it_takes_from_the_present() -> None:
    clip = clips_of(drive("one", 3, 0))[-1]  # the present one has no LiDAR, the others have
    batch = collate([clip] * 40)
    dropped = drop_modalities(batch, 0.9, torch.Generator().manual_seed(0))
    assert not dropped.camera_available.any(dim=1).all()
    assert dropped.camera_available.any()
    for earlier in dropped.previous:
        assert torch.equal(earlier.camera_available, dropped.camera_available)
        assert torch.equal(earlier.radar_available, dropped.radar_available)
        assert torch.equal(earlier.ego_motion_valid, dropped.ego_motion_valid)
        assert earlier.lidar_available.all()


def test_without_a_memory_the_network_has_the_weights_that_it_had() -> None:
    config = config_of()
    names = set(detector(replace(config, temporal=None)).state_dict())
    more = set(detector(config).state_dict()) - names
    assert names <= set(detector(config).state_dict())
    assert all(name.startswith("temporal.") for name in more)
    network = detector(replace(config, temporal=None)).eval()
    clip = clips_of(drive("one", 2, 0))[-1]
    found, memory = network.step(collate([clip]), None)
    assert memory is None
    assert torch.equal(found.bev, network(collate([replace(clip, previous=())])).bev)


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


def test_what_stands_in_a_real_recording_is_where_the_memory_says(real_data: Path) -> None:
    """Annotated objects that stand, drawn as dots in the BEV of a real keyframe and carried on to the next one."""
    reader = NuScenesReader(real_data / "nuscenes-minival")
    grid, config = BevGrid((-40.0, 40.0), (-40.0, 40.0), 0.8), TemporalConfig()

    def dots(frame: LogFrame, instances: list[str]) -> FrameBevs:
        centers = torch.stack([centers_of(frame)[token] for token in instances])
        centers = transform_points(invert(frame.global_from_ego), centers)
        distance = (grid.centers().double()[:, :, None] - centers[:, :2]).norm(dim=-1)
        return FrameBevs(
            bev=torch.exp(-((distance / 3.2) ** 2)).amax(dim=-1).float()[None, None],
            sensed=torch.tensor([True]),
            scene_names=(frame.scene_name,),
            timestamps_us=torch.tensor([frame.timestamp_us]),
            global_from_ego=frame.global_from_ego[None],
        )

    tokens = reader.frame_tokens("scene-0916")  # it turns by half a circle
    for place in range(0, len(tokens) - 1, 4):
        first, second = reader.frame(tokens[place]), reader.frame(tokens[place + 1])
        before, after = centers_of(first), centers_of(second)
        standing = [token for token in before.keys() & after.keys() if (before[token] - after[token]).norm() < 0.05]
        assert len(standing) >= 5
        earlier, now = dots(first, standing), dots(second, standing)
        assert follows(config, now, earlier).all()
        found, known = warped(earlier.bev, torch.linalg.solve(earlier.global_from_ego, now.global_from_ego), grid)
        here = known[:, None]
        # Bilinear sampling of such dots leaves 0.05, their 5 cm another 0.02; unmoved they differ ten times as much.
        assert float((found - now.bev)[here].abs().max()) < 0.12
        assert float((earlier.bev - now.bev)[here].abs().max()) > 0.6


def centers_of(frame: LogFrame) -> dict[str, torch.Tensor]:
    """In global, by instance."""
    assert frame.annotations is not None
    return dict(zip(frame.annotations.instance_tokens, frame.annotations.boxes_global.centers, strict=True))
