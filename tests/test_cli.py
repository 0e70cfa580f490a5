"""The command line: help, exit codes, one sentence where something is wrong, Ctrl-C."""

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.nuscenes_fixture import write_dataset
from tests.small_run import small_config
from tests.untrained_run import write_untrained_run
from tools.__main__ import VERBS, main
from tools.exit_codes import ExitCode
from tools.run_config import write_config
from tools.training.checkpoint_files import checkpoints

ROOT = Path(__file__).resolve().parents[1]


def test_help_needs_no_network_library_and_fits_a_screen() -> None:
    program = "import sys; from tools.__main__ import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    text, modules = done.stdout.rsplit("[", 1)
    assert all(f"\n  {verb.name} " in text for verb in VERBS)
    assert "exit codes:" in text
    assert len(text.splitlines()) <= 30  # a terminal window has 30 or more
    assert max(map(len, text.splitlines())) <= 100
    assert not {f"'{name}'" for name in ("torch", "numpy", "open3d", "nuscenes", "cv2")} & set(modules.split(", "))


def test_a_checkout_that_is_not_installed_knows_its_version() -> None:
    written = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    # -S: without the installed packages, Bevel among them.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "tools", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (f"bevel {written}\n", "")
    # What writes the version into files asks the same place.
    asking = [path for part in ("tools", "datasets") for path in (ROOT / part).rglob("*.py")]
    assert [path.name for path in asking if 'version("bevel")' in path.read_text()] == ["version.py"]


def test_verbs_import_what_they_may_not_need_when_they_need_it() -> None:
    program = "import sys, tools.evaluate, tools.train; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    late = ("transformers", "huggingface_hub", "scipy.optimize", "open3d", "nuscenes", "pandas", "spconv")
    assert "'tools.train'" in done.stdout
    assert not {f"'{name}'" for name in late} & set(done.stdout.strip("[]\n").split(", "))


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.FINE
    nothing = capsys.readouterr().out
    assert main(["--help"]) == ExitCode.FINE
    assert capsys.readouterr().out == nothing


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == ExitCode.USAGE
    assert "no verb 'fly'" in capsys.readouterr().err
    assert main(["predict"]) == ExitCode.USAGE
    assert main(["predict", "run", "--data-root", "x", "--splat", "mini_val"]) == ExitCode.USAGE


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == ExitCode.FINE
    text = capsys.readouterr().out
    assert f"usage: bevel {verb}" in text
    assert len(text.splitlines()) <= 44


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("train", "tiny", "--data-root", "no/such/folder", "--output", "{}/run"), "no/such/folder"),
        (("train", "huge", "--data-root", "."), "neither a preset"),
        (("predict", "no/such/run", "--data-root", "."), "no/such/run"),
        (("evaluate", "no/such/run", "--data-root", "."), "no/such/run"),
        (("predict", "no/such/run", "--data-root", ".", "--threads", "0"), "--threads"),
    ],
)
def test_bad_input_exits_3_with_one_sentence(
    words: tuple[str, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(tmp_path) for word in words]) == ExitCode.INPUT_REFUSED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("bevel: ")
    assert named in said[0]


