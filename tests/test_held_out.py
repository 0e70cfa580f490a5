"""No object of a scene that is evaluated is pasted into a training."""

from dataclasses import replace
from pathlib import Path

import pytest

from datasets.augmentation.augmenter import Augmentation
from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.object_paste.database import write_object_database
from datasets.object_paste.paste import ObjectPaste
from tests.small_run import small_config
from tests.test_object_database import random_object
from tools.data_shard import ShardArguments, shard
from tools.open_dataset import open_reader
from tools.run_config import write_config
from tools.train import TrainArguments, train
from tools.training.held_out import refuse_held_out_objects


def database_of(folder: Path, *scenes: str) -> Path:
    objects = [replace(random_object(number), scene=scene) for number, scene in enumerate(scenes)]
    write_object_database(folder, objects, version="v1.0-trainval", lidar_sweeps=2, radar_sweeps=2)
    return folder


def test_a_training_refuses_objects_of_what_it_is_evaluated_on(nuscenes_root: Path, tmp_path: Path) -> None:
    """The fixture has scene-0061 (mini_train) and scene-0103 (mini_val)."""
    database = database_of(tmp_path / "db", "scene-0061", "scene-0103")
    config = small_config(1)
    paste = Augmentation(paste=ObjectPaste(str(database)))
    config = replace(config, training=replace(config.training, augmentation=paste))
    write_config(tmp_path / "given.json", config)
    given = TrainArguments(str(tmp_path / "given.json"), nuscenes_root, output=tmp_path / "run", device="cpu")
    for arguments in (given, replace(given, val_split="mini_val"), replace(given, val_split="scene-0103")):
        with pytest.raises(InputRefused, match=r"holds objects of scene-0103, which .* evaluates and mini_train does"):
            train(arguments)
        assert not (tmp_path / "run").exists()
    # Evaluated on another scene, or trained on that one in any case: nothing is given away.
    reader = NuScenesReader(nuscenes_root)
    refuse_held_out_objects(database, reader, "mini_train", "scene-0061")
    refuse_held_out_objects(database, reader, "all", "mini_val")


def test_scenes_that_are_elsewhere_count_too(nuscenes_root: Path, tmp_path: Path) -> None:
    """scene-0916 is in mini_val and not here; scene-0757 is in mini_train."""
    tables = NuScenesReader(nuscenes_root)
    shards = shard(ShardArguments(nuscenes_root, tmp_path / "shards", split="mini_train", lidar_sweeps=1))
    readers = (tables, open_reader(shards, None, replace(small_config(1).sample, lidar_sweeps=1)))
    secret = database_of(tmp_path / "secret", "scene-0916", "scene-0757")
    harmless = database_of(tmp_path / "harmless", "scene-0757", "scene-9999")
    for reader in readers:
        with pytest.raises(InputRefused, match=r"\(cut out of v1.0-trainval\) holds objects of scene-0916, which"):
            refuse_held_out_objects(secret, reader, "mini_train", None)
        refuse_held_out_objects(harmless, reader, "mini_train", None)
