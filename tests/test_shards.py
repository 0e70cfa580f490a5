"""Shards: pack then read is the identity; any file system will do; nothing is believed."""

import dataclasses
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datasets.dgp.reader import DgpReader
from datasets.faults import InputRefused
from datasets.frames import LogFrame
from datasets.nuscenes.reader import NuScenesReader
from datasets.reader import LogReader
from datasets.samples.frame_classes import classes_of_frames
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.shards.frame_files import BadShard, files_of_frame, frame_of_files
from datasets.shards.manifest import Contents
from datasets.shards.pack import pack
from datasets.shards.reader import ShardReader
from tests.nuscenes_fixture import write_dataset
from tests.odd_frames import odd_frames
from tools.__main__ import main
from tools.exit_codes import ExitCode

CONTENTS = Contents(dataset="fixture", version="v1.0-mini", split="all", lidar_sweeps=10, radar_sweeps=6, ego_states=5)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogFrame, ...]:
    """Fourteen frames of two scenes, with everything that a frame can hold, one of them with lost files."""
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, keyframes=7, can_bus=True)
    next((root / "samples" / "CAM_BACK").glob("scene-0061*")).unlink()
    lidar = sorted((root / "sweeps" / "LIDAR_TOP").iterdir())[2]
    lidar.write_bytes(lidar.read_bytes()[:-3])
    reader = NuScenesReader(root)
    frames = tuple(reader.frame(token) for token in reader.frame_tokens("all"))
    assert any(frame.faults for frame in frames)
    assert any(frame.impairments for frame in frames)
    return frames


