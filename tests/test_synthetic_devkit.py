"""The official nuscenes-devkit, unmodified, on the synthetic world: it renders, lists, exports and checks itself.

Not run, because our world lacks what they need: `map_expansion`, its test_all_maps and four tests of the prediction
metrics (vector maps, `maps/expansion/*.json`), the prediction challenge (`maps/prediction/prediction_scenes.json`),
what asks for panoptic.json, and eval/detection's test_loader (a bicycle rack of the real scene-0103, by its token). The
tracking metric and its tests want the packages pandas and motmetrics. All other tests of the devkit read no dataset.
"""

import json
import runpy
import unittest
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import pymap3d
import pytest
from nuscenes import NuScenes
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.prediction import PredictHelper
from nuscenes.tests.assert_download import verify_setup
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud
from nuscenes.utils.geometry_utils import BoxVisibility

from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL
from datasets.synthetic.rig import camera
from tests.nuscenes_fixture import read_table, write_table
from tests.small_world import SMALL_WORLD

mpl.use("Agg")
import matplotlib.pyplot as plt

# The world takes long to make: one test process makes it for all that read it.
pytestmark = pytest.mark.xdist_group("synthetic world")

ORIGIN = (42.336849169438615, -71.05785369873047)  # boston-seaport, as export_poses.py has it
FULL_WIDTH, FULL_HEIGHT = 1600, 900


@pytest.fixture(scope="module")
def devkit(synthetic_root: Path) -> NuScenes:
    return NuScenes("v1.0-mini", str(synthetic_root), verbose=False)


