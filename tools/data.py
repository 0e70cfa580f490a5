"""Look after datasets: check one, pack one into shards, cut the objects out of one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import subcommand

from tools.data_check import CheckArguments, check
from tools.data_objects import ObjectsArguments, cut_objects
from tools.data_shard import ShardArguments, shard

_CHECK = "Say what is there, what is missing, what is broken, and what of it still works (docs/data-check.md)."
_SHARD = "Pack a split into shards: plain tar files with all that samples are made of (docs/shards.md)."

_OBJECTS = "Cut annotated objects out of a split, to be pasted into other frames (docs/training.md)."

DataArguments = (
    Annotated[CheckArguments, subcommand("check", description=_CHECK)]
    | Annotated[ShardArguments, subcommand("shard", description=_SHARD)]
    | Annotated[ObjectsArguments, subcommand("objects", description=_OBJECTS)]
)
"""What `bevel data` takes: one of its own verbs, with that verb's arguments."""


def data(arguments: CheckArguments | ShardArguments | ObjectsArguments) -> Path | None:
    """Do what the arguments are for, and return what was written."""
    if isinstance(arguments, CheckArguments):
        return check(arguments)
    if isinstance(arguments, ShardArguments):
        return shard(arguments)
    return cut_objects(arguments)
