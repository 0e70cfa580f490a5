"""The detections of a split's samples, read from a results file and checked.

What the devkit evaluates is evaluated, and what it fails on is refused, with every finding named. On purpose it is
other than the devkit here. Refused: a sample that the file has twice (the devkit takes the last), a box that names
another sample than the one it is filed under, sizes that are not positive (on which the devkit fails only where such
a box matches), rotations of length 0, infinite numbers, and boxes without a score (which would count as -1).
Evaluated: results without any box, and scores below 0, on which the devkit fails.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.nuscenes.detection_metric.boxes import DetectedBoxes, DetectionResults, EvaluatedSamples
from datasets.nuscenes.detection_metric.results_boxes import Columns, no_boxes, read_boxes
from datasets.nuscenes.detection_metric.results_file import Findings, ResultsFile


def read_detections(path: Path, samples: EvaluatedSamples, split: str, *, others_allowed: bool) -> DetectionResults:
    """The detections of a split's samples, in the order of the file.

    `others_allowed`: samples that are not in the split are left out unseen, as the devkit does for splits that are
    not official; otherwise they are refused.
    Raises InputRefused, with every finding, where the file is not in the format, has not every sample of the split, or
    has what the metric does not take.
    """
    rows = {token: row for row, token in enumerate(samples.tokens)}
    findings = Findings(path)
    parts, sample_rows = [no_boxes()], [np.zeros(0, np.int32)]
    seen: set[str] = set()
    file = ResultsFile(path, findings)
    for token, content in file:
        seen.add(token)
        if token in rows:
            columns, problems = read_boxes(token, content)
            findings.add(*problems)
            parts.append(columns)
            sample_rows.append(np.full(len(columns["label"]), rows[token], np.int32))
        elif not others_allowed:
            findings.add(f"sample {token!r:.80}: not in the split")
    findings.add(*(f"sample {token!r:.80}: missing" for token in samples.tokens if token not in seen))
    findings.refuse(f"the results for the split {split!r:.80}, which has {len(samples)} samples")
    sample, columns = np.concatenate(sample_rows), _joined(parts)
    distance = samples.ego_distance(sample, columns["translation"])
    boxes = DetectedBoxes(sample=sample, ego_distance=distance, **columns)
    return DetectionResults(file.meta, boxes, left_out=len(seen - rows.keys()))


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
