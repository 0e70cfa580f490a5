"""The numbers of each step, on disk: metrics.jsonl and TensorBoard."""

import json
from collections.abc import Mapping
from types import TracebackType

from jaxtyping import UInt8
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from datasets.atomic_file import write_atomically
from tools.training.run_folder import RunFolder


class MetricsLog:
    """Appends one JSON object for each step. Use it as a context manager.

    Lines of steps from `first_step` on, which a run wrote before it was stopped, are removed: each step has one line.
    """

    def __init__(self, run: RunFolder, first_step: int) -> None:
        kept = [line for line, step in _lines(run) if step < first_step]
        write_atomically(run.metrics, "".join(kept).encode())
        self._run = run
        self._file = run.metrics.open("a")
        self._tensorboard = SummaryWriter(str(run.tensorboard), purge_step=first_step if first_step else None)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._tensorboard.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of one step (counted from 0)."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        self._show(step, values)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Put more numbers into the line of the last step. It is whole at any instant, with or without them."""
        lines = _lines(self._run)
        before = json.loads(lines.pop()[0]) if lines and lines[-1][1] == step else {"step": step}
        text = "".join(line for line, _ in lines) + json.dumps({**before, **values}) + "\n"
        self._file.close()
        write_atomically(self._run.metrics, text.encode())
        self._file = self._run.metrics.open("a")
        self._show(step, values)

    def draw(self, step: int, name: str, picture: UInt8[Tensor, "H W 3"]) -> None:
        """Show a picture in TensorBoard."""
        self._tensorboard.add_image(name, picture, step, dataformats="HWC")

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)


def _lines(run: RunFolder) -> list[tuple[str, int]]:
    """The complete lines of metrics.jsonl with their steps; a last line that was cut off is left out."""
    if not run.metrics.is_file():
        return []
    found = []
    for line in run.metrics.read_text().splitlines(keepends=True):
        try:
            found.append((line, int(json.loads(line)["step"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found
