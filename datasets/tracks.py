"""Boxes that have a name: the same object at another time has the same one."""

from dataclasses import dataclass

from datasets.boxes import Boxes3D


@dataclass(frozen=True)
class Tracks:
    """The tracked objects of one frame: M boxes (global) and the name of each one's track.

    Names are unique within a class; the score is the frame's own, not the track's mean.
    Raises ValueError where there are not as many names as boxes.
    """

    boxes: Boxes3D
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes need as many names, not {len(self.ids)}")

    def __len__(self) -> int:
        return len(self.ids)
