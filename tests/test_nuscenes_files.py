"""Sensor files: whatever is wrong with one is told by a reason from the closed list and a sentence that names it."""

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datasets.faults import FaultReason, InputRefused, SensorFileError
from datasets.frames import RADAR_FIELDS, CameraImage
from datasets.nuscenes.files import ReadBuffer, read_image_bytes, read_lidar_sweep, read_radar_sweep
from datasets.sensors.images import decode_image, picture_size
from tests.nuscenes_fixture import write_radar

Points = NDArray[np.float32]


def lidar_points(count: int = 60) -> Points:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(count, 5)).astype(np.float32) * 20
    points[:, 3], points[:, 4] = generator.integers(0, 256, count), np.arange(count) % 32
    return points


def radar_points(count: int = 7) -> NDArray[np.float64]:
    generator = np.random.default_rng(1)
    points = generator.normal(size=(count, 18)) * 10
    whole = [RADAR_FIELDS.index(name) for name in ("dyn_prop", "id", *RADAR_FIELDS[10:])]
    points[:, whole] = generator.integers(-3, 100, (count, len(whole)))
    return points


def refusal(read: Callable[[], Any], reason: FaultReason, name: str) -> str:
    with pytest.raises(SensorFileError) as error:
        read()
    assert error.value.reason is reason, error.value
    assert name in error.value.detail
    return error.value.detail


# LiDAR ----------------------------------------------------------------------------------------------------------


def test_lidar_points_come_as_written(tmp_path: Path) -> None:
    points = lidar_points()
    (tmp_path / "a.bin").write_bytes(points.tobytes())
    assert torch.equal(read_lidar_sweep(tmp_path, "a.bin").points, torch.from_numpy(points))


def test_files_are_read_to_half_a_page_behind_a_pages_beginning() -> None:
    buffer = ReadBuffer()
    for size in (1, 5000, 700_000, 4096):  # the last into the memory of the one before
        room = buffer.room(size)
        assert len(room) == size
        assert room.ctypes.data % 4096 == 2048


@pytest.mark.parametrize("cut", [7, 4])
def test_a_cut_lidar_file_is_truncated(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.bin").write_bytes(lidar_points().tobytes()[:-cut])
    detail = refusal(lambda: read_lidar_sweep(tmp_path, "a.bin"), FaultReason.TRUNCATED, "a.bin")
    assert str(1200 - cut) in detail


def test_lidar_points_that_are_not_finite_are_dropped(tmp_path: Path) -> None:
    points = lidar_points()
    points[3, 0], points[7, 2], points[9, 3], points[11, 4] = np.nan, np.inf, -np.inf, np.nan
    (tmp_path / "a.bin").write_bytes(points.tobytes())
    expected = torch.from_numpy(np.delete(points, [3, 7, 9, 11], axis=0))
    assert torch.equal(read_lidar_sweep(tmp_path, "a.bin").points, expected)


def test_lidar_without_a_finite_point(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(np.full((4, 5), np.nan, np.float32).tobytes())
    refusal(lambda: read_lidar_sweep(tmp_path, "a.bin"), FaultReason.NO_FINITE_POINTS, "a.bin")


@pytest.mark.parametrize(
    "layout",
    [
        lambda points: points[:, :4],  # KITTI's four columns: 60 x 16 bytes are also 48 x 20
        lambda points: points.astype(np.float64),
        lambda points: points.astype(">f4"),
        lambda points: np.where(np.arange(5) == 4, 255.0, points).astype(np.float32),
    ],
)
def test_another_layout_is_implausible(tmp_path: Path, layout: Callable[[Points], NDArray[Any]]) -> None:
    (tmp_path / "a.bin").write_bytes(np.ascontiguousarray(layout(lidar_points())).tobytes())
    refusal(lambda: read_lidar_sweep(tmp_path, "a.bin"), FaultReason.IMPLAUSIBLE, "a.bin")


# Files ----------------------------------------------------------------------------------------------------------

READERS: list[Callable[[Path, str], Any]] = [
    read_lidar_sweep,
    read_radar_sweep,
    lambda root, name: read_image_bytes(root, name, 8, 8),
]


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file_with_content(tmp_path: Path, read: Callable[[Path, str], Any]) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    (tmp_path / "dangling").symlink_to(tmp_path / "not here")
    refusal(lambda: read(tmp_path, "nowhere"), FaultReason.MISSING_FILE, "nowhere")
    refusal(lambda: read(tmp_path, "empty/inside"), FaultReason.MISSING_FILE, "empty/inside")
    refusal(lambda: read(tmp_path, "dangling"), FaultReason.MISSING_FILE, "dangling")
    refusal(lambda: read(tmp_path, "x" * 5000), FaultReason.MISSING_FILE, "xxx")
    refusal(lambda: read(tmp_path, "x\ud800"), FaultReason.MISSING_FILE, "x\\ud800: not readable")
    refusal(lambda: read(tmp_path, "x\0"), FaultReason.MISSING_FILE, "x\\x00: not readable")
    refusal(lambda: read(tmp_path, "empty"), FaultReason.EMPTY_FILE, "empty")
    refusal(lambda: read(tmp_path, "folder"), FaultReason.NOT_A_REGULAR_FILE, "folder")
    refusal(lambda: read(tmp_path, "pipe"), FaultReason.NOT_A_REGULAR_FILE, "pipe")


def test_no_path_leads_out_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "samples").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(lidar_points().tobytes())
    (root / "samples" / "link.bin").symlink_to(tmp_path / "outside.bin")
    for name in ("../outside.bin", str(tmp_path / "outside.bin"), "samples/../../outside.bin", "samples/link.bin", ""):
        with pytest.raises(InputRefused, match="dataroot"):
            read_lidar_sweep(root, name)


def test_the_root_and_its_first_level_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "disk" / "LIDAR_TOP").mkdir(parents=True)
    (tmp_path / "disk" / "LIDAR_TOP" / "a.bin").write_bytes(lidar_points().tobytes())
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "samples").symlink_to(tmp_path / "disk")
    (tmp_path / "linked").symlink_to(tmp_path / "root")
    assert len(read_lidar_sweep(tmp_path / "linked", "samples/LIDAR_TOP/a.bin").points) == 60


