"""The main job with nothing at hand: a synthetic world, training, official metrics, pictures, replay and a report."""

import contextlib
import io
import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from datasets.nuscenes.detection_metric.evaluation import SplitEvaluation
from datasets.nuscenes.detection_metric.metrics import DetectionMetrics
from datasets.nuscenes.reader import NuScenesReader
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.writing.unfinished import can_go_on
from datasets.version import bevel_version
from tools.evaluate import EvaluateArguments, measure, metrics_text
from tools.exit_codes import Interrupted
from tools.missing_sensors import MissingSensors
from tools.open_dataset import open_tables
from tools.presets import preset_or_config, tiny
from tools.progress import duration_text
from tools.replay import ReplayArguments, ReplaySummary, run_replay
from tools.report import ReportContent, Section, read_training_log, write_report
from tools.run_config import config_to_json, write_config
from tools.shipped_runs import run_or_shipped
from tools.simulate import SimulateArguments, simulate
from tools.train import TrainArguments, train
from tools.training.checkpoint_files import checkpoints
from tools.training.run_folder import RunFolder, load_detector
from tools.visualize import DetectorView, draw_frames, evenly_spread

_TRAIN_SPLIT, _VAL_SPLIT = "mini_train", "mini_val"
# What two cores render in a minute and a half.
DEMO_WORLD = WorldConfig(scenes=10, keyframes=10, image_width=480, seed=0, conditions="day")
# Steps that are only timed, to find out how many fit; the first few are slower and do not count.
_TIMED_STEPS, _WARM_UP_STEPS = 10, 4
_FEWEST_STEPS, _MOST_STEPS = 20, 2000
_PICTURES = 5
# The checkpoint that comes with Bevel (tools/shipped_runs.py).
_START = "tiny"
_MIN_SCORE = 0.2


@dataclass(frozen=True)
class DemoArguments:
    """What `bevel demo` takes."""

    output: Path = Path("demo")
    """The folder for everything; what the same command has made in it is used again, or gone on with."""
    minutes: float = 6.0
    """How long to train; the whole takes about three minutes more on two cores."""
    from_scratch: bool = False
    """Train a new network, instead of going on with the one that comes with Bevel."""


def demo(arguments: DemoArguments) -> Path:
    """Run everything and return the page.

    Raises InputRefused where the output folder holds something else, Interrupted after Ctrl-C.
    """
    # In so few steps a world that stands as it was recorded is learnt better than one that is turned and mirrored anew
    # for every step. Sensors are dropped as the preset says: the network shall know what it is to miss one.
    config = tiny()
    training = replace(config.training, augmentation=None)
    if not arguments.from_scratch:
        # So few keyframes shall add to what many have taught, and not take its place (docs/evidence.md).
        training = replace(training, learning_rate=training.learning_rate / 10)
    config = replace(config, training=training)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "demo-config.json"
    write_config(path, config)
    start = None if arguments.from_scratch else Path(_START)
    return run_demo(arguments.output, arguments.minutes, DEMO_WORLD, str(path), start)


def run_demo(output: Path, minutes: float, world_config: WorldConfig, config: str, start: Path | None = None) -> Path:
    """As `demo`, in a world of any size that has scenes of both splits, with any preset or config file.

    start: the run, or shipped checkpoint, whose weights the training goes on with; None: from new ones.
    """
    if not 0 < minutes < math.inf:
        raise InputRefused(f"--minutes must be positive, not {minutes}.")
    made_from = _run_facts(world_config, config, minutes, start)
    stages = _Stages(time.perf_counter())
    with stages.stage("a synthetic world"):
        world, reused = prepare_world(output, world_config)
        if reused:
            print(f"{world} is there already and is used again.")
    before: DetectionMetrics | None = None
    if start is not None:
        with stages.stage(f"metrics of {start}, which has never seen this world"):
            evaluated = EvaluateArguments(start, world, split=_VAL_SPLIT, output=output / "evaluation-before")
            before = measure(evaluated)[1].metrics
            print(f"mAP {before.mean_ap:.4f}   NDS {before.nds:.4f}")
    with stages.stage("training" if start is None else f"training, from the weights of {start}"):
        run = _train(world, output / "run", minutes, config, start, made_from)
    with stages.stage("metrics on scenes that were not trained on"):
        evaluated = EvaluateArguments(run, world, split=_VAL_SPLIT, output=output / "evaluation")
        _, evaluation, missing = measure(evaluated)
        print(metrics_text(evaluation))
    with stages.stage("pictures"):
        pictures = _draw(world, run, output / "pictures")
    with stages.stage("replay"):
        scene = NuScenesReader(world).frame(_tokens(world)[0]).scene_name
        summary = run_replay(ReplayArguments(scene, world, run, min_score=_MIN_SCORE, output=output / "replay"))
        print(summary.text())
        if summary.keyframe_count < summary.keyframe_total:
            raise Interrupted("Stopped in the replay.")
    done = _Done(
        output, world_config, config, start, world, run, before, evaluation, missing, tuple(pictures), summary, stages
    )
    return write_report(output / "report.html", _content(done))


