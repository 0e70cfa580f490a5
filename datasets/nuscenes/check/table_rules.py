"""What tables can get wrong between records: chains, scenes, keyframes, times. All of it at once, on whole columns."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from datasets.classes import CLASS_OF_CATEGORY
from datasets.nuscenes.check.findings import Findings, Problem, shown
from datasets.nuscenes.check.raw_tables import NONE, RawTable

RawTables = dict[str, RawTable]
_Rows = NDArray[np.int64]

# nuScenes' keyframes are half a second apart, and no keyframe of a sensor is more than 0.05 s from its sample.
_LONG_GAP_US = 3_000_000
_LATE_US = 250_000
_FASTEST = 70.0  # m/s: no road vehicle of a dataset drives 250 km/h
_LARGEST_BOX = 100.0  # metres
# Categories of nuScenes (and of nuScenes-lidarseg) that are no detection class, by what their names begin with.
_OTHER_CATEGORIES = (
    "animal", "flat.", "human.pedestrian.", "movable_object.", "noise", "static", "vehicle.",
)  # fmt: skip


def check_tables(tables: RawTables, findings: Findings) -> None:
    """Every rule on every record; a record whose fields were refused one by one is left out of what needs them."""
    _check_sensors(tables, findings)
    _check_cameras(tables, findings)
    _check_folders(tables, findings)
    _check_scenes(tables, findings)
    _check_keyframes(tables, findings)
    for name in ("sample", "sample_data", "sample_annotation"):
        _check_chain(tables, name, findings)
    _check_times(tables, findings)
    _check_poses(tables, findings)
    _check_annotations(tables, findings)


def sensor_of(tables: RawTables) -> _Rows:
    """The row in sensor.json of each row of sample_data.json, NONE where unknown."""
    return _follow(
        tables["sample_data"].references["calibrated_sensor_token"],
        tables["calibrated_sensor"].references["sensor_token"],
    )


def scene_of(tables: RawTables) -> _Rows:
    """The row in scene.json of each row of sample_data.json, NONE where unknown."""
    return _follow(tables["sample_data"].references["sample_token"], tables["sample"].references["scene_token"])


def _follow(rows: _Rows, references: _Rows) -> _Rows:
    """references[rows], NONE where there is no row."""
    return np.append(references, NONE)[rows]


def _times(rows: _Rows, times: _Rows) -> _Rows:
    """times[rows], -1 where there is no row."""
    return np.append(times, -1)[rows]


def _check_sensors(tables: RawTables, findings: Findings) -> None:
    table = tables["sensor"]
    _check_unique(table, "channel", Problem.DUPLICATE_CHANNEL, "sensor", findings)


def _check_unique(table: RawTable, field: str, problem: Problem, what: str, findings: Findings) -> None:
    first: dict[str, str] = {}
    for token, text in zip(table.tokens, table.texts[field], strict=True):
        if text and first.setdefault(text, token) != token:
            detail = f"expected a {field} that no other {what} has, found {shown(text)} as in {shown(first[text])}"
            findings.add(problem, table.file, token, field, detail)


def _check_cameras(tables: RawTables, findings: Findings) -> None:
    """Cameras need a camera matrix, and their pictures a size."""
    calibrations, sample_data = tables["calibrated_sensor"], tables["sample_data"]
    modalities = np.array([*tables["sensor"].texts["modality"], ""], dtype=object)
    is_camera = np.append(modalities[calibrations.references["sensor_token"]] == "camera", False)
    for row in np.flatnonzero(is_camera[:-1] & (calibrations.numbers["camera_intrinsic"] == 0)).tolist():
        detail = "expected a 3 x 3 camera matrix, found []"
        findings.add(Problem.BAD_INTRINSIC, calibrations.file, calibrations.tokens[row], "camera_intrinsic", detail)
    of_camera = is_camera[sample_data.references["calibrated_sensor_token"]]
    for field in ("width", "height"):
        for row in np.flatnonzero(of_camera & (sample_data.numbers[field] <= 0)).tolist():
            detail = "expected a positive number of pixels"
            findings.add(Problem.BAD_VALUE, sample_data.file, sample_data.tokens[row], field, detail)


def _check_folders(tables: RawTables, findings: Findings) -> None:
    """A file lies in the folder of its own channel, where the folder is called like a channel; and it is one's own."""
    table, channels = tables["sample_data"], tables["sensor"].texts["channel"]
    known = set(channels)
    seen: dict[str, str] = {}
    for row, (filename, sensor) in enumerate(zip(table.texts["filename"], sensor_of(tables).tolist(), strict=True)):
        if not filename:
            continue
        token, folder = table.tokens[row], filename.rpartition("/")[0].rpartition("/")[2]
        if sensor != NONE and folder in known and folder != channels[sensor]:
            detail = f"expected a file of {channels[sensor]}, found one in the folder of another: {shown(filename)}"
            findings.add(Problem.WRONG_FOLDER, table.file, token, "filename", detail)
        if seen.setdefault(filename, token) != token:
            detail = f"{shown(filename)} is the file of record {shown(seen[filename])} too"
            findings.add(Problem.SHARED_FILE, table.file, token, "filename", detail)


