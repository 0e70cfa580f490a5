"""What a detection head is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from datasets.boxes import Boxes3D
from perception.losses import Counts, Losses

Outputs = TypeVar("Outputs")


class DetectionHead(nn.Module, ABC, Generic[Outputs]):
    """From a BEV to boxes. Every head has outputs of its own, which only its own losses and decoding read."""

    @abstractmethod
    def forward(self, bev: Float[Tensor, "B C V U"], velocities: Float[Tensor, "B W V U"] | None = None) -> Outputs:
        """What the network says, raw. `velocities`: the radars' around each cell (perception/radar_velocities.py), for
        a head that was built for so many columns of them; None for one that was built without.
        """

    @abstractmethod
    def counts(self, boxes: Sequence[Boxes3D]) -> Counts:
        """What the losses of a batch with these annotated boxes (ego) are divided by."""

    @abstractmethod
    def losses(self, outputs: Outputs, boxes: Sequence[Boxes3D], counts: Counts | None = None) -> Losses:
        """How far that is from the annotated boxes (ego) of each sample. `counts`: instead of the batch's own."""

    @abstractmethod
    def decode(self, outputs: Outputs) -> list[Boxes3D]:
        """The boxes (ego, float32) of each sample, best first; no gradient flows through them."""