# Radar ----------------------------------------------------------------------------------------------------------


def test_radar_points_come_by_name(tmp_path: Path) -> None:
    points = radar_points()
    write_radar(tmp_path / "a.pcd", points)
    assert torch.equal(read_radar_sweep(tmp_path, "a.pcd").points, torch.from_numpy(points.astype(np.float32)))


def test_radar_agrees_with_the_devkit(real_data: Path) -> None:
    from nuscenes.utils.data_classes import RadarPointCloud

    states = list(range(-128, 128))
    root = real_data / "nuscenes-minival"
    paths = sorted((root / "samples" / "RADAR_FRONT").iterdir())
    assert len(paths) == 81
    for path in paths[::4]:
        reference = RadarPointCloud.from_file(str(path), states, states, states).points
        ours = read_radar_sweep(root, str(path.relative_to(root))).points
        assert np.array_equal(ours.numpy(), reference.T.astype(np.float32))


@pytest.mark.parametrize("trailing", [b"", b"\n", b"junk"])
def test_other_orders_and_types_of_radar_columns(tmp_path: Path, trailing: bytes) -> None:
    """A file with the columns in another order, one more column, and every type that PCD has."""
    points = radar_points()
    types = ["<f8", "<f4", "<f2", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8"]
    names = [*reversed(RADAR_FIELDS), "snr"]
    layout = np.dtype([(name, types[position % len(types)]) for position, name in enumerate(names)])
    records = np.zeros(len(points), dtype=layout)
    for column, name in enumerate(RADAR_FIELDS):
        records[name] = np.abs(points[:, column]).astype(np.uint8)
    header = (
        "VERSION .7\nFIELDS " + " ".join(names) + "\n"
        "SIZE " + " ".join(str(layout[name].itemsize) for name in names) + "\n"
        "TYPE " + " ".join(layout[name].kind.upper() for name in names) + "\n"
        f"WIDTH {len(points)}\nHEIGHT 1\nDATA binary\n"
    )
    (tmp_path / "a.pcd").write_bytes(header.encode() + records.tobytes() + trailing)
    expected = torch.from_numpy(np.abs(points).astype(np.uint8).astype(np.float32))
    assert torch.equal(read_radar_sweep(tmp_path, "a.pcd").points, expected)


def test_a_radar_sweep_may_be_empty(tmp_path: Path) -> None:
    write_radar(tmp_path / "none.pcd", np.zeros((0, 18)))
    assert read_radar_sweep(tmp_path, "none.pcd").points.shape == (0, 18)
    marked = np.zeros((1, 18))
    marked[0, :3] = np.nan
    write_radar(tmp_path / "nan.pcd", marked)
    assert read_radar_sweep(tmp_path, "nan.pcd").points.shape == (0, 18)


def test_radar_points_that_are_not_finite_are_dropped(tmp_path: Path) -> None:
    points = radar_points()
    points[2, 6], points[4, 9] = np.nan, np.inf
    write_radar(tmp_path / "a.pcd", points)
    expected = torch.from_numpy(np.delete(points, [2, 4], axis=0).astype(np.float32))
    assert torch.equal(read_radar_sweep(tmp_path, "a.pcd").points, expected)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"WIDTH": str(10**12), "POINTS": str(10**12)}, FaultReason.HEADER_MISMATCH),
        ({"WIDTH": "8", "POINTS": "8"}, FaultReason.TRUNCATED),
        ({"WIDTH": "6"}, FaultReason.HEADER_MISMATCH),
        ({"WIDTH": "-7", "POINTS": "-7"}, FaultReason.HEADER_MISMATCH),
        ({"WIDTH": "many"}, FaultReason.BAD_HEADER),
        ({"WIDTH": ""}, FaultReason.BAD_HEADER),
        ({"DATA": "ascii"}, FaultReason.BAD_HEADER),
        ({"COUNT": "2 " + "1 " * 17}, FaultReason.BAD_HEADER),
        ({"FIELDS": "x y z"}, FaultReason.BAD_HEADER),
        ({"FIELDS": " ".join(["x", *RADAR_FIELDS[:-1]])}, FaultReason.BAD_HEADER),
        ({"SIZE": "4 4 4"}, FaultReason.BAD_HEADER),
        ({"SIZE": "3 " + "4 " * 17}, FaultReason.BAD_HEADER),
        ({"TYPE": "X " * 18}, FaultReason.BAD_HEADER),
    ],
)
def test_a_bad_radar_header(tmp_path: Path, header: dict[str, str], reason: FaultReason) -> None:
    write_radar(tmp_path / "a.pcd", radar_points(), header)
    refusal(lambda: read_radar_sweep(tmp_path, "a.pcd"), reason, "a.pcd")


