"""All that is done to a training sample at random: drawn once, held in one object, applied to everything alike."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from datasets.augmentation.bev import BevAugmentation, augment
from datasets.augmentation.images import ImageAugmentation
from datasets.augmentation.sensor_dropout import SensorDropout, without_channels
from datasets.frames import LogFrame
from datasets.object_paste.paste import ObjectPaste, ObjectPaster, PlacedObjects
from datasets.object_paste.pictures import paste_pictures
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.samples.sample import Sample
from datasets.sensors.picture_change import PictureChange


@dataclass(frozen=True)
class Augmentation:
    """Which augmentations a training sample gets; None leaves one out."""

    bev: BevAugmentation | None = None
    image: ImageAugmentation | None = None
    dropout: SensorDropout | None = None
    paste: ObjectPaste | None = None


@dataclass(frozen=True)
class DrawnAugmentation:
    """What is done to one sample. Each place of the recording has one place in the sample, through these matrices:
    `augmented_from_ego` for what is said in ego, a PictureChange (by channel) for what is said in pixels. `dropped`:
    channels that are taken away; `placed`: objects that are put in, in ego as it was recorded.
    """

    augmented_from_ego: Float64[Tensor, "4 4"]
    pictures: dict[str, PictureChange]
    dropped: frozenset[str]
    placed: PlacedObjects | None


class Augmenter:
    """Makes augmented samples. Opens the database of objects; raises InputRefused as ObjectPaster does."""

    def __init__(self, augmentation: Augmentation, config: SampleConfig) -> None:
        self._augmentation, self._config = augmentation, config
        self._paster = None if augmentation.paste is None else ObjectPaster(augmentation.paste, config)

    def draw(self, frame: LogFrame, generator: torch.Generator, epoch: int) -> DrawnAugmentation:
        """What is done to the frame's sample. The same state of the generator and the same epoch draw the same."""
        bev, image, dropout = self._augmentation.bev, self._augmentation.image, self._augmentation.dropout
        augmented_from_ego = torch.eye(4, dtype=torch.float64) if bev is None else bev.draw(generator)
        dropped = frozenset[str]() if dropout is None else dropout.draw(frame, generator)
        pictures = {}
        for channel in self._config.camera_channels:
            if image is not None and channel in frame.images:
                height, width = self._config.image_height, self._config.image_width
                fitted = PictureChange.fit(frame.rig.cameras[channel], height, width)
                pictures[channel] = image.draw(fitted, generator)
        placed = None
        if self._paster is not None:
            placed = self._paster.draw(without_channels(frame, dropped), generator, epoch)
        return DrawnAugmentation(augmented_from_ego, pictures, dropped, placed)

    def sample(self, frame: LogFrame, drawn: DrawnAugmentation) -> Sample:
        """The frame's sample, augmented."""
        frame = without_channels(frame, drawn.dropped)
        sample = make_sample(frame, self._config, drawn.pictures)
        if self._paster is not None and drawn.placed is not None and drawn.placed.rows:
            sample = self._pasted(self._paster, sample, frame, drawn)
        return augment(sample, drawn.augmented_from_ego)

    def _pasted(self, paster: ObjectPaster, sample: Sample, frame: LogFrame, drawn: DrawnAugmentation) -> Sample:
        placed = drawn.placed
        if placed is None or sample.boxes is None:
            return sample
        objects = paster.objects(placed)
        pasted = paster.paste_points(sample, placed, objects)
        images = sample.images.clone()
        for index, channel in enumerate(self._config.camera_channels):
            if not sample.camera_available[index]:
                continue
            camera = frame.rig.cameras[channel]
            change = drawn.pictures.get(channel)
            if change is None:
                change = PictureChange.fit(camera, self._config.image_height, self._config.image_width)
            images[index] = paste_pictures(
                images[index],
                change,
                camera.intrinsics,
                torch.linalg.inv(sample.ego_from_cam[index].double()),
                sample.boxes,
                placed.boxes,
                [recorded.picture for recorded in objects],
            )
        return replace(pasted, images=images)