@pytest.fixture(scope="module")
def packed(frames: tuple[LogFrame, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames in five shards of three, the last one with two."""
    folder = tmp_path_factory.mktemp("packed") / "shards"
    pack(frames, folder, CONTENTS, samples_per_shard=3)
    return folder


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, types and all; NaN is NaN."""
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def test_annotations_alone_are_those_of_the_frames_and_need_no_other_bytes(
    frames: tuple[LogFrame, ...], packed: Path, tmp_path: Path
) -> None:
    shutil.copytree(packed, tmp_path / "shards")
    reader = ShardReader(str(tmp_path / "shards"))
    for shard in (tmp_path / "shards").glob("*.tar"):
        content = bytearray(shard.read_bytes())
        with tarfile.open(shard) as archive:
            other = [entry for entry in archive if "frame.json" not in entry.name and ".annotations." not in entry.name]
        for entry in other:
            content[entry.offset_data : entry.offset_data + entry.size] = bytes(entry.size)
        shard.write_bytes(content)
    for frame in frames:
        assert frame.annotations is not None
        assert same(reader.annotations(frame.token), frame.annotations)
        with pytest.raises(InputRefused, match="the bytes have changed"):
            reader.frame(frame.token)
    assert all(classes_of_frames(reader, reader.frame_tokens("all")))


def test_annotations_of_a_broken_shard_are_refused(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "shards")
    reader = ShardReader(str(tmp_path / "shards"))
    tokens, shard = reader.frame_tokens("all"), tmp_path / "shards" / "shard-000000.tar"
    whole = shard.read_bytes()
    for broken in (whole.replace(tokens[0].encode(), b"x" * len(tokens[0])), whole[:700], whole[:100], b""):
        shard.write_bytes(broken)
        with pytest.raises(InputRefused, match="shard-000000"):
            reader.annotations(tokens[0])
    shard.unlink()
    with pytest.raises(InputRefused, match="there is no such file"):
        reader.annotations(tokens[0])
    with pytest.raises(KeyError):
        reader.annotations("nowhere")


def test_frames_without_annotations(frames: tuple[LogFrame, ...], tmp_path: Path) -> None:
    bare = dataclasses.replace(frames[0], annotations=None)
    pack([bare], tmp_path / "shards", CONTENTS)
    assert ShardReader(str(tmp_path / "shards")).annotations(bare.token) is None


def test_pack_then_read_is_the_identity(frames: tuple[LogFrame, ...], packed: Path) -> None:
    reader = ShardReader(str(packed))
    assert isinstance(reader, LogReader)
    assert reader.frame_tokens("all") == tuple(frame.token for frame in frames)
    assert sorted(path.name for path in packed.iterdir()) == [
        "manifest.json",
        *(f"shard-{n:06d}.tar" for n in range(5)),
    ]
    config = SampleConfig(image_height=32, image_width=88)
    for frame in frames:
        read = reader.frame(frame.token)
        assert same(read, frame)
        assert same(make_sample(read, config), make_sample(frame, config))
    assert not same(frames[0], frames[1])


@settings(deadline=None, max_examples=40)
@given(st.lists(odd_frames(), min_size=1, max_size=3), st.integers(1, 3))
def test_pack_then_read_is_the_identity_for_odd_frames(drawn: list[LogFrame], samples_per_shard: int) -> None:
    """Absent and broken sensors, empty sweeps, no annotations and empty ones, unknown velocities, no past."""
    odd = [dataclasses.replace(frame, token=f"token-{number}") for number, frame in enumerate(drawn)]
    with tempfile.TemporaryDirectory() as folder:
        pack(odd, Path(folder) / "shards", CONTENTS, samples_per_shard=samples_per_shard)
        reader = ShardReader(str(Path(folder) / "shards"))
        assert reader.frame_tokens("all") == tuple(frame.token for frame in odd)
        for frame in odd:
            assert same(reader.frame(frame.token), frame)
            assert same(reader.annotations(frame.token), frame.annotations)


def test_the_identity_holds_for_real_frames(real_data: Path, tmp_path: Path) -> None:
    """Another data set (no radar, cameras of another size), and nuScenes' own keyframe."""
    for name, reader in (
        ("dgp", DgpReader(real_data / "dgp-test-scene", time_scale=0.1)),
        ("nuscenes", NuScenesReader(real_data / "nuscenes-keyframe")),
    ):
        real = [reader.frame(token) for token in reader.frame_tokens("all")]
        pack(real, tmp_path / name, CONTENTS)
        shards = ShardReader(str(tmp_path / name))
        assert all(same(shards.frame(frame.token), frame) for frame in real)


def test_the_same_frames_give_the_same_bytes(frames: tuple[LogFrame, ...], packed: Path, tmp_path: Path) -> None:
    pack(frames, tmp_path / "again", CONTENTS, samples_per_shard=3)
    for path in packed.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_webdataset_reads_the_shards(frames: tuple[LogFrame, ...], packed: Path) -> None:
    """The layout is WebDataset's: the library itself finds the same samples with the same files."""
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in packed.glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == len(frames)
    for sample, frame in zip(samples, frames, strict=True):
        assert json.loads(sample["frame.json"])["frame"]["token"] == frame.token
        files = files_of_frame(frame)
        assert {name: data for name, data in sample.items() if not name.startswith("__")} == {
            name.lower(): data for name, data in files.items()
        }


def test_shards_are_read_from_any_file_system(frames: tuple[LogFrame, ...], packed: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(packed), "/bucket/shards", recursive=True)
    for url in ("memory://bucket/shards", f"file://{packed}", f"{packed}/"):
        reader = ShardReader(url)
        assert same(reader.frame(frames[-1].token), frames[-1])
    with pytest.raises(InputRefused, match="Was the packing finished"):
        ShardReader("memory://bucket/nothing")
    with pytest.raises(InputRefused, match="not readable"):
        ShardReader("nonsense://bucket")


def test_splits_of_shards(frames: tuple[LogFrame, ...], packed: Path) -> None:
    reader = ShardReader(str(packed))
    of_scene = tuple(frame.token for frame in frames if frame.scene_name == "scene-0103")
    assert reader.frame_tokens("scene-0103") == of_scene
    assert len(of_scene) == 7
    # Official splits are known by their scenes, whatever was packed.
    assert reader.frame_tokens("mini_val") == of_scene
    assert reader.frame_tokens("scene-0103, scene-0061")[:7] == of_scene
    for split, reason in (("val", "a split of another version"), ("scene-1", "scenes here are scene-0061, scene-0103")):
        with pytest.raises(InputRefused, match=reason):
            reader.frame_tokens(split)


def _copy(packed: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in packed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_no_changed_byte_passes(frames: tuple[LogFrame, ...], packed: Path, tmp_path: Path) -> None:
    folder = _copy(packed, tmp_path / "shards")
    reader = ShardReader(str(folder))
    shard = folder / "shard-000000.tar"
    whole = shard.read_bytes()
    end = reader.manifest.shards[0].samples[0].size
    generator = np.random.default_rng(0)
    for position in generator.integers(0, end, 40).tolist():
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        shard.write_bytes(changed)
        with pytest.raises(InputRefused, match=r"shard-000000\.tar.*changed"):
            reader.frame(frames[0].token)
    shard.write_bytes(whole[:1000])
    with pytest.raises(InputRefused, match=r"shard-000000\.tar: sample .*: the shard ends before it does"):
        reader.frame(frames[0].token)
    shard.unlink()
    with pytest.raises(InputRefused, match="no such file"):
        reader.frame(frames[1].token)
    assert same(reader.frame(frames[3].token), frames[3])


def _of_first_sample(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["shards"][0]["samples"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda manifest: manifest.update(format=1), "format"),
        (lambda manifest: manifest.pop("shards"), "shards"),
        (lambda manifest: manifest.update(shards=[]), "shards"),
        (lambda manifest: manifest["shards"][0].update(name="../outside.tar"), "name"),
        (lambda manifest: manifest["shards"][1].update(name="shard-000000.tar"), "twice"),
        (_of_first_sample(size=2**40), "size"),
        (_of_first_sample(offset=-1), "offset"),
        (_of_first_sample(sha256="x"), "sha256"),
        (_of_first_sample(token=7), "token"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    change: Callable[[dict[str, Any]], None], words: str, packed: Path, tmp_path: Path
) -> None:
    folder = _copy(packed, tmp_path / "shards")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputRefused, match=words):
        ShardReader(str(folder))


def test_files_of_another_kind_are_refused(frames: tuple[LogFrame, ...]) -> None:
    """A shard whose checksums fit, made by somebody else: no pickle, no announcement of terabytes, no other types."""
    lossy = next(frame for frame in frames if frame.faults)
    files = files_of_frame(lossy)
    points = "lidar_sweeps.LIDAR_TOP.0.npy"
    assert same(frame_of_files(files), lossy)
    content = io.BytesIO()
    np.save(content, np.array([object()]), allow_pickle=True)
    huge = files[points].replace(b"'shape': (", b"'shape': (99999999999, ")
    for name, data in (
        (points, content.getvalue()),
        (points, huge),
        (points, files[points][:-4]),
        (points, b""),
        ("frame.json", b"["),
        ("frame.json", b"[" * 100_000),
        ("frame.json", b"{}"),
        ("frame.json", re.sub(rb'"timestamp_us": (\d+)', rb'"timestamp_us": "\1"', files["frame.json"], count=1)),
        ("frame.json", files["frame.json"].replace(b'"float64"', b'"object"', 1)),
        ("frame.json", files["frame.json"].replace(b'"missing_file"', b'"anything"', 1)),
        ("frame.json", files["frame.json"].replace(b'"format": 1', b'"format": 9', 1)),
    ):
        assert files[name] != data
        with pytest.raises(BadShard):
            frame_of_files(files | {name: data})
    with pytest.raises(BadShard, match="there is no"):
        frame_of_files({name: data for name, data in files.items() if name != points})


def test_what_is_half_done_is_no_shard(frames: tuple[LogFrame, ...], tmp_path: Path) -> None:
    """Stopped in the second shard: the first one is whole, there is no other file, and no reader takes it for done."""

    def interrupted() -> Iterator[LogFrame]:
        yield from frames[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(interrupted(), tmp_path / "shards", CONTENTS, samples_per_shard=3)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["shard-000000.tar"]
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as archive:
        assert len({name.partition(".")[0] for name in archive.getnames()}) == 3
    with pytest.raises(InputRefused, match="Was the packing finished"):
        ShardReader(str(tmp_path / "shards"))
    with pytest.raises(InputRefused, match="not empty"):
        pack(frames, tmp_path / "shards", CONTENTS)
    with pytest.raises(InputRefused, match="no frames"):
        pack((), tmp_path / "other", CONTENTS)


def test_the_command(nuscenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = tmp_path / "shards"
    words = ["data", "shard", str(nuscenes_root), str(shards), "--split", "mini_val", "--samples-per-shard", "2"]
    assert main(words) == ExitCode.FINE
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("3 samples in 2 shards")
    assert said[-1] == str(shards)
    reader = ShardReader(str(shards))
    direct = NuScenesReader(nuscenes_root)
    assert reader.frame_tokens("mini_val") == direct.frame_tokens("mini_val")
    assert all(same(reader.frame(token), direct.frame(token)) for token in reader.frame_tokens("all"))
    assert main(words) == ExitCode.INPUT_REFUSED
    assert "not empty" in capsys.readouterr().err
    assert main(["data", "shard", str(nuscenes_root), str(tmp_path / "x"), "--lidar-sweeps", "0"]) == 3


def test_a_shard_holds_nothing_that_carries_code(packed: Path) -> None:
    """JSON, pictures and arrays of numbers, by their first bytes."""
    for path in packed.glob("*.tar"):
        with tarfile.open(path) as archive:
            for entry in archive:
                data = archive.extractfile(entry)
                assert data is not None
                assert data.read(8).startswith((b"\xff\xd8", b"\x93NUMPY", b'{"format')), entry.name
