"""Configs: written, read back, and refused with the field named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from datasets.faults import InputRefused
from datasets.sensors.sweeps import CRN_RADAR_FILTER, DEVKIT_RADAR_FILTER, NO_RADAR_FILTER, RadarFilter
from perception.cross_modal.alignment import CrossModalConfig
from perception.fusion.build import FusionKind
from perception.fusion.early import EarlyFusionConfig
from perception.heads.quality import QualityConfig
from perception.heads.query_head import QueryHeadConfig
from perception.tasks.depth import DepthTaskConfig
from perception.tasks.segmentation import SegmentationConfig
from perception.tasks.task_weights import TaskWeightsConfig
from perception.view_transform.lift_splat import LiftSplatConfig
from perception.view_transform.sampling import SamplingConfig
from tests.small_run import small_config
from tools.presets import PRESETS, preset
from tools.run_config import RunConfig, config_from_json, config_to_json, read_config, write_config
from tools.train import TrainArguments, training_config
from tools.training.in_folder import resume_command
from tools.training.run_folder import RunFolder


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_file(name: str, tmp_path: Path) -> None:
    write_config(tmp_path / "config.json", preset(name))
    assert read_config(tmp_path / "config.json") == preset(name)


@pytest.mark.parametrize("kind", get_args(FusionKind))
def test_every_fusion_is_named_in_the_file(kind: FusionKind) -> None:
    arguments = TrainArguments("tiny", Path("nowhere"), fusion=kind)
    config = training_config(arguments)
    text = config_to_json(config)
    assert json.loads(text)["detector"]["fusion"]["kind"] == kind
    assert config_from_json(text, "my.json") == config
    if kind == "transformer":
        assert config == preset("tiny")
    command = resume_command("train", arguments, RunFolder(Path("runs/tiny")))
    assert f"--fusion {kind} " in command


def test_the_command_line_comes_back_in_the_file_and_in_the_command_that_resumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for frames in (None, 1, 2, 5):
        arguments = TrainArguments("tiny", Path("nowhere"), frames=frames)
        config = training_config(arguments)
        assert config.detector.earlier_frames == (frames or 1) - 1
        assert config_from_json(config_to_json(config), "my.json") == config
        command = resume_command("train", arguments, RunFolder(Path("runs/tiny")))
        assert (f"--frames {frames} " in command) == (frames is not None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("sys.argv", ["/bin/bevel"])
    several = resume_command("train", TrainArguments("tiny", Path("nowhere"), shard=True), RunFolder(Path("runs/tiny")))
    assert several.startswith("torchrun --nproc-per-node=4 /bin/bevel train tiny ")
    assert several.endswith(" --shard --resume")
    with pytest.raises(InputRefused, match="late fusion has no fused BEV"):
        training_config(TrainArguments("tiny", Path("nowhere"), fusion="late", frames=2))
    for frames in (0, 6):
        with pytest.raises(InputRefused, match="--frames must lie between 1 and 5"):
            training_config(TrainArguments("tiny", Path("nowhere"), frames=frames))


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputRefused, match="tiny, small, base, large"):
        preset("huge")


def edited(config: RunConfig, *path: str, value: object) -> str:
    whole = json.loads(config_to_json(config))
    part = whole
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return json.dumps(whole)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("training", "batch_size"), "two", r"training\.batch_size: Input should be a valid integer, found 'two'"),
        (("training", "batch_size"), 1.5, r"training\.batch_size: Input should be a valid int"),
        (("training", "batch_size"), 0, r"training: .*batch_size must be at least 1"),
        (("training", "epochs"), 3, r"exactly one of steps and epochs"),
        (("training", "lerning_rate"), 0.1, r"training\.lerning_rate: there is no such field"),
        (("sample", "image_height"), None, r"sample\.image_height"),
        (("detector", "grid", "cell_size"), 0.7, r"detector\.grid: .*whole number of cells"),
        (("sample", "ego_states"), 0, r"sample: .*ego_states must be at least 1"),
        (("sample", "lidar_sweeps"), 0, r"sample: .*lidar_sweeps must be at least 1"),
        (("sample", "image_width"), 0, r"sample: .*image_width must be at least 1"),
        (("sample", "max_lidar_points"), 0, r"sample: .*max_lidar_points must be at least 1"),
        (("sample", "camera_channels"), ["CAM_FRONT", "CAM_FRONT"], r"sample: .*camera_channels must be some of"),
        (("sample", "radar_channels"), ["CAM_FRONT"], r"sample: .*radar_channels must be some of RADAR_FRONT"),
        (("sample", "lidar_channel"), "LIDAR_BOTTOM", r"sample: .*lidar_channel must be some of LIDAR_TOP"),
        (("training", "augmentation"), {"bev": {"scale_range": [1.1, 0.9]}}, r"augmentation\.bev: .*scale_range"),
        (("training", "augmentation"), {"image": {"scale_range": [0.0, 1.0]}}, r"augmentation\.image: .*scale_range"),
        (
            ("training", "augmentation"),
            {"paste": {"database": "db", "counts": [1]}},
            r"augmentation\.paste: .*10 numbers",
        ),
        (("training", "augmentation"), {"dropout": {"lidar": 2.0}}, r"augmentation\.dropout: .*lidar"),
        (("training", "sampling"), "balanced", r"training\.sampling"),
        (("sample", "radar_filter"), {"dyn_props": ["a"]}, r"radar_filter"),
        (("sample", "radar_filter"), "CRN", r"radar_filter"),
        (
            ("sample", "radar_fields"),
            "full",
            r"takes basic radar fields and samples are to have full: leave",
        ),
        (("detector", "radar", "fields"), "all", r"detector\.radar\.fields: Input should be 'basic' or 'full'"),
        (("detector", "head", "upsample"), 0, r"detector\.head: .*upsample must be at least 1"),
        (("detector", "fusion", "kind"), "middle", r"detector\.fusion: .*'middle' found using 'kind'.*'transformer'"),
        (("detector", "fusion"), {"heads": 4}, r"detector\.fusion: Unable to extract tag using discriminator 'kind'"),
        (("detector", "fusion"), {"kind": "concat", "kernel": 2}, r"detector\.fusion: .*kernel must be odd"),
        (("detector", "fusion"), {"kind": "concat", "kernel": "a"}, r"detector\.fusion\.kernel: Input should be a"),
        (("detector", "fusion"), {"kind": "concat", "heads": 2}, r"detector\.fusion\.heads: there is no such field"),
        (("detector", "fusion"), {"kind": "early", "width": 0}, r"detector\.fusion: .*width must be at least 1"),
        (("detector", "fusion"), {"kind": "late", "match_radius": 0.0}, r"detector\.fusion: .*match_radius"),
        (("detector", "fusion"), {"kind": "attention", "points": 0}, r"detector\.fusion: .*points must be at least 1"),
        (("detector", "lidar", "encoder", "widths"), "a", r"detector\.lidar\.encoder\.widths: Input should be a valid"),
        (("detector", "head", "kind"), "queries", r"detector\.head: .*'queries'.*'center', 'query'"),
        (("detector", "head"), {"kind": "query", "heads": 3}, r"detector\.head: .*64 channels .* 3 heads"),
        (("detector", "head"), {"kind": "query", "quereis": 3}, r"detector\.head\.quereis: there is no such field"),
        (("detector", "camera", "view"), {"heights": 4}, r"detector\.camera\.view: Unable to extract tag"),
        (("detector", "camera", "view"), {"kind": "sampling", "heights": 0}, r"detector\.camera\.view: .*0 layers"),
        (("detector", "camera", "lift_splat"), {}, r"detector\.camera\.lift_splat: there is no such field"),
        (("detector", "fusion", "heads"), 3, r"detector\.fusion: .*width of 16 does not divide into 3 heads"),
        (("detector", "channels"), 9, r"detector: .*9 channels do not divide into the fusion's 2 heads"),
        (("detector", "fusion", "stride"), 3, r"detector: .*16 x 16 cells is no whole number of the fusion's patches"),
        (("detector", "radar", "width"), 0, r"detector\.radar: .*width must be at least 1"),
        (("detector", "pose", "width"), 0, r"detector\.pose: .*width must be at least 1"),
        (("detector", "camera", "width"), 0, r"detector\.camera: .*width must be at least 1"),
        (("detector", "camera", "backbone", "embedding"), 0, r"detector\.camera\.backbone: .*at least 1"),
        (("detector", "camera", "neck", "widths"), [0], r"detector\.camera\.neck: .*at least 1"),
        (("detector", "lidar", "encoder", "blokcs"), 1, r"detector\.lidar\.encoder\.blokcs: there is no such field"),
    ],
)
def test_a_wrong_field_is_refused_by_name(path: tuple[str, ...], value: object, message: str) -> None:
    with pytest.raises(InputRefused, match=message) as refusal:
        config_from_json(edited(small_config(3), *path, value=value), "my.json")
    assert str(refusal.value).startswith("my.json: ")
    assert "\n" not in str(refusal.value)


def test_a_head_is_of_the_kind_that_its_config_names() -> None:
    config = small_config(3)
    query = replace(config, detector=replace(config.detector, head=QueryHeadConfig(queries=7, quality=QualityConfig())))
    assert config_from_json(config_to_json(query), "my.json") == query
    tasks = replace(
        query.detector,
        segmentation=SegmentationConfig(),
        depth=DepthTaskConfig(),
        cross_modal=CrossModalConfig("triplet"),
        task_weights=TaskWeightsConfig(learned=True),
    )
    assert config_from_json(config_to_json(replace(config, detector=tasks)), "my.json").detector == tasks


@pytest.mark.parametrize(("mixed", "named"), [("lidar_depth", "with lidar_depth"), ("early", "early fusion paints")])
def test_no_sensor_is_compared_with_itself(mixed: str, named: str, tmp_path: Path) -> None:
    config = small_config(3)
    camera = config.detector.camera
    assert camera is not None
    if mixed == "early":
        detector = replace(config.detector, fusion=EarlyFusionConfig())
    else:
        detector = replace(config.detector, camera=replace(camera, view=LiftSplatConfig(lidar_depth=True)))
    compared = replace(detector, cross_modal=CrossModalConfig())
    with pytest.raises(ValueError, match=named):
        replace(config, detector=compared)
    # Pretraining shows the camera no LiDAR; its config is none to train a detector with.
    alone = RunConfig(config.sample, compared, replace(config.training, objective="cross_modal"))
    write_config(tmp_path / "pretrained.json", alone)
    assert read_config(tmp_path / "pretrained.json") == alone
    with pytest.raises(InputRefused, match=rf"pretrained\.json: detector\.cross_modal compares .* {named}"):
        training_config(TrainArguments(str(tmp_path / "pretrained.json"), "."))


def test_a_view_transform_is_of_the_kind_that_its_config_names() -> None:
    config = small_config(3)
    assert config.detector.camera is not None
    sampled = replace(config.detector.camera, view=SamplingConfig(heights=5))
    config = replace(config, detector=replace(config.detector, camera=sampled))
    assert config_from_json(config_to_json(config), "my.json") == config


def test_a_config_from_before_view_transforms_had_kinds_is_read() -> None:
    config = small_config(3)
    whole = json.loads(config_to_json(config))
    old = whole["detector"]["camera"].pop("view")
    assert old.pop("kind") == "lift_splat"
    whole["detector"]["camera"]["lift_splat"] = old
    assert config_from_json(json.dumps(whole), "my.json") == config


def test_a_missing_field_is_refused_by_name() -> None:
    whole = json.loads(config_to_json(small_config(3)))
    del whole["training"]["learning_rate"]
    with pytest.raises(InputRefused, match=r"training\.learning_rate: Field required"):
        config_from_json(json.dumps(whole), "my.json")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"training": NaN}', "null", "[]"])
def test_what_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(InputRefused, match=r"my\.json"):
        config_from_json(text, "my.json")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="cannot be read"):
        read_config(tmp_path / "nothing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputRefused, match="cannot be read"):
        read_config(tmp_path / "binary.json")


def test_samples_follow_the_radar_branch() -> None:
    given = json.loads(config_to_json(small_config(1)))
    assert given["sample"]["radar_fields"] == given["detector"]["radar"]["fields"] == "basic"
    del given["sample"]["radar_fields"]
    given["detector"]["radar"]["fields"] = "full"
    given["sample"]["radar_filter"] = "none"
    config = config_from_json(json.dumps(given), "a file")
    assert config.sample.radar_fields == "full"
    assert config.sample.returns_kept == NO_RADAR_FILTER
    assert config_from_json(config_to_json(config), "a file") == config


def test_a_radar_filter_has_a_name_or_is_written_out() -> None:
    given = json.loads(config_to_json(small_config(1)))
    assert given["sample"]["radar_filter"] == "crn"
    for value, expected in (
        ("crn", CRN_RADAR_FILTER),
        ("devkit", DEVKIT_RADAR_FILTER),
        ("none", NO_RADAR_FILTER),
        ({"dyn_props": [0, 1]}, RadarFilter(dyn_props=(0, 1))),
    ):
        given["sample"]["radar_filter"] = value
        assert config_from_json(json.dumps(given), "a file").sample.returns_kept == expected