def _check_scenes(tables: RawTables, findings: Findings) -> None:
    """A scene has a name of its own, begins with its earliest and ends with its latest sample, and counts them."""
    scenes, samples = tables["scene"], tables["sample"]
    _check_unique(scenes, "name", Problem.DUPLICATE_SCENE, "scene", findings)
    scene, times = samples.references["scene_token"], samples.numbers["timestamp"]
    for field, extreme in (("first_sample_token", np.minimum), ("last_sample_token", np.maximum)):
        named = scenes.references[field]
        owner = _follow(named, scene)
        wrong = (named != NONE) & (owner != NONE) & (owner != np.arange(len(scenes)))
        for row in np.flatnonzero(wrong).tolist():
            detail = f"expected a sample of this scene, found {shown(samples.tokens[named[row]])}"
            findings.add(Problem.WRONG_SCENE, scenes.file, scenes.tokens[row], field, detail)
        bound = _times(named, times)
        usable = (scene != NONE) & (times >= 0)
        outermost = bound.copy()
        extreme.at(outermost, scene[usable], times[usable])
        for row in np.flatnonzero(~wrong & (bound >= 0) & (outermost != bound)).tolist():
            detail = f"a sample of this scene lies beyond the one named, at {outermost[row]} us"
            findings.add(Problem.CHAIN_IN_PIECES, scenes.file, scenes.tokens[row], field, detail)
    counted = np.bincount(scene[scene != NONE], minlength=len(scenes))
    _check_counts(scenes, "nbr_samples", counted, "samples", findings)


def _check_counts(table: RawTable, field: str, counted: _Rows, what: str, findings: Findings) -> None:
    said = table.numbers[field]
    for row in np.flatnonzero((said >= 0) & (said != counted)).tolist():
        detail = f"says {said[row]}, but there are {counted[row]} {what}"
        findings.add(Problem.WRONG_COUNT, table.file, table.tokens[row], field, detail)


def _check_keyframes(tables: RawTables, findings: Findings) -> None:
    """Each sample has something recorded, and each channel once."""
    table, samples, channels = tables["sample_data"], tables["sample"], tables["sensor"].texts["channel"]
    sample, sensor = table.references["sample_token"], sensor_of(tables)
    keyframes = np.flatnonzero((table.numbers["is_key_frame"] == 1) & (sample != NONE) & (sensor != NONE))
    key = sample[keyframes] * (len(channels) + 1) + sensor[keyframes]
    order = np.argsort(key, kind="stable")
    for row in keyframes[order[1:][np.diff(key[order]) == 0]].tolist():
        detail = f"sample {shown(samples.tokens[sample[row]])} has another keyframe of {channels[sensor[row]]} already"
        findings.add(Problem.DUPLICATE_KEYFRAME, table.file, table.tokens[row], "is_key_frame", detail)
    if not len(table):
        return  # told already, once
    # A keyframe whose sensor is unknown is a finding of its own, and a keyframe all the same.
    named = sample[(table.numbers["is_key_frame"] != 0) & (sample != NONE)]
    for row in np.setdiff1d(np.arange(len(samples)), named).tolist():
        detail = "expected a keyframe in sample_data.json that names this sample, found none"
        findings.add(Problem.NO_KEYFRAME, samples.file, samples.tokens[row], "token", detail)


def _check_chain(tables: RawTables, name: str, findings: Findings) -> None:
    """`prev` and `next` mirror each other, stay in one track of one scene, and time rises along them: no circles."""
    table = tables[name]
    group, times, what = _chain_of(tables, name)
    _check_mirrored(table, findings)
    _check_cycles(table, times, findings)
    following = table.references["next"]
    linked = np.flatnonzero(following != NONE)
    later = following[linked]
    known = (group[linked] != NONE) & (group[later] != NONE)
    for row in linked[known & (group[linked] != group[later])].tolist():
        detail = f"expected a record of the same {what}, found {shown(table.tokens[following[row]])}"
        findings.add(Problem.MIXED_CHAIN, table.file, table.tokens[row], "next", detail)
    timed = (times[linked] >= 0) & (times[later] >= 0)
    for row in linked[timed & (times[later] <= times[linked]) & (later != linked)].tolist():
        after = following[row]
        detail = (
            f"expected a later record than {times[row]} us, found {shown(table.tokens[after])} at {times[after]} us"
        )
        findings.add(Problem.TIME_BACKWARDS, table.file, table.tokens[row], "next", detail)
    if name != "sample_annotation":  # an object may be out of sight for a while
        for row in linked[timed & (times[later] - times[linked] > _LONG_GAP_US)].tolist():
            detail = f"{(times[following[row]] - times[row]) / 1e6:.1f} s pass until the next record"
            findings.add(Problem.TIME_GAP, table.file, table.tokens[row], "next", detail)


