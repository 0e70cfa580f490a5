"""DGP's files, as a disk or a download breaks them: small scenes that the tests write, damaged."""

import io
import json
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.dgp.reader import DgpReader
from datasets.faults import FaultReason, InputRefused
from datasets.sensors.npy_file import read_npy
from tests.dgp_fixture import write_dgp, write_dgp_scene


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_dgp(tmp_path / "dgp", {"0": ["one/scene.json"]})
    write_dgp_scene(root, "one/scene.json", "a")
    return root


def test_a_whole_scene(root: Path) -> None:
    reader = DgpReader(root)
    assert reader.frame_tokens("train") == ("a-0", "a-1", "a-2")
    frame = reader.frame("a-1")
    assert [len(sweep.points) for sweep in frame.lidar_sweeps["LIDAR_TOP"]] == [64, 64]
    assert frame.annotations is not None
    assert frame.annotations.boxes_global.velocities[0].tolist() == pytest.approx([10.0, 0.0])


# Scenes -------------------------------------------------------------------------------------------------------------


def test_a_scene_may_lie_in_the_root(tmp_path: Path) -> None:
    root = write_dgp(tmp_path / "dgp", {"0": ["scene_a.json"], "1": ["val/drive_1/scene_b.json"]})
    write_dgp_scene(root, "scene_a.json", "a")
    write_dgp_scene(root, "val/drive_1/scene_b.json", "b")
    reader = DgpReader(root)
    assert reader.frame_tokens("scene_a") == ("a-0", "a-1", "a-2")
    assert reader.frame_tokens("val/drive_1") == reader.frame_tokens("val") == ("b-0", "b-1", "b-2")
    for token, scene in (("a-0", "scene_a"), ("b-0", "val/drive_1")):
        frame = reader.frame(token)
        assert frame.scene_name == scene
        assert "LIDAR_TOP" in frame.lidar_sweeps
        assert frame.annotations is not None
        assert frame.annotations.instance_tokens == (f"{scene}-5",)


def test_a_scene_in_two_splits_is_one_scene(root: Path) -> None:
    write_dgp(root, {"0": ["one/scene.json"], "1": ["one/scene.json"]})
    reader = DgpReader(root)
    assert reader.frame_tokens("train") == reader.frame_tokens("val") == reader.frame_tokens("all")


@pytest.mark.parametrize(
    ("files", "keys", "words"),
    [
        # The second scene's cars are longer: one scene's boxes must not be told as the other's.
        (["one/a.json", "one/b.json"], ["a", "b"], r"one/a\.json and one/b\.json are both called 'one'"),
        (["one/a.json", "two/b.json"], ["a", "a"], r"two/b\.json: the key 'a-0' .* one/a\.json"),
        (["a.json", "a/b.json"], ["a", "b"], "both called 'a'"),
    ],
)
def test_what_is_called_alike_is_refused(tmp_path: Path, files: list[str], keys: list[str], words: str) -> None:
    root = write_dgp(tmp_path / "dgp", {"0": files})
    for file, key, length in zip(files, keys, (4.0, 5.0), strict=True):
        write_dgp_scene(root, file, key, car_length=length)
    with pytest.raises(InputRefused, match=words):
        DgpReader(root)


def test_a_datum_key_occurs_once(root: Path) -> None:
    path = root / "one" / "scene.json"
    scene = json.loads(path.read_text())
    path.write_text(json.dumps(scene | {"data": [*scene["data"], scene["data"][0]]}))
    with pytest.raises(InputRefused, match="1 of the data have a key that occurs twice"):
        DgpReader(root)


# Paths --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no letter \ud800", "no letter \0"])
@pytest.mark.parametrize("field", ["filenames", "calibration_key", "ontologies"])
def test_a_path_that_no_system_has_is_refused(root: Path, field: str, name: str) -> None:
    path = root / "one" / "scene.json"
    scene = json.loads(path.read_text())
    if field == "filenames":
        write_dgp(root, {"0": [name]})
    elif field == "ontologies":
        path.write_text(json.dumps(scene | {"ontologies": {"1": name}}))
    else:
        scene["samples"][0]["calibration_key"] = name
        path.write_text(json.dumps(scene))
    with pytest.raises(InputRefused, match=r"no letter|filenames"):
        DgpReader(root)


def test_boxes_behind_too_many_links_are_refused(root: Path) -> None:
    boxes = root / "one" / "boxes"
    reader = DgpReader(root)
    (boxes / "a-0.json").rename(boxes / "link0")
    for number in range(sys.getrecursionlimit()):
        (boxes / f"link{number + 1}").symlink_to(boxes / f"link{number}")
    (boxes / "a-0.json").symlink_to(boxes / f"link{sys.getrecursionlimit()}")
    with pytest.raises(InputRefused, match=r"a-0\.json"):
        reader.frame("a-0")


