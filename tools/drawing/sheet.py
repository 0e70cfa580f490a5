"""One sheet for one keyframe: six cameras as they are mounted, the BEV beside them, and what the network fused."""

from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from calibration.transforms import invert
from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS
from datasets.faults import SensorFault, SensorFileError
from datasets.frames import LogFrame
from datasets.sensors.images import decode_image
from perception.grid import BevGrid
from tools.drawing.bev import BevView, class_colors, draw_bev, draw_ground_boxes
from tools.drawing.boxes import draw_boxes
from tools.drawing.canvas import Text, blank, chip, disc, enlarged, letter, shrunk, text_width
from tools.drawing.features import heat, principal_colors
from tools.drawing.frame_scene import annotation_colors, bev_scene
from tools.drawing.legend import class_legend, sensor_table, wrapped
from tools.drawing.palette import ANNOTATION, FAINT, INK, PAGE, SOFT, TILE, WARNING

_WIDTH, _PAD, _GAP, _HEADER = 2560, 24, 8, 84
# Cameras are drawn this many times too large and averaged down.
_SUPERSAMPLING = 2
# What a picture shows where no detector says how far it looks, metres ahead, behind and to the sides.
_DEFAULT_REACH = 50.0


@dataclass(frozen=True)
class FusedView:
    """What the network made of one frame: the fused features on their grid and, where the fusion has such weights,
    how much each modality counted in each cell (M, Y, X) with the modalities' names. `patch`: the fusion works on
    patches of so many by so many cells.
    """

    bev: Float[Tensor, "C Y X"]
    grid: BevGrid
    patch: int
    modality_names: tuple[str, ...]
    modality_weights: Float[Tensor, "M Y X"] | None


def draw_sheet(
    frame: LogFrame, detections: Boxes3D | None = None, fused: FusedView | None = None
) -> UInt8[Tensor, "H W 3"]:
    """The sheet of a frame. `detections` are in ego; annotations are drawn where the frame has some.

    With detections the annotations are thin and white and the detections thick and in their class's colour; without
    them the annotations have the colours. A camera that is absent or cannot be decoded is a dark tile with the reason.
    """
    camera_width = 596 if fused is None else 495
    cameras, faults = _camera_block(frame, detections, camera_width)
    bev_side = _WIDTH - 3 * _PAD - cameras.shape[1]
    bev = _bev_block(frame, detections, fused, bev_side)
    bottom = _PAD + 128
    sheet = blank(_HEADER + bev_side + bottom, _WIDTH, PAGE)
    _paste(sheet, cameras, _PAD, _HEADER)
    _paste(sheet, bev, _WIDTH - _PAD - bev_side, _HEADER)
    letter(sheet, _heading(frame, detections, faults))
    legend_left = _WIDTH - _PAD - bev_side if fused is not None else _PAD
    legend_width = bev_side if fused is not None else _WIDTH - 2 * _PAD - 1040
    class_legend(sheet, legend_left, _HEADER + bev_side + 18, legend_width, frame, detections)
    if fused is None:
        sensor_table(sheet, _WIDTH - _PAD - 1040, _HEADER + bev_side + 18, 1040, 4, frame, faults)
    else:
        top = _HEADER + cameras.shape[0] + _PAD
        _fused_block(sheet, top, sheet.shape[0] - _PAD - top, frame, detections, fused, faults)
    return sheet


def _paste(sheet: UInt8[Tensor, "H W 3"], picture: UInt8[Tensor, "h w 3"], left: int, top: int) -> None:
    height, width = picture.shape[:2]
    sheet[top : top + height, left : left + width] = picture


