"""The list of what a folder of shards holds, written last: without it the packing was not finished."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasets.faults import InputRefused

MANIFEST = "manifest.json"
_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# A frame of ten LiDAR sweeps and six pictures has about 10 MB.
_Bytes = Annotated[int, Field(ge=1, le=2**30)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PackedSample(_Strict):
    """One frame: its token and scene, and where it is in its shard: `size` bytes from `offset` on."""

    token: Annotated[str, Field(min_length=1)]
    scene: str
    offset: Annotated[int, Field(ge=0)]
    size: _Bytes
    sha256: _Sha256


class Shard(_Strict):
    """One tar file."""

    name: _Name
    size: Annotated[int, Field(ge=1)]
    sha256: _Sha256
    samples: Annotated[list[PackedSample], Field(min_length=1)]


class Contents(_Strict):
    """What the frames are of: which version of which dataset, and which split of it; and how much of each frame.

    `lidar_sweeps`, `radar_sweeps`: the most that a frame has of a sensor, its own included. `ego_states`: past states
    of the vehicle, half a second apart, the present one included.
    """

    dataset: str
    version: str
    split: str
    lidar_sweeps: Annotated[int, Field(ge=1)]
    radar_sweeps: Annotated[int, Field(ge=1)]
    ego_states: Annotated[int, Field(ge=1)]


class Manifest(_Strict):
    """Everything that was packed, and what it is."""

    format: Annotated[int, Field(ge=2, le=2)]
    contents: Contents
    shards: Annotated[list[Shard], Field(min_length=1)]

    @property
    def samples(self) -> int:
        """How many frames there are."""
        return sum(len(shard.samples) for shard in self.shards)


def read_manifest(content: bytes, where: str) -> Manifest:
    """The manifest of its JSON. Raises InputRefused, naming `where` and the field."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "JSON"
        raise InputRefused(f"{where}: field {field}: {first['msg']}; pack the shards again.") from None
    tokens = [sample.token for shard in manifest.shards for sample in shard.samples]
    names = [shard.name for shard in manifest.shards]
    if len(set(tokens)) < len(tokens) or len(set(names)) < len(names):
        raise InputRefused(f"{where}: a token or a shard's name occurs twice; pack the shards again.")
    return manifest