def _chain_of(tables: RawTables, name: str) -> tuple[_Rows, _Rows, str]:
    """For each row what its chain must not leave, as one number, its time, and what that is called."""
    table, samples = tables[name], tables["sample"]
    if name == "sample":
        return samples.references["scene_token"], samples.numbers["timestamp"], "scene"
    sample = table.references["sample_token"]
    scene = _follow(sample, samples.references["scene_token"])
    if name == "sample_data":
        track, times, what = sensor_of(tables), table.numbers["timestamp"], "scene and sensor"
    else:
        track, what = table.references["instance_token"], "scene and instance"
        times = _times(sample, samples.numbers["timestamp"])
    group = np.where((scene == NONE) | (track == NONE), NONE, scene * (track.max(initial=0) + 1) + track)
    return group, times, what


def _check_mirrored(table: RawTable, findings: Findings) -> None:
    for field, back in (("next", "prev"), ("prev", "next")):
        named = table.references[field]
        rows = np.flatnonzero(named != NONE)
        for row in rows[table.references[back][named[rows]] != rows].tolist():
            other = table.tokens[named[row]]
            detail = f"expected a record whose {back} leads back here, found {shown(other)}"
            findings.add(Problem.BROKEN_CHAIN, table.file, table.tokens[row], field, detail)


def _check_cycles(table: RawTable, times: _Rows, findings: Findings) -> None:
    """A circle along `prev` or `next` is told at the record where it closes, the last (or first) of it in time."""
    for field, extreme in (("next", max), ("prev", min)):
        named = table.references[field]
        rows = np.flatnonzero(named != NONE)
        moved_on = times[named[rows]] - times[rows] if field == "next" else times[rows] - times[named[rows]]
        # A circle has a link that does not move on in time: nothing else needs to be walked.
        for circle in _circles(named, rows[moved_on <= 0]):
            row = extreme(circle, key=lambda row: (times[row], row))
            detail = f"the chain comes back to this record after {len(circle)} steps"
            findings.add(Problem.CHAIN_CYCLE, table.file, table.tokens[row], field, detail)


def _circles(named: _Rows, starts: _Rows) -> Iterator[list[int]]:
    """The circles that the ways from `starts` run into, each once; every row is visited once."""
    visited = np.zeros(len(named), dtype=bool)
    for start in starts.tolist():
        path: list[int] = []
        row = start
        while row != NONE and not visited[row]:
            visited[row] = True
            path.append(row)
            row = int(named[row])
        if row != NONE and row in path:
            yield path[path.index(row) :]


def _check_times(tables: RawTables, findings: Findings) -> None:
    """Keyframes were taken about when their sample says."""
    table, samples = tables["sample_data"], tables["sample"]
    sample_times = _times(table.references["sample_token"], samples.numbers["timestamp"])
    times = table.numbers["timestamp"]
    usable = (table.numbers["is_key_frame"] == 1) & (sample_times >= 0) & (times >= 0)
    for row in np.flatnonzero(usable & (np.abs(times - sample_times) > _LATE_US)).tolist():
        detail = f"{(times[row] - sample_times[row]) / 1e6:+.3f} s from the time of its sample"
        findings.add(Problem.LATE_SENSOR, table.file, table.tokens[row], "timestamp", detail)


def _check_poses(tables: RawTables, findings: Findings) -> None:
    """Between two readings of a sensor the vehicle moves no faster than a vehicle can."""
    table, poses = tables["sample_data"], tables["ego_pose"]
    following, times = table.references["next"], table.numbers["timestamp"]
    places = np.vstack([poses.vectors["translation"], np.full((1, 3), np.nan)])[table.references["ego_pose_token"]]
    linked = np.flatnonzero(following != NONE)
    later = following[linked]
    distance = np.linalg.norm(places[later] - places[linked], axis=1)
    seconds = (times[later] - times[linked]) * 1e-6
    # NaN (a pose that is a finding already) compares as False.
    for position in np.flatnonzero((distance > _FASTEST * seconds + 1.0) & (seconds > 0)).tolist():
        row = int(later[position])
        detail = f"the vehicle moves {distance[position]:.1f} m in {seconds[position]:.3f} s to this record's pose"
        findings.add(Problem.POSE_JUMP, table.file, table.tokens[row], "ego_pose_token", detail)


def _check_annotations(tables: RawTables, findings: Findings) -> None:
    table, instances, categories = tables["sample_annotation"], tables["instance"], tables["category"]
    for row in np.flatnonzero((table.vectors["size"] > _LARGEST_BOX).any(axis=1)).tolist():
        detail = f"a box of {' x '.join(f'{side:g}' for side in table.vectors['size'][row])} m"
        findings.add(Problem.HUGE_BOX, table.file, table.tokens[row], "size", detail)
    instance = table.references["instance_token"]
    counted = np.bincount(instance[instance != NONE], minlength=len(instances))
    _check_counts(instances, "nbr_annotations", counted, "annotations", findings)
    used = np.unique(instances.references["category_token"])
    for row in used[used != NONE].tolist():
        name = categories.texts["name"][row]
        if name and name not in CLASS_OF_CATEGORY and not name.startswith(_OTHER_CATEGORIES):
            detail = f"{shown(name)} is no category of nuScenes"
            findings.add(Problem.UNKNOWN_CATEGORY, categories.file, categories.tokens[row], "name", detail)