def _heading(frame: LogFrame, detections: Boxes3D | None, faults: tuple[SensorFault, ...]) -> list[Text]:
    moment = datetime.fromtimestamp(frame.timestamp_us * 1e-6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    speed = float(frame.ego_states[-1].velocity[:2].norm()) if frame.ego_states else None
    left = [frame.scene_name, moment, frame.token]
    right = [] if speed is None else [f"ego {speed:.1f} m/s"]
    right.append(
        "no annotations" if frame.annotations is None else f"{len(frame.annotations.boxes_global)} annotations"
    )
    if detections is not None:
        right.append(f"{len(detections)} detections")
    absent = len({fault.channel for fault in faults})
    right.append("all sensors there" if absent == 0 else f"{absent} sensors absent")
    baseline = 52
    texts = [Text(_PAD, baseline, left[0], 30, INK, "ls", "bold")]
    edge = _PAD + text_width(left[0], 30, "bold") + 28
    texts.append(Text(edge, baseline, left[1], 20, SOFT, "ls"))
    edge += text_width(left[1], 20) + 28
    texts.append(Text(edge, baseline, left[2], 16, FAINT, "ls"))
    color = SOFT if absent == 0 else WARNING
    edge = float(_WIDTH - _PAD)
    for index, part in enumerate(reversed(right)):
        texts.append(Text(edge, baseline, part, 20, color if index == 0 else SOFT, "rs"))
        edge -= text_width(part, 20) + 32
    return texts


def _camera_block(
    frame: LogFrame, detections: Boxes3D | None, width: int
) -> tuple[UInt8[Tensor, "H W 3"], tuple[SensorFault, ...]]:
    """Front row above the back row, each left, middle, right; and all faults of the frame's sensors."""
    height = round(width * 9 / 16)
    block = blank(2 * height + _GAP, 3 * width + 2 * _GAP, PAGE)
    faults = list(frame.faults)
    for index, channel in enumerate(CAMERA_CHANNELS):
        row, column = divmod(index, 3)
        tile: UInt8[Tensor, "h w 3"] | None = None
        if channel in frame.images and channel in frame.rig.cameras:
            try:
                tile = _camera_tile(frame, channel, detections, height, width)
            except SensorFileError as error:
                faults.append(SensorFault(channel, error.reason, error.detail))
        if tile is None:
            tile = _absent_tile(channel, [fault for fault in faults if fault.channel == channel], height, width)
        _paste(block, tile, column * (width + _GAP), row * (height + _GAP))
    return block, tuple(faults)


def camera_picture(
    frame: LogFrame, channel: str, detections: Boxes3D | None, scale: float, thickness: int
) -> UInt8[Tensor, "H W 3"]:
    """One camera's picture, resized by `scale`, with the projected boxes. Raises SensorFileError.

    Boxes go through global to where the vehicle was when this picture was taken, not where it is at the frame's
    instant: between the two it moves by decimetres.
    """
    image, camera = frame.images[channel], frame.rig.cameras[channel].resized(scale)
    resize = shrunk if scale <= 1.0 else enlarged
    picture = resize(decode_image(image), camera.height, camera.width)
    cam_from_global = invert(image.global_from_ego @ frame.rig.ego_from_sensor[channel])
    if detections is not None:
        cam_from_ego = cam_from_global @ frame.global_from_ego
        draw_boxes(picture, detections, cam_from_ego, camera, class_colors(detections), 2 * thickness)
    if frame.annotations is not None:
        boxes = frame.annotations.boxes_global
        plain = detections is None
        colors = annotation_colors(frame, plain)
        draw_boxes(picture, boxes, cam_from_global, camera, colors, thickness if plain else max(1, thickness // 2))
    return picture


def _camera_tile(
    frame: LogFrame, channel: str, detections: Boxes3D | None, height: int, width: int
) -> UInt8[Tensor, "H W 3"]:
    camera = frame.rig.cameras[channel]
    # The whole picture must fit into the tile, whatever its shape.
    scale = min(width / camera.width, height / camera.height)
    large = camera_picture(frame, channel, detections, scale * _SUPERSAMPLING, 2)
    fitted = shrunk(large, min(height, round(camera.height * scale)), min(width, round(camera.width * scale)))
    tile = blank(height, width, TILE)
    _paste(tile, fitted, (width - fitted.shape[1]) // 2, (height - fitted.shape[0]) // 2)
    name = channel.removeprefix("CAM_").replace("_", " ")
    offset = f"{(frame.images[channel].timestamp_us - frame.timestamp_us) * 1e-3:+.0f} ms"
    chip_width = round(text_width(name, 15, "bold") + text_width(offset, 13) + 26)
    chip(tile, 0, height - 28, chip_width, 28, 0.6)
    letter(
        tile,
        [
            Text(9, height - 9, name, 15, INK, "ls", "bold"),
            Text(chip_width - 9, height - 9, offset, 13, SOFT, "rs"),
        ],
    )
    return tile


def _absent_tile(channel: str, faults: list[SensorFault], height: int, width: int) -> UInt8[Tensor, "H W 3"]:
    tile = blank(height, width, TILE)
    name = channel.removeprefix("CAM_").replace("_", " ")
    reason = faults[-1].reason.value.replace("_", " ") if faults else "not recorded"
    texts = [
        Text(width / 2, height / 2 - 34, name, 18, SOFT, "ms", "bold"),
        Text(width / 2, height / 2 - 6, f"absent: {reason}", 17, WARNING, "ms"),
    ]
    for row, line in enumerate(wrapped(faults[-1].detail if faults else "", 13, width - 40)[:4]):
        texts.append(Text(width / 2, height / 2 + 20 + 19 * row, line, 13, FAINT, "ms"))
    letter(tile, texts)
    return tile


def _bev_block(
    frame: LogFrame, detections: Boxes3D | None, fused: FusedView | None, side: int
) -> UInt8[Tensor, "H W 3"]:
    x_range = y_range = (-_DEFAULT_REACH, _DEFAULT_REACH)
    if fused is not None:
        x_range, y_range = fused.grid.x_range, fused.grid.y_range
    bev = draw_bev(bev_scene(frame, detections), BevView.fitting(x_range, y_range, side, side))
    block = blank(side, side, PAGE)
    _paste(block, bev, (side - bev.shape[1]) // 2, (side - bev.shape[0]) // 2)
    return block


def _fused_block(
    sheet: UInt8[Tensor, "H W 3"],
    top: int,
    height: int,
    frame: LogFrame,
    detections: Boxes3D | None,
    fused: FusedView,
    faults: tuple[SensorFault, ...],
) -> None:
    """Under the cameras: fused features, the modalities' weights, the table of sensors; one below each column."""
    title, side = 30, height - 30
    left = _PAD
    letter(sheet, [Text(left, top + 20, "Fused BEV features", 17, INK, "ls", "bold")])
    offset = text_width("Fused BEV features", 17, "bold") + 12
    letter(sheet, [Text(left + offset, top + 20, "difference from the ordinary cell", 14, FAINT, "ls")])
    _paste(
        sheet,
        _feature_tile(principal_colors(fused.bev, fused.patch), frame, detections, fused.grid, side),
        left,
        top + title,
    )
    left += 495 + _GAP
    if fused.modality_weights is not None:
        letter(sheet, [Text(left, top + 20, "Weight of each modality", 17, INK, "ls", "bold")])
        _weight_tiles(sheet, left, top + title, (side - _GAP) // 2, fused)
        left += 495 + _GAP
    sensor_table(sheet, left, top, 495, 1, frame, faults)


def _feature_tile(
    cells: UInt8[Tensor, "X Y 3"], frame: LogFrame, detections: Boxes3D | None, grid: BevGrid, side: int
) -> UInt8[Tensor, "H W 3"]:
    """A picture of the cells with the outlines of the boxes, so that one sees which cells lie under what."""
    view = BevView.fitting(grid.x_range, grid.y_range, side, side).scaled(_SUPERSAMPLING)
    tile = enlarged(cells, view.height, view.width)
    boxes = detections
    if boxes is None and frame.annotations is not None:
        boxes = frame.annotations.boxes_global.transformed(invert(frame.global_from_ego))
    if boxes is not None:
        draw_ground_boxes(tile, view, boxes, [ANNOTATION] * len(boxes), _SUPERSAMPLING, 0.0)
    middle = view.pixels(torch.zeros(1, 2))[0]
    disc(tile, middle, 3.0 * _SUPERSAMPLING, ANNOTATION)
    return shrunk(tile, view.height // _SUPERSAMPLING, view.width // _SUPERSAMPLING)


def _weight_tiles(sheet: UInt8[Tensor, "H W 3"], left: int, top: int, side: int, fused: FusedView) -> None:
    if fused.modality_weights is None:
        return
    view = BevView.fitting(fused.grid.x_range, fused.grid.y_range, side, side)
    for index, (name, weights) in enumerate(zip(fused.modality_names, fused.modality_weights, strict=True)):
        tile = enlarged(heat(weights, 0.0, 1.0), view.height, view.width)
        label = f"{name}  {float(weights.nan_to_num(0.0).mean()):.2f}"
        chip(tile, 0, 0, round(text_width(label, 14, "bold")) + 16, 24, 0.65)
        letter(tile, [Text(8, 17, label, 14, INK, "ls", "bold")])
        row, column = divmod(index, 2)
        _paste(sheet, tile, left + column * (side + _GAP), top + row * (side + _GAP))
