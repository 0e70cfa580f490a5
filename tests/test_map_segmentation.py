"""The map from its picture to the BEV of a sample, and how it is learnt."""

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nuscenes.utils.map_mask import MapMask as DevkitMask
from sklearn.metrics import jaccard_score

from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.faults import InputRefused
from datasets.nuscenes.map_masks import MapMasks
from datasets.nuscenes.mask_png import decode_mask
from datasets.nuscenes.reader import NuScenesReader
from datasets.samples.batch import collate
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.make_sample import SampleConfig
from datasets.samples.map_raster import MapMask, MapTargets, rasterize
from datasets.samples.sample import MAP_CLASSES
from perception.cross_modal.alignment import CrossModalConfig
from perception.grid import BevGrid
from perception.heads.quality import QualityConfig
from perception.heads.query_head import QueryHeadConfig
from perception.tasks.depth import DepthTaskConfig
from perception.tasks.segmentation import IOU_THRESHOLDS, IouCounts, SegmentationConfig, SegmentationHead, dice_loss
from perception.tasks.task_weights import TaskWeightsConfig
from tests.small_run import small_config
from tools.evaluate import EvaluateArguments, evaluate
from tools.map_scores import MapScore, map_scores, map_targets, map_text
from tools.open_dataset import open_dataset
from tools.run_config import write_config
from tools.train import TrainArguments, train
from tools.training.run_folder import load_detector

GRID = BevGrid((-20.0, 20.0), (-15.0, 15.0), 1.0)


def a_mask(height: int = 137, width: int = 203) -> np.ndarray:
    """Blobs, so that all of PNG's filters come up, and a few grey pixels."""
    noise = np.random.default_rng(0).random((height, width)).astype(np.float32)
    blobs = (cv2.GaussianBlur(noise, (0, 0), 4) > 0.5).astype(np.uint8) * 255
    blobs[10, 20:40] = np.arange(20)
    return blobs


def as_png(pixels: np.ndarray, filters: bytes) -> bytes:
    """A PNG whose rows use these filters in turn, each row encoded as the standard says."""
    before = np.zeros_like(pixels[0]).astype(int)
    rows = b""
    for index, row in enumerate(pixels.astype(int)):
        kind = filters[index % len(filters)]
        left, corner = np.concatenate([[0], row[:-1]]), np.concatenate([[0], before[:-1]])
        guess = left + before - corner
        nearest = np.argmin(np.abs(np.stack([left, before, corner]) - guess), axis=0)
        paeth = np.choose(nearest, [left, before, corner])
        predicted = [0 * row, left, before, (left + before) // 2, paeth][kind]
        rows += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        before = row
    header = pixels.shape[1].to_bytes(4, "big") + pixels.shape[0].to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    data = zlib.compress(rows)
    chunks = [(b"IHDR", header), (b"IDAT", data[:100]), (b"IDAT", data[100:]), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        png += len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return png


def pixels_of(mask: MapMask) -> np.ndarray:
    return np.unpackbits(mask.bits.numpy(), axis=1)[:, : mask.width]


@pytest.mark.parametrize("filters", [b"\0", b"\1", b"\2", b"\3", b"\4", b"\4\3\2\1\0"])
def test_masks_are_decoded_as_cv2_does(filters: bytes) -> None:
    pixels = a_mask()
    png = as_png(pixels, filters)
    assert np.array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), pixels)
    assert np.array_equal(pixels_of(decode_mask(png, "a.png")), pixels != 0)
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    assert np.array_equal(pixels_of(decode_mask(encoded, "a.png")), pixels != 0)


@pytest.mark.parametrize("cut", [8, 40, 200, -30])
def test_a_damaged_picture_is_refused(cut: int) -> None:
    png = as_png(a_mask(), b"\1")
    with pytest.raises(InputRefused, match=r"a\.png: "):
        decode_mask(png[:cut], "a.png")
    spoilt = bytearray(png)
    spoilt[120] ^= 255
    with pytest.raises(InputRefused, match="damaged"):
        decode_mask(bytes(spoilt), "a.png")
    colour = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    with pytest.raises(InputRefused, match="grey PNG"):
        decode_mask(colour, "a.png")


