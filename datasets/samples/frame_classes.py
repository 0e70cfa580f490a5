"""Which classes annotated frames have: what class-balanced sampling needs to know. No sensor file is read for it."""

from collections.abc import Sequence

from datasets.reader import LogReader


def classes_of_frames(reader: LogReader, tokens: Sequence[str]) -> list[frozenset[int]]:
    """The labels (indices into DETECTION_CLASSES) that each frame has targets of: boxes that a point hit."""
    classes: list[frozenset[int]] = []
    for token in tokens:
        annotations = reader.annotations(token)
        if annotations is None:
            classes.append(frozenset())
            continue
        hit = (annotations.lidar_point_counts + annotations.radar_point_counts) > 0
        classes.append(frozenset(annotations.boxes_global.labels[hit].tolist()))
    return classes
