"""What tests of corruptions share: the parts of a frame as bytes, and a reader that holds frames."""

from collections.abc import Sequence

from torch import Tensor

from datasets.frames import Annotations, LogFrame


def parts(frame: LogFrame) -> dict[str, object]:
    """Everything that a corruption might change, by name: to the bit."""
    found: dict[str, object] = {
        "frame": (frame.token, frame.scene_name, frame.timestamp_us, frame.faults, frame.impairments),
        "pose frame": _bytes(frame.global_from_ego),
        "annotations": id(frame.annotations),
    }
    for channel, image in frame.images.items():
        found[f"data {channel}"] = image.encoded
        found[f"pose {channel}"] = (image.timestamp_us, _bytes(image.global_from_ego))
    for sweeps_by_channel in (frame.lidar_sweeps, frame.radar_sweeps):
        for channel, sweeps in sweeps_by_channel.items():
            found[f"data {channel}"] = tuple(_bytes(sweep.points) for sweep in sweeps)
            found[f"pose {channel}"] = tuple((s.timestamp_us, _bytes(s.global_from_ego)) for s in sweeps)
    for channel, transform in frame.rig.ego_from_sensor.items():
        found[f"rig {channel}"] = _bytes(transform)
    for channel, camera in frame.rig.cameras.items():
        found[f"camera {channel}"] = (camera.width, camera.height, _bytes(camera.intrinsics))
    for number, state in enumerate(frame.ego_states):
        found[f"state {number}"] = (state.timestamp_us, _bytes(state.velocity), state.yaw_rate, state.gps)
        found[f"pose state {number}"] = _bytes(state.global_from_ego)
    return found


def changed(before: LogFrame, after: LogFrame) -> set[str]:
    """The names of the parts that differ or are gone."""
    old, new = parts(before), parts(after)
    assert set(new) <= set(old)
    return {name for name in old if name not in new or new[name] != old[name]}


def _bytes(values: Tensor) -> bytes:
    return str((values.dtype, tuple(values.shape))).encode() + values.contiguous().numpy().tobytes()


class HeldFrames:
    """A LogReader of frames in memory."""

    def __init__(self, frames: Sequence[LogFrame]) -> None:
        self._frames = {frame.token: frame for frame in frames}

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        return tuple(self._frames)

    def frame(self, token: str) -> LogFrame:
        return self._frames[token]

    def earlier_tokens(self, token: str, count: int) -> tuple[str, ...]:
        tokens = list(self._frames)
        place = tokens.index(token)
        return tuple(
            other
            for other in reversed(tokens[max(place - count, 0) : place])
            if self._frames[other].scene_name == self._frames[token].scene_name
        )

    def annotations(self, token: str) -> Annotations | None:
        return self._frames[token].annotations
