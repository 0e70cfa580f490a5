"""What the processes of one torchrun agree on before each attempt, and what it remembers from one to the next.

torchrun starts all processes again when one has ended badly, and when a node joins or leaves. Its store outlives that:
there stand the addresses of the processes that died, and what those have left word of. How often it has started them
(TORCHELASTIC_RESTART_COUNT) is counted by each node for itself, and nodes disagree.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from torch.distributed import DistError, DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store

from datasets.faults import InputRefused
from tools.exit_codes import Diverged
from tools.training.told_failures import Failure, failure_from_text, failure_to_text

_SECONDS_BETWEEN_LOOKS = 0.05
_BEGUN, _REFUSED = "bevel/begun", "bevel/refused"


@dataclass(frozen=True)
class Attempt:
    """One start of all processes. `keys`: a part of the store that is this attempt's alone.

    `begun`: the run that an earlier attempt began. `refused`: why an earlier one ended, as this one would.
    """

    store: Store
    keys: Store
    begun: Path | None
    refused: Failure | None

    def note_begun(self, run: Path) -> None:
        """Let later attempts go on with this run."""
        self.store.set(_BEGUN, str(run.resolve()))

    def note_refused(self, why: InputRefused | Diverged) -> None:
        """Let later attempts end at once: torchrun knows no exit code that tells it not to try again."""
        with suppress(DistError):  # without torchrun the store ends with the first process
            self.store.set(_REFUSED, failure_to_text(why))


def agree_on_attempt(store: Store, rank: int, count: int, timeout: timedelta) -> Attempt:
    """The attempt that this process is part of, the same in all of them. All must call it, and wait for one another.

    Raises torch's DistStoreError where one does not come within the timeout.
    """
    # Each has a name that no earlier process had, so that nobody takes what those left for an answer.
    own = uuid4().hex
    if rank:
        store.set(f"bevel/rank {rank}", own)
        store.wait([f"bevel/attempt of {own}"], timeout)
        name = store.get(f"bevel/attempt of {own}").decode()
    else:
        name = own
    attempt = Attempt(store, PrefixStore(f"bevel/{name}", store), _begun(store), _refused(store))
    # Nobody leaves word before all have read what there is.
    if rank:
        store.set(f"bevel/{name}/{rank} is here", "")
        store.wait([f"bevel/{name}/all are here"], timeout)
    else:
        _gather(store, name, count, timeout)
        store.set(f"bevel/{name}/all are here", "")
    return attempt


def _gather(store: Store, name: str, count: int, timeout: timedelta) -> None:
    """Answer the other processes until all are here."""
    missing = set(range(1, count))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        for rank in sorted(missing):
            if store.check([f"bevel/rank {rank}"]):  # of this attempt, or of an earlier one still
                store.set(f"bevel/attempt of {store.get(f'bevel/rank {rank}').decode()}", name)
        missing = {rank for rank in missing if not store.check([f"bevel/{name}/{rank} is here"])}
        if missing and time.monotonic() > deadline:
            raise DistStoreError(f"training processes {sorted(missing)} did not come")
        if missing:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _begun(store: Store) -> Path | None:
    return Path(store.get(_BEGUN).decode()) if store.check([_BEGUN]) else None


def _refused(store: Store) -> Failure | None:
    return failure_from_text(store.get(_REFUSED).decode()) if store.check([_REFUSED]) else None
