"""What every view transform is: features of any number of cameras in, one BEV out."""

from abc import ABC, abstractmethod

from jaxtyping import Float32
from torch import Tensor, nn

from perception.image_features import ImageFeatures


class ViewTransform(nn.Module, ABC):
    """Image features to the BEV grid. Each camera has its own calibration; a sample may have any number of them."""

    @abstractmethod
    def forward(self, images: ImageFeatures) -> Float32[Tensor, "B C Y X"]:
        """The BEV, float32 also under autocast. A cell that no camera of its sample reaches gets zeros."""
