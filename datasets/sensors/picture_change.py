"""From a recorded picture to the network's: resized, cropped, mirrored, turned, coloured; the calibration follows."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from calibration.cameras import PinholeCamera
from datasets.frames import CameraImage
from datasets.sensors.images import decode_reduced, largest_reduction

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # of R, G, B (ITU-R BT.601)
_MIDDLE_GREY = 127.5


@dataclass(frozen=True)
class ColourChange:
    """Every pixel: saturated about its own luminance, then contrast about middle grey, then brightness added (1 is
    white). Of no effect: saturation 1, contrast 1, brightness 0.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0

    def matrix(self) -> Float64[Tensor, "3 4"]:
        """RGB (0..255) and a one behind it, to RGB."""
        saturate = self.saturation * np.eye(3) + (1.0 - self.saturation) * np.ones((3, 1)) * _LUMINANCE
        shift = 255.0 * self.brightness + (1.0 - self.contrast) * _MIDDLE_GREY
        return torch.from_numpy(np.hstack([self.contrast * saturate, np.full((3, 1), shift)]))


@dataclass(frozen=True)
class PictureChange:
    """How a recorded picture of `recorded_width` x `recorded_height` becomes one of `width` x `height`.

    First resized to `resized_width` x `resized_height`, then cut: the window's top left pixel is (left, top) of the
    resized picture, and where it reaches over the edge it is black. Then mirrored left to right, turned about its
    middle by `rotation` (radians, from u towards v: clockwise as one sees it), and coloured, black edges too.
    """

    recorded_width: int
    recorded_height: int
    resized_width: int
    resized_height: int
    left: int
    top: int
    width: int
    height: int
    mirrored: bool = False
    rotation: float = 0.0
    colour: ColourChange | None = None

    @classmethod
    def fit(cls, camera: PinholeCamera, height: int, width: int) -> "PictureChange":
        """Resized to `width`, cropped to `height` at the bottom: the sky goes, the road stays."""
        resized = camera.resized(width / camera.width)
        top = resized.height - height
        return cls(camera.width, camera.height, resized.width, resized.height, 0, top, width, height)

    @property
    def scale(self) -> float:
        """Pixels of the result for each recorded one, along the axis that keeps more of them."""
        return max(self.resized_width / self.recorded_width, self.resized_height / self.recorded_height)

    def intrinsics(self, recorded: Float64[Tensor, "3 3"]) -> Float64[Tensor, "3 3"]:
        """The camera matrix of the result. A mirrored picture has a negative focal length along u."""
        for step in self._steps():
            recorded = step @ recorded
        return recorded

    def matrix(self) -> Float64[Tensor, "3 3"]:
        """`changed_from_recorded`: pixels of the recorded picture to pixels of the result."""
        return self.intrinsics(torch.eye(3, dtype=torch.float64))

    def _steps(self) -> list[Float64[Tensor, "3 3"]]:
        """The matrices of each step, the first one first."""
        steps = [
            resize_matrix(self.resized_width / self.recorded_width, self.resized_height / self.recorded_height),
            torch.tensor([[1.0, 0.0, -self.left], [0.0, 1.0, -self.top], [0.0, 0.0, 1.0]], dtype=torch.float64),
        ]
        if self.mirrored:
            steps.append(torch.tensor([[-1.0, 0, self.width - 1.0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64))
        if self.rotation:
            cos, sin = math.cos(self.rotation), math.sin(self.rotation)
            u, v = (self.width - 1) / 2, (self.height - 1) / 2
            turn = [[cos, -sin, u - cos * u + sin * v], [sin, cos, v - sin * u - cos * v], [0.0, 0.0, 1.0]]
            steps.append(torch.tensor(turn, dtype=torch.float64))
        return steps

    def decoded(self, image: CameraImage) -> UInt8[Tensor, "3 H W"]:
        """The changed picture, RGB, decoded at the size that is needed. Raises SensorFileError (`decode_reduced`)."""
        reduction = largest_reduction(image, self.recorded_width, self.recorded_height, self.scale)
        reduced = decode_reduced(image, self.recorded_width, self.recorded_height, reduction)
        picture = self._placed(reduced, reduction)
        if self.colour is not None:
            blue_first = self.colour.matrix().flip(0)[:, [2, 1, 0, 3]]
            picture = np.asarray(cv2.transform(picture, blue_first.numpy()), np.uint8)
        planes = np.empty((3, self.height, self.width), np.uint8)
        for plane in range(3):
            cv2.extractChannel(picture, 2 - plane, planes[plane])
        return torch.from_numpy(planes)

    def _placed(self, reduced: NDArray[np.uint8], reduction: int) -> NDArray[np.uint8]:
        size = (self.width, self.height)
        if self.rotation:
            changed_from_reduced = self.matrix() @ resize_matrix(float(reduction), float(reduction))
            warped = cv2.warpAffine(reduced, changed_from_reduced[:2].numpy(), size, flags=cv2.INTER_LINEAR)
            return np.asarray(warped, np.uint8)
        resized, skipped = self._resized(reduced)
        bottom, right = max(self.top + self.height, 0), max(self.left + self.width, 0)
        rows = slice(max(self.top, 0) - skipped, max(bottom - skipped, 0))
        window = np.asarray(resized[rows, max(self.left, 0) : right], np.uint8)
        placed = window
        if window.shape != (self.height, self.width, 3):
            placed = np.zeros((self.height, self.width, 3), np.uint8)
            row, column = max(-self.top, 0), max(-self.left, 0)
            placed[row : row + window.shape[0], column : column + window.shape[1]] = window
        return np.ascontiguousarray(placed[:, ::-1]) if self.mirrored else placed

    def _resized(self, reduced: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """The resized picture without some rows that lie above the window, and how many these are.

        Only whole steps are left out, after which both grids of rows meet again: every other pixel stays what it is,
        but for a grey level here and there, since cv2 works out where a row lies in single precision.
        """
        steps = math.gcd(reduced.shape[0], self.resized_height)
        step, step_reduced = self.resized_height // steps, reduced.shape[0] // steps
        # Enlarging looks at rows above, too.
        left_out = min(max(self.top, 0), self.resized_height - 1) // step if step <= step_reduced else 0
        size = (self.resized_width, self.resized_height - left_out * step)
        resized = cv2.resize(reduced[left_out * step_reduced :], size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.uint8), left_out * step


def resize_matrix(scale_u: float, scale_v: float) -> Float64[Tensor, "3 3"]:
    """Pixels before a resize to pixels after it. An image point u lies at u + 0.5 from the picture's edge; that
    distance is what scales (`PinholeCamera.resized`).
    """
    return torch.tensor(
        [[scale_u, 0.0, 0.5 * scale_u - 0.5], [0.0, scale_v, 0.5 * scale_v - 0.5], [0.0, 0.0, 1.0]],
        dtype=torch.float64,
    )
