"""Pack the frames of a nuScenes dataset into shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from datasets.faults import InputRefused, refuse_faults
from datasets.frames import LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.reader import LogReader
from datasets.shards.manifest import Contents
from datasets.shards.pack import pack
from tools.missing_sensors import MissingSensors
from tools.open_dataset import EGO_STATE_STEP
from tools.progress import progress
from tools.training.loading import MissingSensorsPolicy


@dataclass(frozen=True)
class ShardArguments:
    """What `bevel data shard` takes."""

    data_root: Positional[Annotated[Path, arg(metavar="DATAROOT")]]
    """The dataroot: the folder that holds v1.0-mini, say."""
    output: Positional[Annotated[Path, arg(metavar="OUTPUT")]]
    """The folder for the shards; it must not exist, or be empty."""
    version: str | None = None
    """The folder of tables, if there are several."""
    split: str = "all"
    """An official split, all, or scene names."""
    lidar_sweeps: int = 10
    """LiDAR sweeps of each frame, the keyframe's own included."""
    radar_sweeps: int = 6
    """Sweeps of each radar, the keyframe's own included."""
    history: float = 2.0
    """Seconds of ego states before each frame, half a second apart."""
    samples_per_shard: int = 32
    """Frames of each shard; with pictures and ten LiDAR sweeps one has about 8 MB."""
    missing_sensors: MissingSensorsPolicy = "refuse"
    """Whether to pack frames with sensor files that are missing or broken."""


def shard(arguments: ShardArguments) -> Path:
    """Write the shards and return their folder. Raises InputRefused for what cannot be read, packed or counted."""
    for name in ("lidar_sweeps", "radar_sweeps", "samples_per_shard"):
        if getattr(arguments, name) < 1:
            raise InputRefused(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(arguments, name)}.")
    if not 0 <= arguments.history <= 60:
        raise InputRefused(f"--history must be 0 to 60 seconds, not {arguments.history}.")
    reader = NuScenesReader(
        arguments.data_root,
        arguments.version,
        lidar_sweeps=arguments.lidar_sweeps,
        radar_sweeps=arguments.radar_sweeps,
        history=arguments.history,
        history_step=EGO_STATE_STEP,
    )
    tokens = reader.frame_tokens(arguments.split)
    missing = MissingSensors()
    frames = (_readable(reader, token, arguments.missing_sensors, missing) for token in progress(tokens, "packing"))
    manifest = pack(
        frames,
        arguments.output,
        Contents(
            dataset="nuScenes",
            version=reader.version,
            split=arguments.split,
            lidar_sweeps=arguments.lidar_sweeps,
            radar_sweeps=arguments.radar_sweeps,
            ego_states=1 + int(arguments.history / EGO_STATE_STEP + 1e-9),
        ),
        samples_per_shard=arguments.samples_per_shard,
    )
    size = sum(shard.size for shard in manifest.shards)
    print(f"{manifest.samples:,} samples in {len(manifest.shards):,} shards, {size / 1e6:,.1f} MB.")
    print(missing.table())
    return arguments.output


def _readable(reader: LogReader, token: str, policy: MissingSensorsPolicy, missing: MissingSensors) -> LogFrame:
    frame = reader.frame(token)
    missing.add(token, frame.faults, frame.impairments)
    if policy == "refuse":
        refuse_faults((*frame.faults, *frame.impairments))
    return frame
