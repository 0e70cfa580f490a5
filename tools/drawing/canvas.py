"""Pictures as RGB tensors, and the few strokes that everything here is drawn with: anti-aliased and sub-pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tools.drawing.palette import Color

# cv2 takes fixed-point coordinates: 4 bits give sixteenths of a pixel.
_FRACTION_BITS = 4
# Beyond this cv2's 32-bit fixed point overflows into wild lines; callers clip, this only guards.
_FARTHEST_PIXEL = 1e6

Weight = Literal["regular", "bold"]


@dataclass(frozen=True)
class Text:
    """One line of text; `anchor` as Pillow has it (la: left ascender, mm: middle, rs: right baseline ...)."""

    x: int | float
    y: int | float
    string: str
    size: int
    color: Color
    anchor: str = "la"
    weight: Weight = "regular"


def blank(height: int, width: int, color: Color) -> UInt8[Tensor, "H W 3"]:
    """A picture of one colour."""
    return torch.tensor(color, dtype=torch.uint8).expand(height, width, 3).clone()


def _fixed(points: Float[Tensor, "K 2"]) -> NDArray[np.int32]:
    clipped = points.double().clamp(-_FARTHEST_PIXEL, _FARTHEST_PIXEL)
    return (clipped * (1 << _FRACTION_BITS)).round().to(torch.int32).numpy()


def stroke(
    picture: UInt8[Tensor, "H W 3"],
    points_img: Float[Tensor, "K 2"],
    color: Color,
    thickness: int,
    closed: bool = False,
) -> None:
    """Draw a line through the points (K, 2; u right, v down) into `picture`."""
    if len(points_img) >= 2:
        cv2.polylines(
            picture.numpy(), [_fixed(points_img)], closed, color, thickness, cv2.LINE_AA, shift=_FRACTION_BITS
        )


def fill(picture: UInt8[Tensor, "H W 3"], points_img: Float[Tensor, "K 2"], color: Color, opacity: float = 1.0) -> None:
    """Fill a polygon (K, 2), blended over what is there; only the patch it covers is touched."""
    if len(points_img) < 3:
        return
    height, width = picture.shape[:2]
    low = points_img.min(dim=0).values.floor().long() - 1
    high = points_img.max(dim=0).values.ceil().long() + 2
    left, top = int(low[0].clamp(0, width)), int(low[1].clamp(0, height))
    right, bottom = int(high[0].clamp(0, width)), int(high[1].clamp(0, height))
    if left >= right or top >= bottom:
        return
    patch = picture[top:bottom, left:right]
    painted = patch.contiguous().clone()
    moved = points_img - torch.tensor([left, top], dtype=points_img.dtype)
    cv2.fillPoly(painted.numpy(), [_fixed(moved)], color, cv2.LINE_AA, shift=_FRACTION_BITS)
    mixed = patch.float() * (1.0 - opacity) + painted.float() * opacity
    patch.copy_(mixed.round().to(torch.uint8))


def disc(
    picture: UInt8[Tensor, "H W 3"],
    center_img: Float[Tensor, "2"],
    radius: int | float,
    color: Color,
    thickness: int = -1,
) -> None:
    """A filled disc, or a circle where the thickness is positive; centre and radius in pixels."""
    u, v = (int(value) for value in _fixed(center_img[None])[0])
    scaled_radius = round(radius * (1 << _FRACTION_BITS))
    cv2.circle(picture.numpy(), (u, v), scaled_radius, color, thickness, cv2.LINE_AA, shift=_FRACTION_BITS)


def shrunk(picture: UInt8[Tensor, "H W 3"], height: int, width: int) -> UInt8[Tensor, "h w 3"]:
    """The picture at another size, each new pixel the mean of those it covers."""
    return torch.from_numpy(cv2.resize(picture.numpy(), (width, height), interpolation=cv2.INTER_AREA))


def enlarged(picture: UInt8[Tensor, "H W 3"], height: int, width: int) -> UInt8[Tensor, "h w 3"]:
    """The picture at a larger size, smooth between the old pixels."""
    return torch.from_numpy(cv2.resize(picture.numpy(), (width, height), interpolation=cv2.INTER_CUBIC))


@cache
def _font(size: int, weight: Weight) -> ImageFont.FreeTypeFont:
    # DejaVu comes with matplotlib, which nuscenes-devkit brings: the same letters on every machine.
    name = "DejaVuSans-Bold.ttf" if weight == "bold" else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def printable(string: str) -> str:
    """The text with every control character replaced: names come from files, and fonts have no line feed."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in string)


def text_width(string: str, size: int, weight: Weight = "regular") -> float:
    """How many pixels wide the text is."""
    return float(_font(size, weight).getlength(printable(string)))


def letter(picture: UInt8[Tensor, "H W 3"], texts: Sequence[Text]) -> None:
    """Write all the texts into `picture`."""
    if not texts:
        return
    page = Image.fromarray(picture.numpy())
    pen = ImageDraw.Draw(page)
    for text in texts:
        pen.text((text.x, text.y), text.string, fill=text.color, font=_font(text.size, text.weight), anchor=text.anchor)
    picture.copy_(torch.from_numpy(np.array(page)))


def chip(picture: UInt8[Tensor, "H W 3"], left: int, top: int, width: int, height: int, opacity: float) -> None:
    """Darken a rectangle so that text on it can be read."""
    patch = picture[max(top, 0) : top + height, max(left, 0) : left + width]
    patch.copy_((patch.float() * (1.0 - opacity)).to(torch.uint8))


def png_bytes(picture: UInt8[Tensor, "H W 3"]) -> bytes:
    """The picture as a PNG file."""
    return _encoded(picture, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 6])


def jpeg_bytes(picture: UInt8[Tensor, "H W 3"], quality: int = 90) -> bytes:
    """The picture as a JPEG file."""
    return _encoded(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encoded(picture: UInt8[Tensor, "H W 3"], extension: str, options: list[int]) -> bytes:
    written, data = cv2.imencode(extension, cv2.cvtColor(picture.numpy(), cv2.COLOR_RGB2BGR), options)
    if not written:
        raise ValueError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels cannot be written as {extension}"
        )
    return data.tobytes()