def test_a_radar_file_that_is_none(tmp_path: Path) -> None:
    write_radar(tmp_path / "a.pcd", radar_points())
    content = (tmp_path / "a.pcd").read_bytes()
    (tmp_path / "no_data.pcd").write_bytes(content.replace(b"DATA binary\n", b""))
    (tmp_path / "garbage.pcd").write_bytes(b"\xff\xfe\n" + content)
    (tmp_path / "half.pcd").write_bytes(content[: len(content) - 200])
    refusal(lambda: read_radar_sweep(tmp_path, "no_data.pcd"), FaultReason.BAD_HEADER, "no_data.pcd")
    refusal(lambda: read_radar_sweep(tmp_path, "garbage.pcd"), FaultReason.BAD_HEADER, "garbage.pcd")
    refusal(lambda: read_radar_sweep(tmp_path, "half.pcd"), FaultReason.TRUNCATED, "half.pcd")


# A disk that fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
def test_a_disk_that_fails_while_a_file_is_read(
    tmp_path: Path, read: Callable[[Path, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad_block(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a").write_bytes(lidar_points().tobytes())
    for call in ("readv", "fstat"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, bad_block)
            detail = refusal(lambda: read(tmp_path, "a"), FaultReason.MISSING_FILE, "a: not readable")
        assert os.strerror(errno.EIO) in detail


def test_a_file_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.readv

    def slowly(descriptor: int, buffers: list[memoryview]) -> int:
        return read(descriptor, [buffers[0][:100]])

    def until(end: int) -> Callable[[int, list[memoryview]], int]:
        return lambda descriptor, buffers: read(descriptor, [buffers[0][: end - os.lseek(descriptor, 0, os.SEEK_CUR)]])

    (tmp_path / "a").write_bytes(lidar_points().tobytes())
    monkeypatch.setattr(os, "readv", slowly)
    assert torch.equal(read_lidar_sweep(tmp_path, "a").points, torch.from_numpy(lidar_points()))
    # Another program cuts the file in the meantime, between two points.
    monkeypatch.setattr(os, "readv", until(400))
    assert "400 of 1200" in refusal(lambda: read_lidar_sweep(tmp_path, "a"), FaultReason.TRUNCATED, "a:")


# Pictures -------------------------------------------------------------------------------------------------------


def picture(width: int = 40, height: int = 30) -> NDArray[np.uint8]:
    smooth = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 255, (height, width, 3)).astype(np.uint8), (0, 0), 4)
    return np.asarray(smooth, dtype=np.uint8)


def encoded(suffix: str, pixels: NDArray[np.uint8], parameters: tuple[int, ...] = ()) -> bytes:
    content: bytes = cv2.imencode(suffix, pixels, parameters)[1].tobytes()
    return content


def camera_image(content: bytes) -> CameraImage:
    return CameraImage(0, torch.eye(4, dtype=torch.float64), content, "samples/CAM_FRONT/a.jpg")


@pytest.mark.parametrize(
    ("suffix", "parameters"),
    [
        (".jpg", ()),
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        (".jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)),
        (".png", ()),
    ],
)
def test_the_size_is_read_from_the_header(tmp_path: Path, suffix: str, parameters: tuple[int, ...]) -> None:
    content = encoded(suffix, picture(), parameters)
    (tmp_path / "a").write_bytes(content)
    assert read_image_bytes(tmp_path, "a", 40, 30) == content
    assert picture_size(content + b"\0\0", "a") == (40, 30)
    refusal(lambda: read_image_bytes(tmp_path, "a", 30, 40), FaultReason.SIZE_MISMATCH, "40 x 30")


def test_colours_come_as_rgb() -> None:
    pixels = picture()
    decoded = decode_image(camera_image(encoded(".png", pixels)))
    assert torch.equal(decoded, torch.from_numpy(pixels[:, :, ::-1].copy()))
    grey = decode_image(camera_image(encoded(".png", pixels[:, :, :1])))
    assert grey.shape == (30, 40, 3)


def test_exif_orientation_is_ignored() -> None:
    content = encoded(".jpg", picture())
    directory = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b"Exif\0\0MM\0*\0\0\0\x08" + directory
    turned = content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    # The mark is really one that OpenCV would follow.
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (40, 30, 3)
    assert picture_size(turned, "a") == (40, 30)
    assert torch.equal(decode_image(camera_image(turned)), decode_image(camera_image(content)))


def test_a_cut_picture_is_truncated(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png"):
        content = encoded(suffix, picture())
        (tmp_path / "a").write_bytes(content[: len(content) * 11 // 20])
        refusal(lambda: read_image_bytes(tmp_path, "a", 40, 30), FaultReason.TRUNCATED, "a:")


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"<html>not found</html>")
    refusal(lambda: read_image_bytes(tmp_path, "a", 40, 30), FaultReason.NOT_AN_IMAGE, "a:")
    (tmp_path / "a").write_bytes(b"\xff\xd8\xff\xd9")
    refusal(lambda: read_image_bytes(tmp_path, "a", 40, 30), FaultReason.NOT_AN_IMAGE, "a:")
    content = bytearray(encoded(".jpg", picture()))
    del content[200:-2]
    source = "samples/CAM_FRONT/a.jpg"
    refusal(lambda: decode_image(camera_image(b"\xff\xd8 no picture \xff\xd9")), FaultReason.NOT_AN_IMAGE, source)
    refusal(lambda: decode_image(camera_image(b"")), FaultReason.NOT_AN_IMAGE, source)


def test_a_small_file_cannot_claim_a_huge_picture(tmp_path: Path) -> None:
    jpeg = bytearray(encoded(".jpg", picture()))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 30_000, 30_000)
    (tmp_path / "bomb.jpg").write_bytes(jpeg)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""))
    for name in ("bomb.jpg", "bomb.png"):
        refusal(lambda: read_image_bytes(tmp_path, name, 1600, 900), FaultReason.SIZE_MISMATCH, "30000 x 30000")  # noqa: B023


def test_real_pictures(real_data: Path) -> None:
    root = real_data / "nuscenes-keyframe"
    names = sorted(str(path.relative_to(root)) for path in root.glob("samples/CAM_*/*.jpg"))
    assert len(names) == 6
    for name in names:
        image = camera_image(read_image_bytes(root, name, 1600, 900))
        assert decode_image(image).shape == (900, 1600, 3)


def test_dropped_points_are_told_with_file_and_field(tmp_path: Path) -> None:
    points = np.zeros((4, 5), dtype=np.float32)
    points[1, 3] = np.nan
    points[2, 0] = np.inf
    points.tofile(tmp_path / "a.bin")
    sweep = read_lidar_sweep(tmp_path, "a.bin")
    assert len(sweep.points) == 2
    assert sweep.dropped == "a.bin: 2 of 4 points are not finite (field x, intensity) and were dropped"