def prepare_world(output: Path, config: WorldConfig) -> tuple[Path, bool]:
    """Write the demo's world to `output`/world, or use the one that an earlier demo wrote with the same settings.

    Returns its folder and whether it was there. Raises InputRefused for a folder there that no demo wrote.
    """
    world, marker = output / "world", output / "world.json"
    wanted = json.dumps(_world_facts(config), indent=2)
    if marker.is_file():
        if world.is_dir() and marker.read_text() == wanted:
            return world, True
        shutil.rmtree(world, ignore_errors=True)  # written by a demo of another version: the marker says so
        marker.unlink()
    output.mkdir(parents=True, exist_ok=True)
    if not world.exists():  # it appears whole; stopped right after that, it is the demo's all the same
        write_atomically(marker, wanted.encode())
    simulate(
        SimulateArguments(
            world,
            scenes=config.scenes,
            keyframes=config.keyframes,
            image_width=config.image_width,
            seed=config.seed,
            conditions=config.conditions,
            restart=not can_go_on(world, config),
        )
    )
    write_atomically(marker, wanted.encode())
    return world, False


def _world_facts(config: WorldConfig) -> dict[str, object]:
    return {"bevel": bevel_version(), "world": asdict(config)}


def _run_facts(world: WorldConfig, config: str, minutes: float, start: Path | None) -> str:
    """What a training is made from: one with the same facts is the same training."""
    facts = {
        "written_by": "bevel demo",
        **_world_facts(world),
        "start": None if start is None else str(start),
        "minutes": minutes,
        "config": json.loads(config_to_json(preset_or_config(config))),
    }
    return json.dumps(facts, indent=2)


def _train(world: Path, run: Path, minutes: float, config: str, start: Path | None, made_from: str) -> Path:
    """Train for about so long, or use the run that an earlier demo made from the same, or go on with it.

    A demo's run of anything else makes room. Raises InputRefused for a folder there that no demo wrote.
    """
    folder, marker = RunFolder(run), run.parent / "run.json"
    if folder.config.is_file() and marker.is_file() and marker.read_text() == made_from:
        if folder.weights.is_file():
            print(f"{run} is there already and is used again.")
            return run
        if checkpoints(folder.checkpoints):
            print(f"{run} was not finished: going on with it.")
            return train(TrainArguments(str(folder.config), world, split=_TRAIN_SPLIT, output=run, resume=True))
    if run.exists():
        if not marker.is_file():
            raise InputRefused(f"{run} is there already, and no demo wrote it: name another --output.")
        write_atomically(marker, b"{}\n")  # half removed it is made from nothing
        shutil.rmtree(run)
    seconds = _seconds_per_step(world, run.parent / ".bevel-timing", config)
    steps = min(max(round(minutes * 60 / seconds), _FEWEST_STEPS), _MOST_STEPS)
    print(f"A step takes {seconds:.2f} s here: {steps} steps in about {duration_text(steps * seconds)}.")
    write_atomically(marker, made_from.encode())
    init = () if start is None else (start,)
    return train(TrainArguments(config, world, split=_TRAIN_SPLIT, output=run, init=init, steps=steps))


