"""The command `bevel`, which is `python -m tools`: picks the verb, reads its arguments, turns errors to exit codes."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from datasets.version import bevel_version
from tools.exit_codes import ExitCode
from tools.freed_memory import keep_freed_memory


@dataclass(frozen=True)
class Verb:
    """A command: `tools/<name>.py` (- in a name is _ there) with a frozen dataclass of arguments and one public
    function that takes it.

    The function returns the path of what it wrote (printed as the last line) or None. The module is imported only
    when its verb is used, so that `bevel --help` needs neither torch nor open3d.
    """

    name: str
    arguments: str
    function: str
    summary: str


VERBS = (
    Verb(
        "demo", "DemoArguments", "demo", "the main job with nothing at hand: world, training, metrics, pictures, report"
    ),
    Verb("simulate", "SimulateArguments", "simulate", "write a synthetic dataset in nuScenes format"),
    Verb("train", "TrainArguments", "train", "train a preset or a config on a nuScenes dataset"),
    Verb("tune", "TuneArguments", "tune", "search hyperparameters of a config on a validation split"),
    Verb("pretrain", "PretrainArguments", "pretrain", "train sensor branches from one another, without annotations"),
    Verb("probe", "ProbeArguments", "probe", "what a linear layer reads in a run's sensor branches, frozen"),
    Verb("evaluate", "EvaluateArguments", "evaluate", "mAP, NDS and the five errors of a run or of a results file"),
    Verb("compare", "CompareArguments", "compare", "two runs or results files: what differs, and is it more than luck"),
    Verb("verify-nds", "VerifyNdsArguments", "verify_nds", "does a published NDS follow from its columns"),
    Verb("predict", "PredictArguments", "predict", "detections of a run as a nuScenes results file"),
    Verb("robustness", "RobustnessArguments", "robustness", "what a run keeps of its score under corrupted sensors"),
    Verb("evidence", "EvidenceArguments", "evidence", "train variants at equal budget: sensors, fusion, losses, tasks"),
    Verb("track", "TrackArguments", "track", "tracks of a file of detections as a nuScenes results file"),
    Verb("visualize", "VisualizeArguments", "visualize", "pictures: cameras and BEV with annotations and detections"),
    Verb("replay", "ReplayArguments", "replay", "run a scene through the detector in recorded order, write MCAP"),
    Verb("export", "ExportArguments", "export", "the dense part of a run's detector as ONNX, if onnxruntime agrees"),
    Verb(
        "bench", "BenchArguments", "bench", "what things cost on this machine: simulate, data, evaluate, train, model"
    ),
    Verb(
        "statistics",
        "StatisticsArguments",
        "statistics",
        "what datasets are like, side by side: returns, boxes, clocks",
    ),
    Verb("data", "DataArguments", "data", "look after a dataset: check, shard, objects"),
    Verb("doctor", "DoctorArguments", "doctor", "what is installed, what works, what is missing and how to get it"),
)

EXIT_CODES = """\
exit codes:
  0 fine   1 failed   2 wrong usage   3 input refused   4 finished, but degraded
  5 figures do not fit   6 training diverged   130 stopped by Ctrl-C"""


_OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EEXIST,
    errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG,
)  # fmt: skip


def help_text() -> str:
    """What `bevel --help` prints."""
    verbs = "\n".join(f"  {verb.name:<10} {verb.summary}" for verb in VERBS)
    return (
        "usage: bevel VERB ...       bevel VERB --help says what a verb takes\n\n"
        "Camera, LiDAR, radar and pose fused in one bird's-eye view; trained and evaluated on nuScenes.\n\n"
        f"verbs:\n{verbs}\n\n{EXIT_CODES}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code; see tools/exit_codes.py."""
    # Before torch loads OpenMP: threads that wait must sleep. By default they spin, and where loader processes or
    # other programs want the cores as well, a training step takes several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return ExitCode.FINE
    if words[0] == "--version":
        print(f"bevel {bevel_version()}")
        return ExitCode.FINE
    verb = next((verb for verb in VERBS if verb.name == words[0]), None)
    if verb is None:
        print(f"bevel: there is no verb {words[0]!r}; 'bevel --help' lists them.", file=sys.stderr)
        return ExitCode.USAGE
    try:
        with _sigterm_as_ctrl_c():
            return _run(verb, words[1:])
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: there is nobody to tell. Python would complain once more
        # when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that what is half done is cleared away (only a main thread may)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(verb: Verb, words: list[str]) -> int:
    import tyro

    from datasets.faults import InputRefused
    from tools.exit_codes import CommandFailed, Degraded, Disagreement, Diverged, Interrupted

    module = import_module(f"tools.{verb.name.replace('-', '_')}")
    try:
        parsed = tyro.cli(
            getattr(module, verb.arguments),
            args=words,
            prog=f"bevel {verb.name}",
            description=_first_lines(module),
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
    except SystemExit as stop:  # tyro has printed its help (0) or what is wrong (2)
        return stop.code if isinstance(stop.code, int) else ExitCode.USAGE
    try:
        output: Path | None = getattr(module, verb.function)(parsed)
    except InputRefused as refusal:
        return _say(refusal, ExitCode.INPUT_REFUSED)
    except CommandFailed as failure:
        return _say(failure, ExitCode.FAILED)
    except Diverged as divergence:
        return _say(divergence, ExitCode.DIVERGED)
    except Interrupted as interruption:
        return _say(interruption, ExitCode.INTERRUPTED)
    except OSError as error:
        # The disk or its permissions; anything else would be a bug and keeps its traceback.
        if error.errno not in _OF_THE_DISK:
            raise
        return _say(error, ExitCode.FAILED)
    except Degraded as degraded:
        _say(degraded, ExitCode.DEGRADED)
        if degraded.output is not None:
            print(degraded.output)
        return ExitCode.DEGRADED
    except Disagreement as disagreement:
        _say(disagreement, ExitCode.DISAGREED)
        if disagreement.output is not None:
            print(disagreement.output)
        return ExitCode.DISAGREED
    # Of several training processes (torchrun) the first speaks.
    if output is not None and os.environ.get("RANK", "0") == "0":
        print(output)
    return ExitCode.FINE


def _say(message: Exception, code: ExitCode) -> int:
    print(f"bevel: {message}", file=sys.stderr)
    return code


def _first_lines(module: object) -> str:
    return (module.__doc__ or "").split("\n\n")[0]


if __name__ == "__main__":
    sys.exit(main())
