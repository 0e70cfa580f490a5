"""bevel evidence: one thing differs between variants, equal trainings happen once, what is finished stays."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.faults import InputRefused
from perception.camera_pretraining import CameraPretraining
from perception.fusion.early import EarlyFusionConfig
from perception.tasks.depth import DepthTaskConfig
from perception.temporal import TemporalConfig
from perception.weights import save_weights
from tests.nuscenes_fixture import write_dataset
from tests.small_run import small_config, small_detector
from tools.__main__ import main
from tools.evidence import seconds_left
from tools.evidence_page import evidence_page
from tools.evidence_rows import Evidence, EvidenceBasis, OtherScenes, Spread, Trained, read_evidence, write_evidence
from tools.evidence_studies import STUDIES, Study, Variant, config_digest, possible_studies, trials_in_order, variants
from tools.exit_codes import ExitCode
from tools.run_config import RunConfig, config_from_json, config_to_json, read_config, write_config

BASIS = EvidenceBasis("config", "v1.0-mini", "mini_train", "mini_val", 8, 80, 2, 20, "samples", 600)


def trained(digest: str, seed: int, mean_ap: float) -> Trained:
    return Trained(
        digest=digest,
        seed=seed,
        parameters=492_000,
        seconds=300.0,
        mean_ap=mean_ap,
        nds=mean_ap + 0.1,
        mean_errors={"trans_err": 0.5, "scale_err": 0.5, "orient_err": 0.5, "vel_err": 0.5, "attr_err": None},
        class_ap={"car": mean_ap, "bus": None},
        slices={"distance": {"0 to 20 m": mean_ap}, "conditions": {"night": None, "day": mean_ap}},
    )


def test_variants_differ_from_the_config_in_what_the_study_is_about_alone() -> None:
    config = small_config(2)
    for study in STUDIES:
        rows = variants(study, config)
        assert len({row.name for row in rows}) == len(rows) >= 2
        assert len({row.trial(0).digest for row in rows}) == len(rows)
        for row in rows:
            assert config_from_json(config_to_json(row.config), "variant") == row.config
            same = replace(row.config, detector=config.detector, sample=config.sample)
            if study == "subsets":
                same = replace(same, training=replace(same.training, modality_dropout=0.0))
            assert same == config
    sensors, temporal = ({row.name: row.config for row in variants(name, config)} for name in ("sensors", "temporal"))
    assert sensors.keys() == temporal.keys()
    assert len(sensors) == 7
    remembering = temporal["camera + lidar + radar"].detector
    assert remembering == replace(config.detector, temporal=remembering.temporal)
    assert remembering.temporal is not None
    everything = config.detector
    assert sensors["camera + lidar + radar"].detector == replace(everything, pose=None)
    radar = sensors["radar"]
    assert radar.detector.sensors == ("radar",)
    assert radar.detector.pose is None
    assert radar.sample.camera_channels == ()
    assert radar.sample.lidar_channel is None
    assert variants("losses", config)[0].config == variants("tasks", config)[0].config == config


def test_a_config_without_a_branch_is_refused() -> None:
    config = small_config(2)
    blind = RunConfig(config.sample, replace(config.detector, camera=None), config.training)
    with pytest.raises(InputRefused, match="needs camera, lidar, radar and pose"):
        variants("sensors", blind)
    remembering = replace(config, detector=replace(config.detector, temporal=TemporalConfig()))
    with pytest.raises(InputRefused, match="late fusion"):
        variants("strategies", remembering)
    seeing_lidar = replace(config.detector, depth=DepthTaskConfig())
    with pytest.raises(InputRefused, match=r"the study sensors cannot be made of this config: depth is learnt"):
        variants("sensors", replace(config, detector=seeing_lidar))
    painted = replace(config, detector=replace(config.detector, fusion=EarlyFusionConfig()))
    with pytest.raises(InputRefused, match=r"the study losses .* early fusion paints"):
        variants("losses", painted)
    assert all(row.config.detector.temporal is None for row in variants("sensors", remembering))
    assert all(row.config.detector.temporal is not None for row in variants("temporal", remembering))
    assert possible_studies(remembering).keys() == {*STUDIES} - {"strategies"}


def test_the_page_has_means_and_deviations_over_the_seeds_that_are_there() -> None:
    rows: dict[Study, tuple[Variant, ...]] = {"losses": variants("losses", small_config(2))}
    first, second = rows["losses"][:2]
    figures = [(first, 0, 0.1), (first, 1, 0.3), (second, 0, 0.25)]
    evidence = Evidence(BASIS)
    for row, seed, mean_ap in figures:
        evidence = evidence.with_trained(trained(row.trial(seed).digest, seed, mean_ap))
    page = evidence_page(evidence, rows)
    # The sample's standard deviation of 0.1 and 0.3 is sqrt(0.02).
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    assert ["none", "2", "492 k", "300", "0.200 ± 0.141", "0.300 ± 0.141", "0.500 ± 0.000"] in [
        cells[:7] for cells in table
    ]
    assert ["info_nce", "1", "492 k", "300", "0.250", "0.350", "0.500"] in [cells[:7] for cells in table]
    assert "triplet" not in page
    assert "start from it" not in page
    begun = replace(evidence, basis=replace(BASIS, init="0123456789abcdef"))
    assert "SHA-256 0123456789ab) start from it" in " ".join(evidence_page(begun, rows).split())
    assert Spread.of([0.5]).text() == "0.500"


def test_the_sensors_have_tables_by_class_distance_and_condition() -> None:
    rows: dict[Study, tuple[Variant, ...]] = {"sensors": variants("sensors", small_config(2))}
    camera, lidar = (trained(row.trial(0).digest, 0, 0.4) for row in rows["sensors"][:2])
    assert "##" not in evidence_page(Evidence(BASIS).with_trained(camera), rows)  # one row compares nothing
    page = evidence_page(Evidence(BASIS).with_trained(camera).with_trained(lidar), rows)
    assert "|        | car   |\n| ------ | ----- |\n| camera | 0.400 |\n| lidar  | 0.400 |" in page
    assert "|        | 0 to 20 m |\n| ------ | --------- |\n| camera | 0.400     |" in page
    assert "|        | day   |\n" in page


def test_a_wide_table_is_cut_into_several_with_the_names_of_the_rows() -> None:
    rows: dict[Study, tuple[Variant, ...]] = {"subsets": variants("subsets", small_config(2))}
    names = [f"sensors {number}" for number in range(15)]
    evidence = Evidence(BASIS)
    for row in rows["subsets"]:
        for seed, score in ((0, 0.1), (1, 0.3)):
            one = trained(row.trial(seed).digest, seed, score)
            evidence = evidence.with_trained(replace(one, subsets=dict.fromkeys(names, (score, score))))
    page = evidence_page(evidence, rows)
    assert max(map(len, page.splitlines())) <= 120
    heads = [line for line in page.splitlines() if "sensors 1 " in line or "sensors 14 " in line]
    assert len(heads) == 4
    assert all(page.count(f" {name} ") == 2 for name in names)
    lines = [line for line in page.splitlines() if line.startswith("| modality dropout 0.5 |")]
    assert sum(line.count("0.200 ± 0.141") for line in lines) == 1 + 2 * 15


def test_what_is_left_counts_what_runs_as_half_done() -> None:
    assert seconds_left(100.0, done=2, total=6, at_once=1) == 200.0
    # Ten at once, the first after 100 s: the others of its wave are about as far.
    assert seconds_left(100.0, done=10, total=30, at_once=10) == 100.0
    assert seconds_left(100.0, done=6, total=6, at_once=4) == 0.0


def test_trainings_of_another_basis_and_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    evidence = Evidence(BASIS, (trained("0" * 12, 0, 0.1),), {"0" * 12: 12.5})
    write_evidence(path, evidence)
    assert read_evidence(path, BASIS) == evidence
    with pytest.raises(InputRefused, match="steps 600, these would have 700"):
        read_evidence(path, replace(BASIS, steps=700))
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputRefused, match="is no evidence"):
        read_evidence(path, BASIS)


def test_equal_trainings_happen_once_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, config, output = tmp_path / "data", tmp_path / "config.json", tmp_path / "evidence"
    write_dataset(root, ("scene-0061", "scene-0103"), keyframes=1)
    # Nothing that chooses weights on the split that is reported: every row has the same steps.
    given = small_config(1)
    turned = Augmentation(bev=BevAugmentation())
    training = replace(given.training, validate_every=1, patience=1, augmentation=turned)
    write_config(config, replace(given, training=training))
    words = ["evidence", str(output), "--data-root", str(root), "--config", str(config), "--steps", "1", "--seeds", "1"]
    words += ["--jobs", "1", "--device", "cpu", "--split", "scene-0061", "--val-split", "scene-0103", "--studies"]
    assert main([*words, "losses"]) == ExitCode.FINE
    assert capsys.readouterr().out.splitlines()[-1] == str(output / "evidence.md")
    assert "## One set of weights" not in (output / "evidence.md").read_text()
    first = json.loads((output / "evidence.json").read_text())["trained"]
    assert len(first) == len(list((output / "runs").iterdir())) == 5
    # The subsets' study begins with what the losses' "none" has trained; a run is not trained twice.
    weights = {path: path.stat().st_mtime_ns for path in output.glob("runs/*/weights.safetensors")}
    assert main([*words, "subsets"]) == ExitCode.FINE
    # The page has what an earlier command has measured, too.
    page = (output / "evidence.md").read_text()
    assert all(found in page for found in ("## Losses", "| info_nce ", "## One set of weights", "| camera+lidar "))
    both = json.loads((output / "evidence.json").read_text())["trained"]
    assert len(both) == 6
    assert all(path.stat().st_mtime_ns == written for path, written in weights.items())
    subsets = [one["subsets"] for one in both if one["subsets"]]
    assert len(subsets) == 2
    assert all(len(one) == 15 for one in subsets)
    for one in both:
        if one["subsets"]:
            assert one["subsets"]["all"] == [one["mean_ap"], one["nds"]]
    # Nothing is left to do: not a byte changes.
    before = (output / "evidence.json").read_bytes()
    assert main([*words, "losses", "subsets"]) == ExitCode.FINE
    assert (output / "evidence.json").read_bytes() == before
    assert main([*words[:-1], "--studies", "losses", "--val-split", "scene-0061"]) == ExitCode.INPUT_REFUSED
    assert "nothing would be held out" in capsys.readouterr().err
    # What is learnt from samples as recorded is not compared with what is learnt from turned ones.
    assert main([*words, "losses", "--no-augmentation"]) == ExitCode.INPUT_REFUSED
    assert "holds trainings with config" in capsys.readouterr().err
    run = next(iter((output / "runs").iterdir()))
    assert read_config(run / "config.json").training.augmentation == turned
    other = [words[0], str(tmp_path / "other"), *words[2:-1], "--no-augmentation", "--studies", "tasks"]
    assert main(other) == ExitCode.FINE
    for path in (tmp_path / "other" / "runs").glob("*/config.json"):
        assert read_config(path).training.augmentation is None


def test_scenes_of_another_dataset_are_scored_besides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, night, config, output = (tmp_path / name for name in ("data", "night", "config.json", "evidence"))
    write_dataset(root, ("scene-0061", "scene-0103"), keyframes=1)
    write_dataset(night, ("scene-0553", "scene-0655"), keyframes=1)
    write_config(config, small_config(1))
    words = ["evidence", str(output), "--data-root", str(root), "--config", str(config), "--steps", "1", "--seeds", "1"]
    words += ["--jobs", "1", "--device", "cpu", "--split", "scene-0061", "--val-split", "scene-0103"]
    words += ["--studies", "tasks"]
    assert main(words) == ExitCode.FINE
    assert "The dataset night" not in (output / "evidence.md").read_text()
    weights = {path: path.stat().st_mtime_ns for path in output.glob("runs/*/weights.safetensors")}
    # What is trained already is only scored.
    assert main([*words, "--also-score", str(night)]) == ExitCode.FINE
    assert all(path.stat().st_mtime_ns == written for path, written in weights.items())
    capsys.readouterr()
    for one in json.loads((output / "evidence.json").read_text())["trained"]:
        mean_ap, nds = one["elsewhere"]["night"]
        run = output / "runs" / one["digest"]
        assert main(["evaluate", str(run), "--data-root", str(night), "--split", "all"]) == ExitCode.FINE
        assert f"mAP {mean_ap:.4f}   NDS {nds:.4f}" in capsys.readouterr().out
        detected = json.loads((run / "evaluation-of-night" / "results.json").read_text())["results"]
        assert detected == json.loads((run / "evaluation-all" / "results.json").read_text())["results"]
    page = (output / "evidence.md").read_text()
    assert "The dataset night, 2 samples of 2 scenes that none was trained on:" in page
    before = (output / "evidence.json").read_bytes()
    assert main([*words, "--also-score", str(night)]) == ExitCode.FINE
    assert main(words) == ExitCode.FINE
    assert (output / "evidence.json").read_bytes() == before
    assert main([*words, "--also-score", str(root)]) == ExitCode.INPUT_REFUSED
    assert "has samples of --data-root" in capsys.readouterr().err
    night.rename(tmp_path / "dusk")
    write_dataset(night, ("scene-0796",), keyframes=1)
    assert main([*words, "--also-score", str(night)]) == ExitCode.INPUT_REFUSED
    assert "another dataset that is called night" in capsys.readouterr().err


def test_the_page_says_how_many_seeds_were_scored_elsewhere() -> None:
    rows: dict[Study, tuple[Variant, ...]] = {"sensors": variants("sensors", small_config(2))}
    evidence = Evidence(BASIS, elsewhere={"night": OtherScenes(8, 160, "samples")})
    for row in rows["sensors"][:2]:
        for seed, score in ((0, 0.1), (1, 0.3)):
            one = trained(row.trial(seed).digest, seed, score)
            evidence = evidence.with_trained(replace(one, elsewhere={"night": (score / 2, score)} if seed else {}))
    page = evidence_page(evidence, rows)
    assert "The dataset night, 160 samples of 8 scenes" in page
    assert "| lidar  | 1     | 0.150 | 0.300 |" in page
    evidence = evidence.with_trained(replace(evidence.trained[-1], elsewhere={}))
    assert "The dataset night" not in evidence_page(evidence, rows)  # one row compares nothing


@pytest.mark.slow
def test_two_at_once_learn_the_same_to_the_bit_from_one_pretrained_branch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, config = tmp_path / "data", tmp_path / "config.json"
    write_dataset(root, ("scene-0061", "scene-0103"), keyframes=1)
    write_config(config, small_config(1))
    words = ["--data-root", str(root), "--config", str(config), "--steps", "1", "--seeds", "1", "--device", "cpu"]
    words += ["--split", "scene-0061", "--val-split", "scene-0103", "--studies", "tasks"]
    save_weights(CameraPretraining(small_detector()), tmp_path / "camera.safetensors", "{}")
    begun = [*words, "--init", str(tmp_path / "camera.safetensors")]
    words = [*begun, "--jobs"]
    assert main(["evidence", str(tmp_path / "two"), *words, "2"]) == ExitCode.FINE
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]  # the rest is in the logs
    assert main(["evidence", str(tmp_path / "one"), *words, "1"]) == ExitCode.FINE
    assert capfd.readouterr().out.count("from " + str(tmp_path / "camera.safetensors")) == 4
    assert main(["evidence", str(tmp_path / "one"), *begun[:-2]]) == ExitCode.INPUT_REFUSED
    assert "init" in capfd.readouterr().err
    runs = sorted(tmp_path.glob("one/runs/*/weights.safetensors"))
    assert len(runs) == 4
    for run in runs:
        here, there = load_file(run), load_file(tmp_path / "two" / run.relative_to(tmp_path / "one"))
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)
    one, two = (json.loads((tmp_path / name / "evidence.json").read_text())["trained"] for name in ("one", "two"))
    # The clock alone may differ.
    assert [row | {"seconds": 0} for row in one] == [row | {"seconds": 0} for row in two]


def test_the_first_seed_of_all_studies_comes_first_and_each_training_once() -> None:
    config = small_config(2)
    rows: dict[Study, tuple[Variant, ...]] = {study: variants(study, config) for study in STUDIES}
    trials = trials_in_order(rows, seeds=3)
    seeds = [one.trial.config.training.seed for one in trials]
    assert seeds == sorted(seeds)
    assert seeds.count(0) == seeds.count(1) == seeds.count(2)
    digests = [one.trial.digest for one in trials]
    assert len(set(digests)) == len(digests)
    assert set(digests) == {row.trial(seed).digest for of in rows.values() for row in of for seed in range(3)}
    # No two begin with the branches of one pretraining, which they would do at once.
    begun = [config_digest(one.trial.config) for one in trials if one.trial.pretrained]
    assert len(set(begun)) == len(begun) == 3
    # What the subsets' study shares with others is scored with its subsets, whatever it is named after.
    wanted = {one.trial.digest for one in trials if one.with_subsets}
    assert wanted == {row.trial(seed).digest for row in rows["subsets"] for seed in range(3)}