# Clouds -------------------------------------------------------------------------------------------------------------


def lidar_faults(root: Path) -> list[FaultReason]:
    """Of the newest cloud, and of those before it, in the frame of the last sample."""
    frame = DgpReader(root).frame("a-2")
    faults = [fault.reason for fault in (*frame.faults, *frame.impairments) if fault.channel == "LIDAR_TOP"]
    assert (len(frame.lidar_sweeps) == 0) == any(fault.channel == "LIDAR_TOP" for fault in frame.faults)
    return faults


def _deflate_damaged(content: bytes) -> bytes:
    start = 30 + len("data.npy") + struct.unpack_from("<H", content, 28)[0]
    return content[:start] + b"\xff" * 40 + content[start + 40 :]


def _encrypted(content: bytes) -> bytes:
    entry = content.index(b"PK\x01\x02")
    changed = bytearray(content)
    changed[6] |= 1
    changed[entry + 8] |= 1
    return bytes(changed)


def _unknown_method(content: bytes) -> bytes:
    entry = content.index(b"PK\x01\x02")
    changed = bytearray(content)
    changed[8] = changed[entry + 10] = 97
    return bytes(changed)


def _packed_by(method: int) -> Callable[[bytes], bytes]:
    def packed(content: bytes) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", method) as archive:
            archive.writestr("data.npy", zipfile.ZipFile(io.BytesIO(content)).read("data.npy"))
        start = 30 + len("data.npy") + 12
        return target.getvalue()[:start] + b"\xff" * 40 + target.getvalue()[start + 40 :]

    return packed


def _claims(header: bytes) -> Callable[[bytes], bytes]:
    """A `.npy` file of a few bytes whose header says something else."""

    def changed(_: bytes) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("data.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
        return target.getvalue()

    return changed


@pytest.mark.parametrize(
    "damage",
    [
        _deflate_damaged,
        _encrypted,
        _unknown_method,
        _packed_by(zipfile.ZIP_LZMA),
        _packed_by(zipfile.ZIP_BZIP2),
        _claims(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2305843009213693951, 4)}\n"),
        _claims(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}\n"),
        _claims(b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 4)}\n"),
        _claims(b"{'descr': ('''\n"),
        _claims(b"{[]: 1}\n"),
        lambda content: b"",
        lambda content: content[:-30],
    ],
)
def test_a_damaged_cloud_is_a_fault(root: Path, damage: Callable[[bytes], bytes]) -> None:
    assert lidar_faults(root) == []
    for name in ("a-1", "a-2"):  # an earlier cloud, then the newest as well
        path = root / "one" / "clouds" / f"{name}.npz"
        path.write_bytes(damage(path.read_bytes()))
        assert len(faults := lidar_faults(root)) == 1
        assert faults[0] in (FaultReason.TRUNCATED, FaultReason.EMPTY_FILE)


def test_nothing_is_allocated_for_what_a_header_claims(root: Path) -> None:
    path = root / "one" / "clouds" / "a-2.npz"
    # Forty gigabytes, of which 64 bytes are there.
    path.write_bytes(_claims(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2500000000, 4)}\n")(b""))
    (fault,) = [fault for fault in DgpReader(root).frame("a-2").faults if fault.channel == "LIDAR_TOP"]
    assert "announces (2500000000, 4) numbers and holds 64 bytes" in fault.detail


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_no_changed_byte_is_a_traceback(root: Path, places: list[tuple[float, int]]) -> None:
    path = root / "one" / "clouds" / "a-2.npz"
    kept = path.read_bytes()
    changed = bytearray(kept)
    for place, bits in places:
        changed[int(place * len(kept))] ^= bits
    path.write_bytes(changed)
    try:
        assert len(lidar_faults(root)) <= 1  # some bytes of an archive mean nothing
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_array_comes_as_numpy_wrote_it(order: str, dtype: str) -> None:
    table = np.arange(24, dtype=dtype).reshape(4, 6).copy(order=order)  # type: ignore[call-overload]
    file = io.BytesIO()
    np.save(file, table)
    np.testing.assert_array_equal(read_npy(file.getvalue(), (dtype,)), table)
    with pytest.raises(ValueError, match=dtype):
        read_npy(file.getvalue(), ("int64",))
    with pytest.raises(ValueError, match="announces"):
        read_npy(file.getvalue()[:-1], (dtype,))