def test_an_output_that_cannot_be_written_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", ("scene-0061",))
    taken = tmp_path / "taken"
    taken.write_text("")
    words = ["train", "tiny", "--data-root", str(tmp_path / "data"), "--output"]
    assert main([*words, str(taken)]) == ExitCode.INPUT_REFUSED
    assert main([*words, str(taken / "run")]) == ExitCode.INPUT_REFUSED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("cannot be a run folder" in line for line in said)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--batch-size", "0"), "--batch-size"),
        (("--batch-size", "-1"), "--batch-size"),
        (("--workers", "-1"), "--workers"),
        (("--output", "{}"), "is a folder"),
        (("--split", "val"), "another version"),
    ],
)
def test_predict_refuses_before_it_detects(
    options: tuple[str, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data")
    write_untrained_run(tmp_path / "run")
    words = ["predict", str(tmp_path / "run"), "--data-root", str(tmp_path / "data"), "--device", "cpu"]
    assert main([*words, *(option.format(tmp_path) for option in options)]) == ExitCode.INPUT_REFUSED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert named in said[0]


def test_train_refuses_a_negative_number_of_workers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny", "--data-root", ".", "--workers", "-1"]) == ExitCode.INPUT_REFUSED
    assert "workers must not be negative" in capsys.readouterr().err


def test_an_output_that_the_disk_refuses_exits_1_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data")
    write_untrained_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    words = ["predict", str(tmp_path / "run"), "--data-root", str(tmp_path / "data"), "--device", "cpu", "--output"]
    for output in (tmp_path / "file" / "results.json", tmp_path / ("r" * 300), tmp_path / ("r" * 250)):
        assert main([*words, str(output)]) == ExitCode.FAILED
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert str(tmp_path) in said[0]


def test_a_trainval_dataroot_has_its_own_default_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_dataset(data, version="v1.0-trainval")  # scene-0061 is in train, scene-0103 in val
    write_config(tmp_path / "config.json", small_config(1))
    train = ["train", str(tmp_path / "config.json"), "--data-root", str(data), "--output", str(run)]
    assert main([*train, "--split", "mini_train"]) == ExitCode.INPUT_REFUSED
    assert "those of v1.0-trainval are train, val" in capsys.readouterr().err
    assert main([*train, "--val-split", "val"]) == ExitCode.FINE
    said = capsys.readouterr().out
    assert "3 samples of train," in said
    assert "1 of the 150 scenes of val are here: not the official figure." in said
    assert (run / "evaluation-val" / "metrics_summary.json").is_file()


def test_sigterm_interrupts_every_verb(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools", "simulate", str(tmp_path / "world"), "--jobs", "1", "--keyframes", "40"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    while b"simulating" not in said:
        more = process.stderr.read(1)
        assert more, said
        said += more
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert b"Interrupted; the same command goes on" in rest
    assert b"Traceback" not in rest
    assert not (tmp_path / "world").exists()


def test_the_real_command_refuses_without_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-m", "tools", "fly"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.splitlines() == ["bevel: there is no verb 'fly'; 'bevel --help' lists them."]


def test_ctrl_c_saves_a_checkpoint_and_prints_how_to_go_on(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ("scene-0061",))
    write_config(tmp_path / "config.json", small_config(1_000_000, checkpoint_interval=3, workers=1))
    words = ["train", "config.json", "--data-root", "data", "--output", "run", "--threads", "1", "--device", "cpu"]
    command = [sys.executable, "-c", "import sys; from tools.__main__ import main; sys.exit(main(sys.argv[1:]))"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        [*command, *words], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "checkpoint saved" not in (line := process.stdout.readline()):
        assert line, process.communicate()[1]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    last = said.splitlines()[-1]
    assert "checkpoint saved; go on with: bevel train config.json --data-root data --output run" in last
    assert last.endswith("--resume")
    assert "Traceback" not in said
    (newest,) = checkpoints(tmp_path / "run" / "checkpoints")[-1:]
    assert f"Stopped after step {int(newest.name.removeprefix('step_'))} of 1000000" in last


def test_train_predict_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_dataset(data)
    write_config(tmp_path / "config.json", small_config(2))
    assert main(["train", str(tmp_path / "config.json"), "--data-root", str(data), "--output", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run)
    assert main(["predict", str(run), "--data-root", str(data), "--batch-size", "2"]) == 0
    results = run / "results-mini_val.json"
    assert capsys.readouterr().out.splitlines()[-1] == str(results)
    assert main(["evaluate", str(results), "--data-root", str(data), "--output", str(tmp_path / "a")]) == 0
    of_file = capsys.readouterr().out.splitlines()
    assert main(["evaluate", str(run), "--data-root", str(data)]) == 0
    of_run = capsys.readouterr().out.splitlines()
    assert of_file[0].startswith("mAP ")
    # The same detections, once from a file and once made on the way.
    assert of_file[:15] == of_run[:15]
    assert (run / "evaluation-mini_val" / "metrics_summary.json").is_file()
    assert of_run[-1] == str(run / "evaluation-mini_val")


def test_the_doctor_finds_this_machine_well() -> None:
    from tools.doctor import examine

    findings = {finding.name: finding for finding in examine()}
    assert "forward and backward right" in findings["sparse convolution"].found
    assert [finding for finding in findings.values() if finding.remedy is not None and finding.name != "disk"] == []


def test_a_foreign_package_called_datasets_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise RuntimeError('the wrong package was imported')")
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; sys.argv = ['bevel']; import tools"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == ExitCode.INPUT_REFUSED
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "datasets") in done.stderr
