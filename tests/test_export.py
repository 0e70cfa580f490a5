"""ONNX export: onnxruntime gives what torch gives, or nothing is written."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jaxtyping
import onnx
import pytest
import torch

from datasets.faults import InputRefused
from perception.dense_part import DensePart, example_inputs, reference_outputs
from perception.detector import Detector
from perception.fusion.build import FusionKind, fusion_config
from perception.heads.box_codes import CellIndex
from perception.heads.query_head import QueryHeadConfig
from perception.named_backbone import NamedBackboneConfig
from perception.tasks.segmentation import SegmentationConfig
from perception.temporal import TemporalConfig
from perception.view_transform.lift_splat import LiftSplatConfig
from perception.view_transform.sampling import SamplingConfig
from perception.weights import save_weights
from tests.small_run import small_config
from tools import export as command
from tools.exit_codes import Disagreement
from tools.export import ExportArguments, export, largest_difference, onnx_bytes, parity_cases, run_graph
from tools.run_config import RunConfig, config_from_json, config_to_json


@pytest.fixture(autouse=True)
def _shapes_are_traced() -> Iterator[None]:
    """While torch traces a graph, shapes are tensors: the shape checks of the tests would refuse them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def config_of(kind: FusionKind, *, query: bool = False, patches: bool = False) -> RunConfig:
    config = small_config(1)
    detector = config.detector
    assert detector.camera is not None
    detector = replace(
        detector,
        camera=replace(detector.camera, view=SamplingConfig(heights=3)),
        fusion=detector.fusion if kind == "transformer" else fusion_config(kind),
        segmentation=SegmentationConfig(channels=8, layers=1),
    )
    if query:
        detector = replace(detector, head=QueryHeadConfig(channels=8, hidden=8, queries=10, heads=2, feedforward=8))
    if patches:  # features lie in the middle of their patches
        named = NamedBackboneConfig("convnextv2-atto", stride=16, channels=8)
        detector = replace(detector, camera=replace(detector.camera, backbone=named))
    return replace(config, detector=detector)


def detector_of(config: RunConfig) -> Detector:
    torch.manual_seed(0)
    return Detector(config.detector).eval()


@pytest.mark.parametrize(
    ("kind", "query", "patches"),
    [
        ("transformer", False, False),
        ("concat", False, False),
        ("weighted_sum", False, False),
        ("attention", False, False),
        ("transformer", True, False),
        ("concat", False, True),
    ],
)
def test_onnxruntime_gives_what_the_detector_gives(kind: FusionKind, query: bool, patches: bool) -> None:
    config = config_of(kind, query=query, patches=patches)
    detector = detector_of(config)
    part, cases = DensePart(detector), parity_cases(config, detector)
    graph = onnx_bytes(part, cases[-1], config)
    # Other numbers and other gaps than those that the graph was made with; NaN of an absent sensor reaches nothing.
    fresh = example_inputs(detector, 6, (32, 64), 5, torch.Generator().manual_seed(7))
    no_lidar = replace(fresh, lidar_bev=fresh.lidar_bev * torch.nan, lidar_available=torch.zeros(1, dtype=torch.bool))
    off = {"radar_available": torch.zeros(1, dtype=torch.bool)}
    no_radar = replace(
        fresh, radar_bev=fresh.radar_bev * torch.nan, radar_velocities=fresh.radar_velocities * torch.nan, **off
    )
    blind = replace(fresh, camera_available=torch.zeros(1, 6, dtype=torch.bool))
    for case in (*cases, no_lidar, no_radar, blind):
        assert largest_difference(graph, part, case) < 1e-4
    silent = replace(fresh, radar_bev=0 * fresh.radar_bev, radar_velocities=0 * fresh.radar_velocities, **off)
    assert all(a.equal(b) for a, b in zip(run_graph(graph, no_radar), run_graph(graph, silent), strict=True))
    # The sensors do have a say: it is not all constants that agree.
    whole, without = run_graph(graph, fresh), run_graph(graph, blind)
    assert (whole[0] - without[0]).abs().max() > 1e-3


def test_boxes_at_every_cell_are_those_that_the_head_reads_at_peaks() -> None:
    config = config_of("concat")
    detector = detector_of(config)
    inputs = parity_cases(config, detector)[0]
    _, numbers, _ = reference_outputs(DensePart(detector), inputs)
    bevs = torch.stack(
        [
            detector.camera(inputs.images, inputs.intrinsics, inputs.ego_from_cam, inputs.camera_available),
            inputs.lidar_bev,
            inputs.radar_bev,
        ],
        dim=1,
    )
    pose = detector.pose(inputs.ego_motion, inputs.ego_motion_valid)
    fused, _ = detector.fusion(bevs, pose, torch.ones(1, 4, dtype=torch.bool))
    cells = CellIndex(*torch.tensor([[0, 0, 0], [0, 3, 5], [2, 9, 60], [7, 40, 1]]).unbind(0))
    found = detector.head.boxes_at(detector.head(fused, inputs.radar_velocities), cells)
    exported = numbers[cells.sample, cells.group, :, cells.row, cells.column]
    assert torch.allclose(torch.cat([found.codes, found.attribute_logits], dim=1), exported, atol=1e-5)


def write_run(path: Path, config: RunConfig) -> None:
    path.mkdir()
    (path / "config.json").write_text(config_to_json(config))
    save_weights(detector_of(config), path / "weights.safetensors", config_to_json(config))


def test_the_command_writes_a_graph_that_knows_its_config_or_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of("weighted_sum")
    write_run(tmp_path / "run", config)
    file = export(ExportArguments(tmp_path / "run"))
    assert file == tmp_path / "run" / "model.onnx"
    assert "differs from torch by at most" in capsys.readouterr().out
    model = onnx.load(file)
    (told,) = [entry.value for entry in model.metadata_props if entry.key == "bevel_config"]
    assert config_from_json(told, "graph") == config
    shapes = {each.name: [d.dim_value for d in each.type.tensor_type.shape.dim] for each in model.graph.input}
    assert shapes["images"] == [1, 6, 3, 32, 64]
    assert [each.name for each in model.graph.output] == ["heatmap_logits", "box_numbers", "segmentation_logits"]
    # A bound that no two programs meet: refused, and the file of before is untouched.
    before = file.read_bytes()
    monkeypatch.setattr(command, "TOLERANCE", -1.0)
    with pytest.raises(Disagreement, match="is not written: onnxruntime and torch differ"):
        export(ExportArguments(tmp_path / "run"))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("early", {}, "paints image features.*train with another fusion"),
        ("late", {}, "merges boxes one by one.*train with another fusion"),
        ("concat", {"camera": None}, "no camera branch"),
        ("concat", {"temporal": TemporalConfig()}, "memory.*--frames 1"),
        ("concat", {"view": LiftSplatConfig(depth_bins=8)}, "LiftSplat is a sparse product.*kind sampling"),
    ],
)
def test_what_cannot_be_exported_says_so(
    kind: FusionKind, change: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    config = config_of(kind)
    detector = config.detector
    if "view" in change:
        change = {"camera": replace(detector.camera, **change)}
    write_run(tmp_path / "run", replace(config, detector=replace(detector, **change)))
    with pytest.raises(InputRefused, match=sentence):
        export(ExportArguments(tmp_path / "run"))
    assert not (tmp_path / "run" / "model.onnx").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())
