"""How large the world is, how it is recorded, and what its scenes are called."""

from dataclasses import dataclass

from datasets.faults import InputRefused
from datasets.synthetic.conditions import MIXED, ConditionName, SceneConditions
from datasets.synthetic.writing.injected_faults import DeadSensor, InjectedFault

# The official splits of v1.0-mini. Those of v1.0-trainval are read from the devkit, which takes seconds to import.
_MINI_TRAIN = (
    "scene-0061", "scene-0553", "scene-0655", "scene-0757", "scene-0796", "scene-1077", "scene-1094", "scene-1100",
)  # fmt: skip
_MINI_VAL = ("scene-0103", "scene-0916")
_MAX_MINI_SCENES, _MAX_SCENES = 10, 850
# Twice nuScenes' scenes and pictures: the map and the pictures must fit into a worker's memory.
_MAX_KEYFRAMES, _MAX_WIDTH = 80, 3200


@dataclass(frozen=True)
class WorldConfig:
    """A synthetic dataset. Rates are those of nuScenes: keyframes 2 Hz, LiDAR 20 Hz, radar 13 Hz, cameras 12 Hz."""

    scenes: int = 10
    """How many scenes; up to 10 are written as v1.0-mini, more as v1.0-trainval."""
    keyframes: int = 20
    """Annotated keyframes of each scene, half a second apart."""
    image_width: int = 800
    """Width of the pictures in pixels, a multiple of 16; the height is 9/16 of it."""
    seed: int = 0
    """The same seed and settings give the same bytes."""
    camera_sweeps: bool = False
    """Also render the pictures between keyframes."""
    conditions: SceneConditions = "mixed"
    """Light and weather of every scene; mixed: half of the scenes by day, the others at dusk, night, in rain or fog."""
    faults: tuple[InjectedFault, ...] = ()
    """What is wrong with the recording, in which scenes and with which sensors."""
    fault_scenes: float = 0.0
    """The share of scenes (0 to 1) that have one random fault each, besides `faults`."""

    def __post_init__(self) -> None:
        if not 1 <= self.scenes <= _MAX_SCENES:
            raise InputRefused(
                f"scenes must lie between 1 and {_MAX_SCENES}, it is {self.scenes}: choose fewer scenes."
            )
        if not 1 <= self.keyframes <= _MAX_KEYFRAMES:
            raise InputRefused(f"keyframes must lie between 1 and {_MAX_KEYFRAMES}, it is {self.keyframes}.")
        if not 16 <= self.image_width <= _MAX_WIDTH or self.image_width % 16:
            raise InputRefused(
                f"image_width must be a multiple of 16 pixels from 16 to {_MAX_WIDTH}, it is {self.image_width}."
            )
        if self.seed < 0:
            raise InputRefused(f"seed must not be negative, it is {self.seed}.")
        if not 0.0 <= self.fault_scenes <= 1.0:
            raise InputRefused(f"fault_scenes must lie between 0 and 1, it is {self.fault_scenes}.")
        for fault in self.faults:
            self._check_fault(fault)

    def condition(self, index: int) -> ConditionName:
        """Light and weather of scene number `index`."""
        return MIXED[index % len(MIXED)] if self.conditions == "mixed" else self.conditions

    def _check_fault(self, fault: InjectedFault) -> None:
        strangers = set(fault.scenes) - set(self.scene_names) if fault.scenes is not None else set()
        if strangers:
            raise InputRefused(
                f"faults: scenes: {min(strangers)!r} is none of the {self.scenes} scenes, which are "
                f"{', '.join(self.scene_names[:10])}{' ...' if self.scenes > 10 else ''}."
            )
        if isinstance(fault, DeadSensor) and fault.from_seconds > self.duration:
            raise InputRefused(
                f"faults: from_seconds: {fault.channel} would die {fault.from_seconds:g} s into scenes that last "
                f"{self.duration:g} s."
            )

    @property
    def has_faults(self) -> bool:
        """Whether any scene has a fault: then the dataset has a faults.json."""
        return bool(self.faults) or self.fault_scenes > 0.0

    @property
    def image_height(self) -> int:
        """Pixels; the pictures are 16:9 as in nuScenes."""
        return self.image_width * 9 // 16

    @property
    def duration(self) -> float:
        """Seconds from the first keyframe to the last."""
        return (self.keyframes - 1) * 0.5

    @property
    def version(self) -> str:
        """The nuScenes version whose official splits name the scenes."""
        return "v1.0-mini" if self.scenes <= _MAX_MINI_SCENES else "v1.0-trainval"

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Official names, a fifth of them (at least one where there are two) from the validation split."""
        train_names, val_names = _MINI_TRAIN, _MINI_VAL
        if self.version == "v1.0-trainval":
            from nuscenes.utils.splits import train, val

            train_names, val_names = tuple(train), tuple(val)
        validation = max(round(0.2 * self.scenes), 1 if self.scenes > 1 else 0)
        training = min(self.scenes - min(validation, len(val_names)), len(train_names))
        return train_names[:training] + val_names[: self.scenes - training]