def test_places_are_read_as_the_devkit_reads_them(tmp_path: Path) -> None:
    pixels = (a_mask() > 0).astype(np.uint8) * 255
    cv2.imwrite(str(tmp_path / "mask.png"), pixels)
    mask = decode_mask((tmp_path / "mask.png").read_bytes(), "mask.png")
    rng = np.random.default_rng(1)
    # Not on the border of two pixels: there the devkit rounds in float64 as it comes.
    x, y = rng.integers(-20, 223, 3000) / 10 + 0.03, rng.integers(-20, 157, 3000) / 10 + 0.03
    found, known = mask.at(torch.from_numpy(np.stack([x, y], axis=1)))
    assert np.array_equal(found.numpy(), DevkitMask(str(tmp_path / "mask.png")).is_on_mask(x, y))
    inside = (x > -0.05) & (x < 20.25) & (y > 0.05) & (y < 13.75)
    assert np.array_equal(known.numpy(), inside)


@pytest.mark.real_data
def test_a_real_mask_equals_the_devkits_under_the_real_keyframe(real_data: Path) -> None:
    root = real_data / "nuscenes-keyframe"
    reader = NuScenesReader(root, lidar_sweeps=1, radar_sweeps=1, channels=())
    frame = reader.frame(reader.frame_tokens("all")[0])
    masks = MapMasks(root, reader.version, [frame.scene_name]).of_scene(frame.scene_name)
    raster = rasterize(masks, frame.global_from_ego, GRID.centers())
    assert raster.known.all()
    log = json.loads((root / reader.version / "map.json").read_text())
    file = next(row["filename"] for row in log if row["log_tokens"])
    centers = torch.cat([GRID.centers().double(), torch.zeros(*GRID.shape, 1, dtype=torch.float64)], dim=-1)
    points = centers.reshape(-1, 3) @ frame.global_from_ego[:3, :3].T + frame.global_from_ego[:3, 3]
    devkit = DevkitMask(str(root / file)).is_on_mask(points[:, 0].numpy(), points[:, 1].numpy())
    assert np.mean(raster.masks[0].numpy().flatten() == devkit) == 1.0
    assert 0.1 < devkit.mean() < 0.9


def samples(root: Path, augmentation: Augmentation | None) -> FusionDataset:
    reader = NuScenesReader(root, lidar_sweeps=1, radar_sweeps=1)
    tokens = reader.frame_tokens("all")
    maps = MapTargets(MapMasks(root, reader.version, reader.scene_names), GRID.centers())
    config = SampleConfig(image_height=32, image_width=64, lidar_sweeps=1, radar_sweeps=1)
    return FusionDataset(reader, tokens, config, augmentation=augmentation, maps=maps)


def test_the_vehicle_stands_on_the_road_and_what_drives_does_too(synthetic_root: Path) -> None:
    """The map, turned into ego, lies under the boxes as the world was built: the whole chain at once."""
    dataset = samples(synthetic_root, None)
    moving, paved = 0, 0
    for index in range(min(len(dataset), 6)):
        sample = dataset[index]
        assert sample.map_raster is not None
        row, column = (int(v) for v in GRID.cells(torch.zeros(1, 2))[0].flip(0))
        assert sample.map_raster.masks[0, row, column]
        assert sample.boxes is not None
        fast = sample.boxes[sample.boxes.velocities.norm(dim=1) > 2.0]
        at = GRID.cells(fast.centers[fast.labels == 0, :2]).floor().long()
        at = at[((at >= 0) & (at < torch.tensor([GRID.shape[1], GRID.shape[0]]))).all(1)]
        moving += len(at)
        paved += int(sample.map_raster.masks[0, at[:, 1], at[:, 0]].sum())
        assert 0.05 < sample.map_raster.masks.float().mean() < 0.95
    assert moving == paved


