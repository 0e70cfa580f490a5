"""What is compared with what: the trainings of each study, all made of one config by changing one thing."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

from datasets.faults import InputRefused
from datasets.samples.batch import Modality
from perception.cross_modal.alignment import CrossModalConfig, CrossModalKind
from perception.fusion.build import FusionKind, fusion_config
from perception.pretraining import check_pretraining
from perception.tasks.depth import DepthTaskConfig
from perception.tasks.perspective import PerspectiveConfig
from perception.tasks.segmentation import SegmentationConfig
from perception.temporal import TemporalConfig
from tools.run_config import RunConfig, config_to_json

Study = Literal["sensors", "temporal", "strategies", "subsets", "losses", "tasks"]
STUDIES: tuple[Study, ...] = get_args(Study)

_SUBSETS: tuple[tuple[Modality, ...], ...] = (
    ("camera",),
    ("lidar",),
    ("radar",),
    ("camera", "radar"),
    ("lidar", "radar"),
    ("camera", "lidar"),
    ("camera", "lidar", "radar"),
)
# How often a training sample of the subsets' study loses some of its modalities.
_DROPOUT = 0.5


@dataclass(frozen=True)
class Trial:
    """One training. `pretrained`: its branches have learnt from one another before, for as many steps."""

    config: RunConfig
    pretrained: bool

    @property
    def digest(self) -> str:
        """What a training is found by: equal ones happen once, whatever studies they are in."""
        return config_digest(self.config) + ("-pretrained" if self.pretrained else "")


@dataclass(frozen=True)
class Variant:
    """A row of a study: its name, and what is trained with each seed."""

    name: str
    config: RunConfig
    pretrained: bool = False

    def trial(self, seed: int) -> Trial:
        """The training with a seed."""
        config = replace(self.config, training=replace(self.config.training, seed=seed))
        return Trial(config, self.pretrained)


@dataclass(frozen=True)
class NamedTrial:
    """A training, the row and seed it is for, and whether a study wants its score with every subset of its sensors."""

    name: str
    trial: Trial
    with_subsets: bool


def trials_in_order(rows: Mapping[Study, tuple[Variant, ...]], seeds: int) -> tuple[NamedTrial, ...]:
    """Every training once, named after the first row that has it; the first seed of all studies comes first, so that
    early tables have all rows.
    """
    found: dict[str, NamedTrial] = {}
    for seed in range(seeds):
        for study, of_study in rows.items():
            for row in of_study:
                trial = row.trial(seed)
                named = found.get(trial.digest) or NamedTrial(f"{study}: {row.name}, seed {seed}", trial, False)
                found[trial.digest] = replace(named, with_subsets=named.with_subsets or study == "subsets")
    return tuple(found.values())


def variants(study: Study, config: RunConfig) -> tuple[Variant, ...]:
    """The rows of a study. Raises InputRefused where the config lacks a branch that the study takes away, or has what
    some row cannot have.
    """
    detector = config.detector
    if None in (detector.camera, detector.lidar, detector.radar, detector.pose):
        raise InputRefused("evidence compares sensors: the config needs camera, lidar, radar and pose.")
    of_study: Mapping[Study, Callable[[RunConfig], tuple[Variant, ...]]] = {
        "sensors": partial(_sensors, temporal=False),
        "temporal": partial(_sensors, temporal=True),
        "strategies": _strategies,
        "subsets": _subsets,
        "losses": _losses,
        "tasks": _tasks,
    }
    try:
        return of_study[study](config)
    except ValueError as error:
        raise InputRefused(
            f"the study {study} cannot be made of this config: {error}; take another --config."
        ) from error


def config_digest(config: RunConfig) -> str:
    """A name for a config."""
    return hashlib.sha256(config_to_json(config).encode()).hexdigest()[:12]


def possible_studies(config: RunConfig) -> dict[Study, tuple[Variant, ...]]:
    """The rows of all studies that can be made of the config."""
    rows = {}
    for study in STUDIES:
        try:
            rows[study] = variants(study, config)
        except InputRefused:
            continue
    return rows


def _sensors(config: RunConfig, temporal: bool) -> tuple[Variant, ...]:
    return tuple(Variant(" + ".join(kept), _with_branches(config, kept, temporal)) for kept in _SUBSETS)


def _with_branches(config: RunConfig, kept: tuple[Modality, ...], temporal: bool) -> RunConfig:
    """The same network without the branches of the other sensors; nothing is trained on what it does not have.

    `temporal`: it knows the vehicle's motion and remembers the frame before; otherwise neither.
    """
    detector = config.detector
    detector = replace(
        detector,
        camera=detector.camera if "camera" in kept else None,
        lidar=detector.lidar if "lidar" in kept else None,
        radar=detector.radar if "radar" in kept else None,
        pose=detector.pose if temporal else None,
        temporal=(detector.temporal or TemporalConfig()) if temporal else None,
        perspective=detector.perspective if "camera" in kept else None,
    )
    return RunConfig(config.sample, detector, config.training)


def _strategies(config: RunConfig) -> tuple[Variant, ...]:
    if config.detector.temporal is not None:
        raise InputRefused(
            "late fusion, one of the strategies, has no fused BEV to remember: take detector.temporal out of the "
            "config."
        )
    kinds: tuple[FusionKind, ...] = get_args(FusionKind)
    return tuple(
        Variant(kind, config)
        if kind == config.detector.fusion.kind
        else Variant(kind, replace(config, detector=replace(config.detector, fusion=fusion_config(kind))))
        for kind in kinds
    )


def _subsets(config: RunConfig) -> tuple[Variant, ...]:
    return tuple(
        Variant(
            f"modality dropout {dropout:g}",
            replace(config, training=replace(config.training, modality_dropout=dropout)),
        )
        for dropout in (0.0, _DROPOUT)
    )


def _losses(config: RunConfig) -> tuple[Variant, ...]:
    kinds: tuple[CrossModalKind, ...] = get_args(CrossModalKind)
    beside = [
        Variant(kind, replace(config, detector=replace(config.detector, cross_modal=CrossModalConfig(kind=kind))))
        for kind in kinds
    ]
    check_pretraining(config.detector)
    return Variant("none", config), *beside, Variant("pretrained", config, pretrained=True)


def _tasks(config: RunConfig) -> tuple[Variant, ...]:
    detector = config.detector
    alone = replace(detector, segmentation=None, depth=None, perspective=None)
    return (
        Variant("detection alone", replace(config, detector=alone)),
        Variant(
            "with map segmentation",
            replace(config, detector=replace(alone, segmentation=detector.segmentation or SegmentationConfig())),
        ),
        Variant("with depth", replace(config, detector=replace(alone, depth=detector.depth or DepthTaskConfig()))),
        Variant(
            "with perspective",
            replace(config, detector=replace(alone, perspective=detector.perspective or PerspectiveConfig())),
        ),
    )
