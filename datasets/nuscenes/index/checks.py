"""Tables that contradict themselves make results wrong in silence: here they are refused, whole columns at a time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.nuscenes.index.keys import EMPTY_KEY
from datasets.nuscenes.index.table import Table
from datasets.nuscenes.values import PIXELS, refuse_value

Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Links:
    """The rows before and after each record in its chain (N), -1 at the ends."""

    previous: Rows
    following: Rows


def references(table: Table, field: str, target: Table) -> Rows:
    """The row of `target` that each record's field names; -1 for an empty text. Refuses any other dangling token."""
    keys = table.tokens(field).keys
    rows = target.rows_of(keys)
    dangling = (rows < 0) & ~(keys == EMPTY_KEY).all(axis=1)
    table.refuse_first(dangling, field, f"a token of {target.path.name}", others=True)
    return rows


def listed_references(table: Table, field: str, target: Table) -> Rows:
    """As `references` for lists of tokens: (N, longest list), -1 behind the end of each."""
    lists = table.token_lists(field)
    rows = target.rows_of(lists.keys)
    of_record = np.repeat(np.arange(len(table)), lists.counts)
    dangling = np.zeros(len(table), dtype=np.bool_)
    dangling[of_record[rows < 0]] = True
    table.refuse_first(dangling, field, f"a token of {target.path.name}", others=True)
    in_list = np.arange(len(rows)) - np.repeat(np.cumsum(lists.counts) - lists.counts, lists.counts)
    padded = np.full((len(table), int(lists.counts.max(initial=1))), -1, dtype=np.int32)
    padded[of_record, in_list] = rows
    return padded


def check_cameras(calibrated_sensor: Table, is_camera: NDArray[np.bool_]) -> None:
    """`is_camera` (N): cameras need a camera matrix."""
    without = (calibrated_sensor.values("camera_intrinsic") == 0).all(axis=(1, 2))
    calibrated_sensor.refuse_first(is_camera & without, "camera_intrinsic", "a 3 x 3 camera matrix")


def check_pictures(sample_data: Table, of_camera: NDArray[np.bool_]) -> None:
    """`of_camera` (N): the pictures of cameras need a size."""
    for field in ("width", "height"):
        sample_data.refuse_first(of_camera & (sample_data.values(field) <= 0), field, PIXELS.expected)


def check_unique(table: Table, field: str, what: str) -> None:
    """What the field of a record (a `what`) says, no other record says."""
    _, first_rows = np.unique(np.array(table.texts(field), dtype=object), return_index=True)
    repeated = np.ones(len(table), dtype=np.bool_)
    repeated[first_rows] = False
    table.refuse_first(repeated, field, f"a {field} that no other {what} has")


def check_scenes(scene: Table, sample: Table, scene_of_sample: Rows) -> None:
    """A scene's name is its own, and it begins and ends with samples of its own."""
    check_unique(scene, "name", "scene")
    for field in ("first_sample_token", "last_sample_token"):
        rows = references(scene, field, sample)
        scene.refuse_first(scene_of_sample[rows] != np.arange(len(scene)), field, "a sample of this scene")


def check_keyframes(
    sample: Table, sample_data: Table, sample_of: Rows, channel_of: Rows, channels: tuple[str, ...]
) -> None:
    """Each sample has something recorded, and each channel once. `sample_of`, `channel_of`: of sample_data (N)."""
    keyframes = np.flatnonzero(sample_data.values("is_key_frame"))
    places = sample_of[keyframes].astype(np.int64) * len(channels) + channel_of[keyframes]
    _, first = np.unique(places, return_index=True)
    repeated = np.ones(len(keyframes), dtype=np.bool_)
    repeated[first] = False
    if repeated.any():
        row = int(keyframes[repeated][0])
        token, channel = sample_data.record(row)["token"], channels[channel_of[row]]
        found = sample_data.record(row)["sample_token"]
        refuse_value(sample_data.path, token, "is_key_frame", f"one keyframe of {channel} a sample", found)
    unseen = np.ones(len(sample), dtype=np.bool_)
    unseen[sample_of[keyframes]] = False
    if unseen.any():
        row, others = int(np.flatnonzero(unseen)[0]), int(unseen.sum()) - 1
        expected = "a keyframe in sample_data.json that names this sample"
        refuse_value(sample.path, sample.record(row)["token"], "token", expected, "none", others)


def check_chain(table: Table, scene: Rows, track: Rows, times_us: NDArray[np.int64]) -> Links:
    """The links of a table: `prev` and `next` mirror each other, stay in one track of one scene, and time rises along
    them, so that there are no circles. `scene`, `track`, `times_us`: of each record (N).
    """
    before, after = references(table, "prev", table), references(table, "next", table)
    own = np.arange(len(table), dtype=np.int32)
    table.refuse_first((before >= 0) & (after[before] != own), "prev", "a record whose next leads back here")
    linked = after >= 0
    table.refuse_first(linked & (before[after] != own), "next", "a record whose prev leads back here")
    strays = linked & ((scene[after] != scene) | (track[after] != track))
    table.refuse_first(strays, "next", "a record of the same scene and the same sensor or track")
    backwards = np.flatnonzero(linked & (times_us[after] <= times_us))
    if backwards.size:
        row = int(backwards[0])
        here, there = int(times_us[row]), int(times_us[after[row]])
        table.refuse(row, "next", f"a later record (this one is at {here} us, the next at {there} us)")
    return Links(before, after)