def test_the_map_turns_with_the_augmentation(synthetic_root: Path) -> None:
    plain = samples(synthetic_root, None)
    turned = samples(synthetic_root, Augmentation(bev=BevAugmentation(max_rotation=1.0, translation_std=2.0)))
    for index in range(2):
        before, after = plain[index], turned[index]
        assert before.map_raster is not None
        assert after.map_raster is not None
        augmented_from_ego = torch.linalg.inv(after.global_from_ego) @ before.global_from_ego
        back = torch.linalg.inv(augmented_from_ego)
        centers = torch.cat([GRID.centers().double(), torch.zeros(*GRID.shape, 1, dtype=torch.float64)], dim=-1)
        at = GRID.cells((centers.reshape(-1, 3) @ back[:3, :3].T + back[:3, 3])[:, :2])
        inside = ((at >= 0) & (at < torch.tensor([GRID.shape[1], GRID.shape[0]]))).all(1)
        column, row = at[inside].floor().long().unbind(1)
        # Cells are a metre wide, so at the edge of the road both may be right.
        same = before.map_raster.masks[0, row, column] == after.map_raster.masks[0].flatten()[inside]
        assert same.float().mean() > 0.93
        assert inside.sum() > 400
    batch = collate([plain[0], turned[0]])
    assert batch.map_masks is not None
    assert batch.map_masks.shape == (2, len(MAP_CLASSES), *GRID.shape)
    assert collate([plain[0], replace(plain[1], map_raster=None)]).map_masks is None


def test_a_dataset_without_masks_is_refused_in_a_sentence(synthetic_root: Path, tmp_path: Path) -> None:
    version = NuScenesReader(synthetic_root).version
    (tmp_path / version).mkdir()
    with pytest.raises(InputRefused, match=r"scene\.json is missing, and map segmentation needs it"):
        MapMasks(tmp_path, version, ["scene-0001"])
    for table in ("scene", "map"):
        (tmp_path / version / f"{table}.json").write_text((synthetic_root / version / f"{table}.json").read_text())
    scenes = NuScenesReader(synthetic_root).scene_names
    with pytest.raises(InputRefused, match=r"cannot be read .*no such file"):
        MapMasks(tmp_path, version, scenes)
    with pytest.raises(InputRefused, match="nowhere has no map mask"):
        MapMasks(tmp_path, version, ["nowhere"])
    (tmp_path / version / "map.json").write_text("[]")
    with pytest.raises(InputRefused, match="has no map mask"):
        MapMasks(tmp_path, version, scenes)
    (tmp_path / version / "map.json").write_text('[{"category": "semantic_prior"}]')
    with pytest.raises(InputRefused, match="list of records with category, filename, log_tokens"):
        MapMasks(tmp_path, version, scenes)


def targets(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 1, 5, 6, generator=generator)
    return logits, torch.rand(2, 1, 5, 6, generator=generator) < 0.4, torch.rand(2, 5, 6, generator=generator) < 0.7


def test_losses_and_iou_equal_loops_over_cells_and_what_is_unknown_plays_no_part() -> None:
    logits, masks, known = targets()
    focal, common, size, cells = 0.0, 0.0, 0.0, 0
    counts = [[0, 0] for _ in IOU_THRESHOLDS]
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(6)).tolist():
        if not known[b, y, x]:
            continue
        p, m = 1 / (1 + math.exp(-logits[b, 0, y, x].item())), bool(masks[b, 0, y, x])
        focal += -0.25 * (1 - p) ** 2 * math.log(p) if m else -0.75 * p**2 * math.log(1 - p)
        common, size, cells = common + p * m, size + p * p + m, cells + 1
        for count, threshold in zip(counts, IOU_THRESHOLDS, strict=True):
            count[0] += (p >= threshold) and m
            count[1] += (p >= threshold) or m
    parts = SegmentationHead(SegmentationConfig(), 4).losses(logits, masks, known).parts
    assert parts["focal"].item() == pytest.approx(focal / cells, rel=1e-5)
    assert parts["dice"].item() == pytest.approx(1 - (2 * common + 1) / (size + 1), rel=1e-5)
    halves = [IouCounts.of(logits[i : i + 1], masks[i : i + 1], known[i : i + 1]) for i in (0, 1)]
    assert (halves[0] + halves[1]).best().item() == pytest.approx(max(a / b for a, b in counts), rel=1e-6)
    spoilt = torch.where(known[:, None], logits, 50.0)
    assert SegmentationHead(SegmentationConfig(), 4).losses(spoilt, masks, known).parts == parts


