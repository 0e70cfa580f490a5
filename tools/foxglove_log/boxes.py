"""Boxes as Foxglove scene entities: a cube, an arrow along the velocity, a label, and the figures as metadata."""

import math
from collections.abc import Sequence

import torch
from foxglove.messages import (
    ArrowPrimitive,
    Color,
    CubePrimitive,
    KeyValuePair,
    Pose,
    Quaternion,
    SceneEntity,
    SceneEntityDeletion,
    SceneEntityDeletionType,
    SceneUpdate,
    TextPrimitive,
    Vector3,
)

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, DETECTION_CLASSES
from tools.drawing.palette import CLASS_COLORS
from tools.foxglove_log.messages import MAP, stamp

# Slower boxes get no arrow, m/s. An arrow shows the way of one second.
_SLOWEST_ARROW = 0.5


def scene_of_boxes(
    timestamp_us: int, boxes_global: Boxes3D, ids: Sequence[str], opacity: float, with_scores: bool
) -> SceneUpdate:
    """The boxes as one update that takes the place of everything this topic showed before."""
    moment = stamp(timestamp_us)
    return SceneUpdate(
        deletions=[SceneEntityDeletion(timestamp=moment, type=SceneEntityDeletionType.All)],
        entities=[
            _entity(timestamp_us, boxes_global, index, identity, opacity, with_scores)
            for index, identity in enumerate(ids)
        ],
    )


def _entity(
    timestamp_us: int, boxes: Boxes3D, index: int, identity: str, opacity: float, with_scores: bool
) -> SceneEntity:
    label, attribute = int(boxes.labels[index]), int(boxes.attributes[index])
    red, green, blue = (channel / 255 for channel in CLASS_COLORS[label])
    x, y, z = boxes.centers[index].tolist()
    width, length, height = boxes.sizes_wlh[index].tolist()
    vx, vy = boxes.velocities[index].tolist()
    metadata = [KeyValuePair(key="class", value=DETECTION_CLASSES[label])]
    text = DETECTION_CLASSES[label]
    if with_scores:
        # Nine digits bring a float32 back exactly.
        metadata.append(KeyValuePair(key="score", value=f"{float(boxes.scores[index]):.9g}"))
        text += f" {float(boxes.scores[index]):.2f}"
    if math.isfinite(vx) and math.isfinite(vy):
        metadata += [KeyValuePair(key="vx", value=f"{vx:.9g}"), KeyValuePair(key="vy", value=f"{vy:.9g}")]
    if attribute >= 0:
        metadata.append(KeyValuePair(key="attribute", value=ATTRIBUTES[attribute]))
    yaw = float(boxes.yaws[index])
    return SceneEntity(
        timestamp=stamp(timestamp_us),
        frame_id=MAP,
        id=identity,
        metadata=metadata,
        cubes=[
            CubePrimitive(
                pose=Pose(position=Vector3(x=x, y=y, z=z), orientation=_turned(yaw)),
                size=Vector3(x=length, y=width, z=height),
                color=Color(r=red, g=green, b=blue, a=opacity),
            )
        ],
        arrows=_arrow((x, y, z), vx, vy, Color(r=red, g=green, b=blue, a=1.0)),
        texts=[
            TextPrimitive(
                pose=Pose(position=Vector3(x=x, y=y, z=z + height / 2 + 0.4), orientation=_turned(0.0)),
                billboard=True,
                font_size=12.0,
                scale_invariant=True,
                color=Color(r=red, g=green, b=blue, a=1.0),
                text=text,
            )
        ],
    )


def _arrow(center: tuple[float, float, float], vx: float, vy: float, color: Color) -> list[ArrowPrimitive]:
    speed = math.hypot(vx, vy)
    if not speed >= _SLOWEST_ARROW:  # also where it is not known
        return []
    x, y, z = center
    return [
        ArrowPrimitive(
            pose=Pose(position=Vector3(x=x, y=y, z=z), orientation=_turned(math.atan2(vy, vx))),
            shaft_length=max(speed - 0.5, 0.1),
            shaft_diameter=0.15,
            head_length=0.5,
            head_diameter=0.4,
            color=color,
        )
    ]


def _turned(yaw: float) -> Quaternion:
    return Quaternion(w=math.cos(yaw / 2), z=math.sin(yaw / 2))


def numbered(prefix: str, boxes: Boxes3D) -> tuple[str, ...]:
    """A name for each box: its rank among the boxes, the best score first."""
    ranks = torch.argsort(torch.argsort(boxes.scores, descending=True, stable=True))
    return tuple(f"{prefix}-{rank}" for rank in ranks.tolist())