def _seconds_per_step(world: Path, scratch: Path, config: str) -> float:
    """Seconds of a training step on this machine, from a few steps that are thrown away."""
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train(TrainArguments(config, world, split=_TRAIN_SPLIT, output=scratch, steps=_TIMED_STEPS))
        clock = [row["seconds"] for row in read_training_log(RunFolder(scratch).metrics)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return max((clock[-1] - clock[_WARM_UP_STEPS - 1]) / (len(clock) - _WARM_UP_STEPS), 1e-3)


def _tokens(world: Path) -> tuple[str, ...]:
    return NuScenesReader(world).frame_tokens(_VAL_SPLIT)


def _draw(world: Path, run: Path, output: Path) -> list[Path]:
    config, detector = load_detector(run)
    reader = open_tables(world, None, config.sample)
    tokens = evenly_spread(reader.frame_tokens(_VAL_SPLIT), _PICTURES)
    return draw_frames(reader, tokens, DetectorView(config, detector, _MIN_SCORE, reader), output, MissingSensors())


@dataclass
class _Stages:
    """Says which part of the demo runs, and keeps how long each took."""

    began: float
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a part, and say how long it took when it is over.

        Raises Interrupted where it was stopped. How a part by itself would go on is no advice here: bevel train does
        not go on with the demo.
        """
        number = len(self.seconds) + 1
        print(f"\n{number}. {name[0].upper()}{name[1:]}", flush=True)
        began = time.perf_counter()
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as interruption:
            raise Interrupted(
                f"Stopped in part {number}, {name}; the same command goes on with what is there."
            ) from interruption
        self.seconds[name] = time.perf_counter() - began
        print(f"   {duration_text(self.seconds[name])}", flush=True)

    def total(self) -> float:
        """Seconds since the demo began."""
        return time.perf_counter() - self.began


@dataclass(frozen=True)
class _Done:
    """What the parts of the demo left for the report."""

    output: Path
    world_config: WorldConfig
    config: str
    start: Path | None
    world: Path
    run: Path
    before: DetectionMetrics | None
    evaluation: SplitEvaluation
    missing: MissingSensors
    pictures: tuple[Path, ...]
    replay: ReplaySummary
    stages: _Stages


def _content(done: _Done) -> ReportContent:
    folder = RunFolder(done.run)
    log = read_training_log(folder.metrics)
    metrics, found = done.evaluation.metrics, done.evaluation.found
    present = sum(map(bool, metrics.ground_truth.values()))
    durations = "\n".join(f"{duration_text(seconds):>9}  {name}" for name, seconds in done.stages.seconds.items())
    before = [] if done.before is None else [(f"NDS of {done.start} before", f"{done.before.nds:.3f}")]
    origin = ""
    if done.start is not None:
        shipped = run_or_shipped(done.start) != done.start  # a run of the user's may have that name
        origin = f" (from the weights of {done.start}{', which come with Bevel' if shipped else ''})"
    facts = [
        *before,
        ("NDS", f"{metrics.nds:.3f}"),
        ("mAP", f"{metrics.mean_ap:.3f}"),
        (f"mAP of the {present} classes present", f"{metrics.mean_ap_present:.3f}"),
        ("objects found within half a metre", f"{found.count} of {found.total}"),
        ("training steps", str(len(log))),
        ("in all", duration_text(done.stages.total())),
        ("CPU cores", str(os.cpu_count() or 1)),
    ]
    return ReportContent(
        title="Bevel demo",
        sentence=(
            "Six cameras, a LiDAR, five radars and the vehicle's motion, fused in one bird's-eye view. Everything here "
            "was made on this machine: a synthetic world in nuScenes format, a detector trained on most of its "
            f"scenes{origin}, and figures and pictures of scenes that it never saw."
        ),
        facts=facts,
        commands=_commands(done, len(log)),
        training_log=log,
        metrics=metrics,
        metrics_sentence=(
            "Measured as by nuscenes-devkit (detection_cvpr_2019), on the synthetic world's split "
            f"{_VAL_SPLIT}. These figures say that the whole chain works; they cannot be compared with figures on "
            "real nuScenes."
        ),
        pictures=done.pictures,
        sections=[
            Section(
                "Replay",
                "A scene in recorded order, with the detections, as MCAP: open it in Foxglove.",
                f"{done.replay.path}\n{done.replay.text()}",
            ),
            Section("Sensors", "Which sensor readings the evaluation had to do without.", done.missing.table()),
            Section("Time", "What took how long.", durations),
        ],
        environment=json.loads(folder.environment.read_text()) if folder.environment.is_file() else {},
        config=folder.config.read_text(),
    )


def _commands(done: _Done, steps: int) -> list[str]:
    world, run, config = str(done.world), str(done.run), done.world_config
    size = ["--scenes", config.scenes, "--keyframes", config.keyframes, "--image-width", config.image_width]
    data = ["--data-root", world]
    pictures, score = ["--frames", _PICTURES], ["--min-score", _MIN_SCORE]
    init = [] if done.start is None else ["--init", done.start]
    lines = [
        ["simulate", world, *size, "--seed", config.seed, "--conditions", config.conditions],
        ["train", done.config, *data, "--split", _TRAIN_SPLIT, "--output", run, "--steps", steps, *init],
        ["evaluate", run, *data, "--split", _VAL_SPLIT, "--output", done.output / "evaluation"],
        ["visualize", run, *data, "--split", _VAL_SPLIT, *pictures, *score, "--output", done.output / "pictures"],
        ["replay", done.replay.path.stem, "--run", run, *data, *score, "--output", done.output / "replay"],
    ]
    return [shlex.join(["bevel", *map(str, line)]) for line in lines]