def test_iou_over_a_split_is_scikit_learns_at_the_best_threshold_and_at_a_half() -> None:
    batches = [targets(seed) for seed in (1, 2, 3)]
    scorer = sum((IouCounts.of(*batch) for batch in batches[1:]), IouCounts.of(*batches[0]))
    (score,) = map_scores(scorer)
    chosen = [known[:, None] for _, _, known in batches]
    probability = torch.cat([logits.sigmoid()[k] for (logits, _, _), k in zip(batches, chosen, strict=True)])
    truth = torch.cat([masks[k] for (_, masks, _), k in zip(batches, chosen, strict=True)])
    expected = [jaccard_score(truth, probability >= threshold) for threshold in IOU_THRESHOLDS]
    assert score.iou == pytest.approx(max(expected), rel=1e-6)
    assert score.threshold == pytest.approx(IOU_THRESHOLDS[int(np.argmax(expected))])
    assert score.iou_at_half == pytest.approx(expected[IOU_THRESHOLDS.index(0.5)], rel=1e-6)
    assert f"{score.iou:.3f}" in map_text([score])
    logits, masks, known = batches[0]
    nothing = map_scores(IouCounts.of(logits, masks, torch.zeros_like(known)))
    assert nothing == (MapScore(MAP_CLASSES[0], None, None, None),)
    assert map_text(nothing).splitlines()[1].split() == [MAP_CLASSES[0], "-", "-", "-"]


def test_nothing_known_costs_nothing_and_has_no_iou() -> None:
    logits, masks, known = targets()
    nothing = torch.zeros_like(known)
    losses = SegmentationHead(SegmentationConfig(), 4).losses(logits, masks, nothing)
    assert losses.total == 0
    assert IouCounts.of(logits, masks, nothing).best().isnan().all()
    assert IouCounts.of(masks * 100.0 - 50.0, masks, known).best() == 1.0
    assert dice_loss(masks * 100.0 - 50.0, masks, known) < 1e-6


def test_the_head_learns_a_map_by_heart() -> None:
    torch.manual_seed(0)
    _, masks, known = targets()
    head = SegmentationHead(SegmentationConfig(channels=16, layers=1), 8)
    bev = torch.randn(2, 8, 5, 6)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        head.losses(head(bev), masks, known).total.backward()
        optimiser.step()
    assert IouCounts.of(head(bev), masks, known).best() > 0.95


def test_a_run_with_every_task_trains_opens_again_and_is_evaluated(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(2)
    detector = replace(
        config.detector,
        head=QueryHeadConfig(channels=8, hidden=8, queries=10, heads=2, feedforward=8, quality=QualityConfig()),
        segmentation=SegmentationConfig(channels=8, layers=1),
        depth=DepthTaskConfig(),
        cross_modal=CrossModalConfig(width=8, places=32),
        task_weights=TaskWeightsConfig(learned=True),
    )
    write_config(tmp_path / "all.json", replace(config, detector=detector))
    train(TrainArguments(str(tmp_path / "all.json"), synthetic_root, split="all", output=tmp_path / "run", threads=1))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    flat = json.dumps(lines)
    for name in ("quality", "segmentation_dice", "depth_bins", "cross_modal_camera-lidar", "detection_spread"):
        assert name in flat, name
    opened, network = load_detector(tmp_path / "run")
    assert opened.detector == detector
    assert network.segmentation is not None
    capsys.readouterr()
    output = evaluate(EvaluateArguments(tmp_path / "run", synthetic_root, bootstrap=0, device="cpu", threads=1))
    # Once more by hand, from the samples and the network.
    dataset = open_dataset(synthetic_root, None, "mini_val", opened.sample)
    maps = map_targets(opened.detector, dataset.reader, dataset.tokens)
    assert maps is not None
    common, either = 0, 0
    for index in range(len(dataset)):
        batch = collate([maps(dataset[index])])
        with torch.no_grad():
            found = network(batch).segmentation_logits.sigmoid().numpy() >= 0.5
        truth, known = batch.map_masks.numpy(), batch.map_known.numpy()[:, None]
        common, either = common + (found & truth & known).sum(), either + ((found | truth) & known).sum()
    (written,) = json.loads((output / "analysis.json").read_text())["map"]
    assert written["name"] == MAP_CLASSES[0]
    assert written["iou_at_half"] == pytest.approx(common / either, rel=1e-6)
    assert written["iou"] >= written["iou_at_half"]
    assert f"{written['iou']:.3f}" in (output / "evaluation.html").read_text()
    assert f"{MAP_CLASSES[0]:<22}{written['iou']:>7.3f}" in capsys.readouterr().out