@pytest.fixture(scope="module")
def full_size_root(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with pictures enlarged to nuScenes' size, its two scenes named as those of mini_val.

    Some scripts have 1600 x 900 written into them, and some want every scene of an official split. To render that size,
    or ten scenes, would take a minute.
    """
    root = tmp_path_factory.mktemp("full_size") / "world"
    (root / "v1.0-mini").mkdir(parents=True)
    for path in (synthetic_root / "v1.0-mini").iterdir():
        (root / "v1.0-mini" / path.name).symlink_to(path)
    for name in ("maps", "sweeps", "can_bus", "lidarseg"):
        (root / name).symlink_to(synthetic_root / name)
    for folder in (synthetic_root / "samples").iterdir():
        target = root / "samples" / folder.name
        target.mkdir(parents=True)
        for path in folder.iterdir():
            if folder.name in CAMERA_CHANNELS:
                large = cv2.resize(cv2.imread(str(path)), (FULL_WIDTH, FULL_HEIGHT), interpolation=cv2.INTER_LINEAR)
                cv2.imwrite(str(target / path.name), large)
            else:
                (target / path.name).symlink_to(path)
    channel_of = {row["token"]: row["channel"] for row in read_table(root, "sensor")}
    calibrations, measurements, scenes = (
        read_table(root, table) for table in ("calibrated_sensor", "sample_data", "scene")
    )
    for row in calibrations:
        if row["camera_intrinsic"]:
            row["camera_intrinsic"] = camera(channel_of[row["sensor_token"]], FULL_WIDTH).intrinsics.tolist()
    for row in measurements:
        if row["fileformat"] == "jpg":
            row["width"], row["height"] = FULL_WIDTH, FULL_HEIGHT
    for row, name in zip(scenes, ("scene-0103", "scene-0916"), strict=True):
        row["name"] = name
    for table, rows in (("calibrated_sensor", calibrations), ("sample_data", measurements), ("scene", scenes)):
        (root / "v1.0-mini" / f"{table}.json").unlink()
        write_table(root, table, rows)
    return root


@pytest.fixture(autouse=True)
def figures_closed() -> Iterator[None]:
    yield
    plt.close("all")


def run_script(name: str, *arguments: str, patch: pytest.MonkeyPatch) -> None:
    """A script of the devkit as `python -m nuscenes.scripts.<name> <arguments>`."""
    patch.setattr("sys.argv", [name, *arguments])
    runpy.run_module(f"nuscenes.scripts.{name}", run_name="__main__")


def frames_of(video: Path) -> list[np.ndarray]:
    reader, frames = cv2.VideoCapture(str(video)), []
    while True:
        more, frame = reader.read()
        if not more:
            return frames
        frames.append(frame)


def test_every_file_that_the_tables_name_is_there(devkit: NuScenes) -> None:
    verify_setup(devkit)


def test_every_sensor_is_rendered(devkit: NuScenes, synthetic_root: Path) -> None:
    sample = devkit.sample[1]
    for channel, token in sample["data"].items():
        _, axes = plt.subplots(figsize=(3, 3))
        with_boxes = channel in (*CAMERA_CHANNELS, LIDAR_CHANNEL)
        devkit.render_sample_data(token, with_anns=with_boxes, ax=axes, verbose=False)
        path = str(synthetic_root / devkit.get("sample_data", token)["filename"])
        if channel in CAMERA_CHANNELS:
            assert axes.images[0].get_array().shape[:2] == (SMALL_WORLD.image_height, SMALL_WORLD.image_width)
        else:
            # The map beneath, and a dot for each point that is not right at the sensor.
            assert len(axes.images) == 1
            loaded = (LidarPointCloud if channel == LIDAR_CHANNEL else RadarPointCloud).from_file(path)
            loaded.remove_close(1.0)
            dots = axes.collections[0].get_offsets()
            assert len(dots) == loaded.points.shape[1] > 0
        if with_boxes:
            _, boxes, _ = devkit.get_sample_data(token)
            assert len(axes.lines) >= 12 * len(boxes)
        if channel == LIDAR_CHANNEL:
            assert len(boxes) == len(sample["anns"])


def test_sweeps_are_put_together(devkit: NuScenes) -> None:
    sample = devkit.sample[2]
    for channel in (LIDAR_CHANNEL, "RADAR_FRONT"):
        cloud = LidarPointCloud if channel == LIDAR_CHANNEL else RadarPointCloud
        one, _ = cloud.from_file_multisweep(devkit, sample, channel, LIDAR_CHANNEL, nsweeps=1)
        many, ages = cloud.from_file_multisweep(devkit, sample, channel, LIDAR_CHANNEL, nsweeps=5)
        assert many.points.shape[1] > 3 * one.points.shape[1]
        assert len(np.unique(ages)) == 5


def test_a_sample_and_its_points_in_pictures_are_rendered(devkit: NuScenes, tmp_path: Path) -> None:
    sample = devkit.sample[1]
    devkit.render_sample(sample["token"], verbose=False)
    assert len(plt.gcf().axes) == 8  # six cameras, LiDAR, all radars in one
    for channel, eye in ((LIDAR_CHANNEL, "CAM_FRONT"), ("RADAR_FRONT", "CAM_FRONT"), ("RADAR_BACK_LEFT", "CAM_BACK")):
        out = tmp_path / f"{channel}.png"
        devkit.render_pointcloud_in_image(
            sample["token"], pointsensor_channel=channel, camera_channel=eye, out_path=str(out), verbose=False
        )
        assert cv2.imread(str(out)) is not None
        points, depths, picture = devkit.explorer.map_pointcloud_to_image(sample["data"][channel], sample["data"][eye])
        assert points.shape[1] == len(depths) > (100 if channel == LIDAR_CHANNEL else 2)
        assert (points[0] < picture.size[0]).all()
        assert (points[1] < picture.size[1]).all()
        if channel == LIDAR_CHANNEL:
            # The road lies in the lower half; what is lower in the picture is nearer.
            low, middle = depths[points[1] > 0.9 * picture.size[1]], depths[points[1] < 0.6 * picture.size[1]]
            assert np.median(low) < np.median(middle)


def test_an_annotation_and_an_instance_are_rendered(devkit: NuScenes, tmp_path: Path) -> None:
    annotations = [devkit.get("sample_annotation", token) for token in devkit.sample[1]["anns"]]
    nearest = max(annotations, key=lambda row: row["num_lidar_pts"])
    devkit.render_annotation(nearest["token"], out_path=str(tmp_path / "annotation.png"), extra_info=True)
    devkit.render_instance(nearest["instance_token"], out_path=str(tmp_path / "instance.png"))
    for name in ("annotation.png", "instance.png"):
        assert cv2.imread(str(tmp_path / name)).std() > 10
    # Every object can be found in some picture around the vehicle, as render_annotation wants it.
    cameras = [devkit.sample[1]["data"][channel] for channel in CAMERA_CHANNELS]
    for row in annotations:
        assert any(devkit.get_sample_data(token, BoxVisibility.ANY, [row["token"]])[1] for token in cameras), row[
            "category_name"
        ]


def test_ego_poses_are_rendered_on_the_map(devkit: NuScenes) -> None:
    for scene in devkit.scene:
        plt.close("all")
        devkit.render_egoposes_on_map("boston-seaport", scene_tokens=[scene["token"]])
        axes = plt.gcf().axes[0]
        poses = axes.collections[0].get_offsets()
        mask = devkit.get("map", devkit.get("log", scene["log_token"])["map_token"])["mask"].mask()
        assert len(poses) == SMALL_WORLD.keyframes
        assert (mask[poses[:, 1].astype(int), poses[:, 0].astype(int)] == 255).all()


def test_lists(devkit: NuScenes, capsys: pytest.CaptureFixture[str]) -> None:
    devkit.list_scenes()
    said = capsys.readouterr().out
    assert all(name in said for name in SMALL_WORLD.scene_names)
    devkit.list_categories()
    said = capsys.readouterr().out
    # The devkit prints the first 27 letters.
    names = {a["category_name"][:27] for a in devkit.sample_annotation}
    assert {line.split()[0] for line in said.splitlines()[1:]} == names
    devkit.list_attributes()
    said = capsys.readouterr().out
    counts = [int(line.rpartition(":")[2]) for line in said.splitlines()]
    assert sum(counts) == sum(len(a["attribute_tokens"]) for a in devkit.sample_annotation)
    devkit.list_sample(devkit.sample[0]["token"])
    said = capsys.readouterr().out
    assert said.count("sample_data_token") == 12
    assert said.count("sample_annotation_token") == len(devkit.sample[0]["anns"])


def test_scenes_become_videos(devkit: NuScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The devkit shows each frame in a window while it writes; there is no screen here.
    for name, result in (("namedWindow", None), ("moveWindow", None), ("imshow", None), ("waitKey", -1)):
        monkeypatch.setattr(cv2, name, lambda *arguments, result=result: result)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    token = devkit.scene[0]["token"]
    devkit.render_scene_channel(token, "CAM_BACK_LEFT", out_path=str(tmp_path / "channel.avi"))
    assert [frame.shape for frame in frames_of(tmp_path / "channel.avi")] == [(360, 640, 3)] * SMALL_WORLD.keyframes
    run_script(
        "export_scene_videos",
        *("--dataroot", devkit.dataroot, "--version", "v1.0-mini", "--out_dir", str(tmp_path / "videos")),
        patch=monkeypatch,
    )
    videos = sorted((tmp_path / "videos").iterdir())
    assert [video.stem for video in videos] == sorted(SMALL_WORLD.scene_names)
    for video in videos:
        frames = frames_of(video)
        assert len(frames) in (10, 11)  # at 10 Hz from the first keyframe until the last has passed
        assert frames[0].shape == (720, 1920, 3)


def test_poses_are_exported(devkit: NuScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("--dataroot", devkit.dataroot, "--version", "v1.0-mini", "--output_prefix", str(tmp_path / "latlon"))
    run_script("export_poses", *common, "--output_format", "json", patch=monkeypatch)
    exported = json.loads((tmp_path / "latlon_v1.0-mini.json").read_text())["boston-seaport"]
    assert set(exported) == set(SMALL_WORLD.scene_names)
    for name, poses in exported.items():
        fixes = json.loads((Path(devkit.dataroot) / "can_bus" / f"{name}_gps.json").read_text())
        for pose in poses:
            # The script takes the Earth for a sphere, and our receiver errs by half a metre.
            fix = min(fixes, key=lambda message: abs(message["utime"] - pose["timestamp"]))
            here = pymap3d.geodetic2enu(pose["latitude"], pose["longitude"], 0.0, *ORIGIN, 0.0)
            there = pymap3d.geodetic2enu(fix["latitude"], fix["longitude"], 0.0, *ORIGIN, 0.0)
            assert np.hypot(here[0] - there[0], here[1] - there[1]) < 0.004 * np.hypot(*here[:2]) + 5.0
    run_script("export_poses", *common, "--output_format", "kml", patch=monkeypatch)
    document = xml.etree.ElementTree.parse(tmp_path / "latlon_v1.0-mini.kml")
    assert len(document.findall(".//{*}Placemark")) == SMALL_WORLD.scenes


def test_ego_poses_are_exported(devkit: NuScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script(
        "export_egoposes_on_map",
        *("--dataroot", devkit.dataroot, "--version", "v1.0-mini", "--out_dir", str(tmp_path)),
        patch=monkeypatch,
    )
    assert cv2.imread(str(tmp_path / "egoposes-boston-seaport.png")).std() > 10


def test_coloured_point_clouds_are_exported(synthetic_root: Path, tmp_path: Path) -> None:
    from nuscenes.scripts.export_pointclouds_as_obj import export_scene_pointcloud

    devkit = NuScenes("v1.0-mini", str(synthetic_root), verbose=False)
    scene = devkit.scene[0]
    first = devkit.get("sample", scene["first_sample_token"])["data"][LIDAR_CHANNEL]
    second = devkit.get("sample_data", devkit.get("sample_data", first)["next"])
    second["next"] = ""  # it colours each sweep in a Python loop: one is enough
    export_scene_pointcloud(devkit, str(tmp_path / "cloud.obj"), scene["token"], verbose=False)
    lines = (tmp_path / "cloud.obj").read_text().splitlines()
    rows = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    assert rows.shape[0] > 5000
    assert rows.shape[1] == 6
    assert 0.0 <= rows[:, 3:].min() < rows[:, 3:].max() <= 1.0
    assert rows[:, 3:].std(axis=0).min() > 0.05


def test_boxes_in_pictures_and_videos_of_objects_are_exported(
    full_size_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--dataroot", str(full_size_root), "--version", "v1.0-mini")
    exported = full_size_root / "v1.0-mini" / "image_annotations.json"
    try:
        run_script("export_2d_annotations_as_json", *common, patch=monkeypatch)
        boxes = json.loads(exported.read_text())
        run_script(
            "export_instance_videos",
            *(*common, "-o", str(tmp_path / "videos"), "-m", str(SMALL_WORLD.keyframes), "-p", "0.0005"),
            patch=monkeypatch,
        )
    finally:
        exported.unlink(missing_ok=True)
    corners = np.array([box["bbox_corners"] for box in boxes])
    assert corners.min() >= 0
    assert corners[:, [0, 2]].max() <= FULL_WIDTH
    assert corners[:, [1, 3]].max() <= FULL_HEIGHT
    # There is a camera in every direction: whatever is annotated is in some picture.
    annotated = {row["token"] for row in read_table(full_size_root, "sample_annotation")}
    assert {box["sample_annotation_token"] for box in boxes} == annotated
    videos = list((tmp_path / "videos").iterdir())
    assert len(videos) > 3
    assert {len(frames_of(video)) for video in videos} == {SMALL_WORLD.keyframes}


def test_kitti_export_and_back(full_size_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nuscenes.scripts.export_kitti import KittiConverter

    # The script has no option for the dataroot: it takes the class's default, /data/sets/nuscenes.
    monkeypatch.setattr(NuScenes.__init__, "__defaults__", ("v1.0-mini", str(full_size_root), False, 0.1, None))
    converter = KittiConverter(str(tmp_path), image_count=2, split="mini_val")
    converter.nuscenes_gt_to_kitti()
    converter.kitti_res_to_nuscenes()
    # A fault of the devkit, whatever the data: utils/kitti.py calls a method of the explorer without an explorer.
    with pytest.raises(TypeError, match="get_color"):
        converter.render_kitti(render_2d=False)
    results = json.loads((tmp_path / "submission.json").read_text())["results"]
    devkit, compared = converter.nusc, 0
    for token, boxes in results.items():
        lidar = devkit.get("sample", token)["data"][LIDAR_CHANNEL]
        truth = np.array([box.center for box in devkit.get_sample_data(lidar, BoxVisibility.NONE)[1]])
        for box in boxes:
            # KITTI's files have two digits behind the point.
            assert np.linalg.norm(truth - box["translation"], axis=1).min() < 0.03
            compared += 1
    assert len(results) == 2
    assert compared > 5


@pytest.mark.parametrize("module", ["nuscenes.tests.test_nuscenes", "nuscenes.utils.tests.test_data_classes"])
def test_the_devkits_own_tests(
    module: str, full_size_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_own_tests(module, full_size_root, tmp_path, monkeypatch)
    assert result.testsRun > 0
    assert [trace for _, trace in result.errors + result.failures] == []


def test_the_devkits_own_detection_evaluation(
    full_size_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It ends by comparing the score of random detections with that on the real mini_val; ours has another one.
    result = run_own_tests("nuscenes.eval.detection.tests.test_evaluate", full_size_root, tmp_path, monkeypatch)
    assert result.testsRun == len(result.failures) == 2
    assert result.errors == []
    for _, trace in result.failures:
        assert trace.rstrip().splitlines()[-1].startswith("AssertionError: 0.")
        assert " != 0.19449091580477748 within 7 places" in trace


def test_the_devkits_own_lidarseg_tests(
    synthetic_root: Path, devkit: NuScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_own_tests("nuscenes.tests.test_lidarseg", synthetic_root, tmp_path, monkeypatch)
    assert result.testsRun == 3
    assert [trace for _, trace in result.errors + result.failures] == []
    devkit.list_lidarseg_categories()


def run_own_tests(module: str, root: Path, folder: Path, patch: pytest.MonkeyPatch) -> unittest.TestResult:
    """The devkit's unit tests of a module, in a folder that they may write to."""
    patch.setenv("NUSCENES", str(root))
    patch.chdir(folder)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromName(module).run(result)
    return result


def test_the_prediction_helper_follows_the_objects(devkit: NuScenes) -> None:
    helper, compared = PredictHelper(devkit), 0
    for annotation in devkit.sample_annotation:
        instance, sample = annotation["instance_token"], annotation["sample_token"]
        future = helper.get_future_for_agent(instance, sample, 1.0, in_agent_frame=False)
        if annotation["next"]:
            assert np.allclose(future[0], devkit.get("sample_annotation", annotation["next"])["translation"][:2])
        if annotation["prev"] and annotation["next"]:
            speed = helper.get_velocity_for_agent(instance, sample)
            assert abs(speed - np.linalg.norm(devkit.box_velocity(annotation["token"])[:2])) < 1.5
            compared += speed > 1.0
    assert compared > 5
    assert helper.get_map_name_from_sample_token(devkit.sample[0]["token"]) == "boston-seaport"


def test_the_can_bus_api_reads_the_messages(devkit: NuScenes, tmp_path: Path) -> None:
    can_bus = NuScenesCanBus(devkit.dataroot)
    for name in SMALL_WORLD.scene_names:
        there = {path.stem.partition("_")[2] for path in Path(can_bus.can_dir).glob(f"{name}_*.json")}
        assert "pose" in there
        for kind in there & set(can_bus.all_messages):
            assert len(can_bus.get_messages(name, kind, print_warnings=False)) > 0
        can_bus.plot_message_data(name, "pose", "vel", out_path=str(tmp_path / "velocity.png"))
        assert cv2.imread(str(tmp_path / "velocity.png")) is not None
