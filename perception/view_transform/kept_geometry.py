"""What follows from the cameras' geometry alone is worked out once for each geometry, and kept."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from perception.image_features import ImageFeatures

T = TypeVar("T")

# A batch of a training, one of its validation, and a replay's single sample; augmentation makes new ones all the time.
_KEPT = 3


class KeptGeometry(Generic[T]):
    """The last few results, each for one geometry to the last bit: intrinsics, poses, owners of cameras, sizes, device.

    No part of a module's state: not in its state_dict, and a copy (a moving average, another process) starts empty.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], T] = OrderedDict()

    def of(self, images: ImageFeatures, make: Callable[[ImageFeatures], T]) -> T:
        """What `make` returns for these images, of which it looks at the geometry only. Kept, or made and kept."""
        key = _key(images)
        found = self._kept.pop(key, None)
        if found is None:
            # Made in inference mode, it would be of no use to a training that meets the same geometry afterwards.
            with torch.inference_mode(False), torch.no_grad():
                found = make(images)
        self._kept[key] = found
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[type["KeptGeometry[T]"], tuple[()]]:
        return KeptGeometry, ()


def _key(images: ImageFeatures) -> tuple[object, ...]:
    tensors = (images.intrinsics, images.ego_from_cam, images.sample_index)
    bits = [tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors]
    return (images.size, images.stride, images.pixel_offset, images.batch_size, images.features.device, *bits)
