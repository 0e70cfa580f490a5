"""What is recorded of each step: a line of metrics.jsonl, TensorBoard, and the progress on the screen."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tools.progress import Progress
from tools.report import read_training_log, seconds_in_training
from tools.training.metrics_log import MetricsLog
from tools.training.run_folder import RunFolder
from tools.training.validation import Validated

STEPS_AVERAGED = 20  # the loss and the throughput that are shown are means of so many steps


class Record:
    """Gets the numbers of one step after another, counted from 0; `recorded` opens it."""

    def __init__(self, metrics: MetricsLog, shown: Progress, samples_of_step: int, seconds_before: float) -> None:
        self._metrics, self._shown, self._samples_of_step = metrics, shown, samples_of_step
        self._began = time.monotonic() - seconds_before
        self._clock: deque[float] = deque(maxlen=STEPS_AVERAGED)

    def step(self, step: int, numbers: Mapping[str, float], mean_loss: float) -> None:
        """Record a step, with the seconds of all sessions so far; `mean_loss` is shown."""
        now = time.monotonic()
        self._metrics.write(step, {**numbers, "seconds": now - self._began})
        self._clock.append(now)
        self._shown.advance(f"loss {mean_loss:.3f}, {self._samples_per_second():.1f} samples/s")

    def validation(self, step: int, validated: Validated) -> None:
        """Record what a validation found after a step that has been recorded."""
        self._metrics.add(step, validated.numbers)
        self._metrics.draw(step, "val/detections", validated.picture)

    def _samples_per_second(self) -> float:
        """Of all processes, over the last steps."""
        steps, seconds = len(self._clock) - 1, self._clock[-1] - self._clock[0]
        return steps * self._samples_of_step / seconds if seconds > 0 else 0.0


@contextmanager
def recorded(run: RunFolder, first_step: int, total_steps: int, samples_of_step: int) -> Iterator[Record]:
    """Record the steps from this one on; what is there of them already, from before a run was stopped, goes."""
    with MetricsLog(run, first_step) as metrics, Progress("training", total_steps, start=first_step) as shown:
        seconds_before = seconds_in_training(read_training_log(run.metrics))
        yield Record(metrics, shown, samples_of_step, seconds_before)
