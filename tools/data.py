"""Look after datasets: check one, pack one into shards."""

from pathlib import Path
from typing import Annotated

from tyro.conf import subcommand

from tools.data_check import CheckArguments, check
from tools.data_shard import ShardArguments, shard

DataArguments = (
    Annotated[CheckArguments, subcommand("check", description=CheckArguments.__doc__)]
    | Annotated[ShardArguments, subcommand("shard", description=ShardArguments.__doc__)]
)
"""What `bevel data` takes: one of its own verbs, with that verb's arguments."""


def data(arguments: CheckArguments | ShardArguments) -> Path | None:
    """Do what the arguments are for, and return what was written."""
    if isinstance(arguments, CheckArguments):
        return check(arguments)
    return shard(arguments)
