"""Training and predicting from shards by the command line: as from the tables, or refused in one sentence."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch

from datasets.faults import InputRefused
from tests.nuscenes_fixture import write_dataset
from tests.small_run import small_config
from tests.test_sampling import same
from tests.test_training import losses, same_tensors
from tools.__main__ import main
from tools.data_shard import ShardArguments, shard
from tools.evaluate import EvaluateArguments, evaluate
from tools.exit_codes import ExitCode
from tools.open_dataset import open_dataset
from tools.predict import PredictArguments, predict
from tools.run_config import RunConfig, write_config
from tools.train import TrainArguments, train

Arguments = Callable[[RunConfig], TrainArguments]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nuscenes")
    write_dataset(root, keyframes=5)
    return root


@pytest.fixture(scope="module")
def shards(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten frames of two scenes (one of mini_train, one of mini_val), in five shards."""
    return shard(ShardArguments(data_root, tmp_path_factory.mktemp("packed") / "shards", samples_per_shard=2))


@pytest.fixture
def arguments(shards: Path, tmp_path: Path) -> Arguments:
    def make(config: RunConfig) -> TrainArguments:
        write_config(tmp_path / "given.json", config)
        return TrainArguments(str(tmp_path / "given.json"), shards, output=tmp_path / "run", device="cpu")

    return make


def test_samples_are_those_of_the_tables(data_root: Path, shards: Path) -> None:
    """With fewer sweeps and states than were packed, and of some sensors only."""
    config = small_config(1).sample
    for chosen in (config, replace(config, lidar_channel=None, radar_channels=("RADAR_FRONT",))):
        tables = open_dataset(data_root, None, "mini_val", chosen)
        packed = open_dataset(shards, "v1.0-mini", "mini_val", chosen)
        assert packed.tokens == tables.tokens
        for index in range(len(tables)):
            assert same(packed[index], tables[index])
            assert torch.equal(packed[index].radar_points, tables[index].radar_points)
            assert torch.equal(packed[index].ego_motion, tables[index].ego_motion)


def test_training_from_shards_resumes_in_the_same_bits(arguments: Arguments, tmp_path: Path) -> None:
    """Five samples of mini_train in batches of two: step 4 is in the middle of the second epoch."""
    given = arguments(small_config(5, checkpoint_interval=4, modality_dropout=0.5))
    run = train(given)
    assert "5 samples of mini_train" in (run / "train.log").read_text()
    checkpoint = run / "checkpoints" / "step_00000005"
    uninterrupted = shutil.copytree(checkpoint, tmp_path / "uninterrupted")
    expected = losses(run)
    shutil.rmtree(checkpoint)
    train(replace(given, resume=True, workers=2))
    assert same_tensors(checkpoint / "raw_weights.safetensors", uninterrupted / "raw_weights.safetensors")
    assert losses(run) == expected


def test_a_state_of_another_order_is_refused(arguments: Arguments, data_root: Path, tmp_path: Path) -> None:
    """The same samples from tables; from shards of another size; and a checkpoint whose epoch had another order."""
    given = arguments(small_config(1))
    run = train(given)
    others = shard(ShardArguments(data_root, tmp_path / "others", samples_per_shard=1))
    for root in (data_root, others):
        with pytest.raises(InputRefused, match="in another order"):
            train(replace(given, data_root=root, resume=True))
    state = run / "checkpoints" / "step_00000001" / "state.json"
    manifest = state.with_name("manifest.json")
    # As if the checkpoint were of the next epoch: only its order says so.
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"step": 3}))
    sums = json.loads(manifest.read_text()) | {"state.json": hashlib.sha256(state.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(sums))
    with pytest.raises(InputRefused, match="in another order"):
        train(replace(given, resume=True))


def test_predicting_from_shards_is_predicting_from_tables(
    data_root: Path, shards: Path, untrained_run: Path, tmp_path: Path
) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/bucket/mini", recursive=True)
    results = [
        predict(PredictArguments(untrained_run, root, output=tmp_path / f"{number}.json", device="cpu")).read_bytes()
        for number, root in enumerate((data_root, shards, "memory://bucket/mini"))
    ]
    assert results[0] == results[1] == results[2]
    assert len(json.loads(results[0])["results"]) == 5
    # What was predicted from shards is scored with the tables.
    evaluate(EvaluateArguments(tmp_path / "1.json", data_root, output=tmp_path / "metrics", device="cpu"))
    assert (tmp_path / "metrics" / "metrics_summary.json").is_file()


def test_evaluation_without_tables_is_one_sentence(
    shards: Path, untrained_run: Path, arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(untrained_run), "--data-root", str(shards)]) == ExitCode.INPUT_REFUSED
    said = capsys.readouterr().err.strip()
    assert "the official metric needs nuScenes' tables: detect with bevel predict" in said
    assert "\n" not in said
    # For a training that would be evaluated at its end: before it begins.
    given = replace(arguments(small_config(1)), val_split="mini_val")
    with pytest.raises(InputRefused, match="needs nuScenes' tables"):
        train(given)
    assert given.output is not None
    assert not given.output.exists()


def test_shards_that_do_not_fit_are_refused(data_root: Path, shards: Path, tmp_path: Path) -> None:
    config = small_config(1).sample
    thin = shard(ShardArguments(data_root, tmp_path / "thin", split="mini_val", lidar_sweeps=1, history=1.0))
    cases = [
        (shards, "v1.0-trainval", config, "holds shards of v1.0-mini, not of v1.0-trainval"),
        (thin, None, config, "packed with lidar_sweeps 1, the config asks for 2"),
        (thin, None, replace(config, lidar_sweeps=1), "packed with ego_states 3, the config asks for 5"),
    ]
    for root, version, chosen, reason in cases:
        with pytest.raises(InputRefused, match=reason):
            open_dataset(root, version, "all", chosen)
    assert len(open_dataset(thin, None, "mini_val", replace(config, lidar_sweeps=1, ego_states=3))) == 5
    assert main(["train", "tiny", "--data-root", "nonsense://bucket"]) == ExitCode.INPUT_REFUSED


def test_of_shards_of_one_split_that_one_is_meant(
    data_root: Path, untrained_run: Path, arguments: Arguments, tmp_path: Path
) -> None:
    packed = shard(ShardArguments(data_root, tmp_path / "shards", split="scene-0103"))
    results = predict(PredictArguments(untrained_run, packed, output=tmp_path / "results.json", device="cpu"))
    assert len(json.loads(results.read_text())["results"]) == 5
    run = train(replace(arguments(small_config(1)), data_root=packed))
    assert "5 samples of scene-0103" in (run / "train.log").read_text()
