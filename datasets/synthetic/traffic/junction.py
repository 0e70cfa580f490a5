"""The lanes of a scene's junction, who has a green light when, and the routes that lead through."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.synthetic.scenery.roads import RoadPlan
from datasets.synthetic.traffic.routes import ALWAYS, NEVER, Lane, Route, around_corner, straight_on, u_turn

Manoeuvre = Literal["straight", "curve", "turn right", "turn left", "stop and go", "u-turn"]
Approach = Literal["forward", "backward", "cross forward", "cross backward"]

_RIGHT_RADIUS, _LEFT_RADIUS = 7.5, 10.5
# From the stop line's far side to the crossing road's edge, as painted.
LINE_BEFORE_CROSS, _ALL_RED = 5.5, 2.5
_U_TURN_BEGIN = -5.0  # Before the crossing road's middle; metres.


@dataclass(frozen=True)
class Junction:
    """All lanes by approach, inner lanes first."""

    lanes: dict[Approach, tuple[Lane, ...]]

    def routes(self, lane: Lane) -> list[Route]:
        """Where one may go from a lane: straight on first, then right from the outer one and left from the inner one.

        Left only where those who come towards it never have green together with it.
        """
        approach = next(name for name, lanes in self.lanes.items() if lane in lanes)
        own, opposite, right, left = _AROUND[approach]
        found = [straight_on(lane)]
        if lane == self.lanes[own][-1]:
            found.append(around_corner(lane, self.lanes[right][-1], _RIGHT_RADIUS))
        if lane == self.lanes[own][0] and not _overlap(lane.green, self.lanes[opposite][0].green):
            found.append(around_corner(lane, self.lanes[left][0], _LEFT_RADIUS))
        return found

    def ego_route(self, manoeuvre: Manoeuvre) -> Route:
        """The ego vehicle's route; it comes along the main road."""
        own = self.lanes["forward"]
        match manoeuvre:
            case "turn right":
                return around_corner(own[-1], self.lanes["cross backward"][-1], _RIGHT_RADIUS)
            case "turn left":
                return around_corner(own[0], self.lanes["cross forward"][0], _LEFT_RADIUS)
            case "u-turn":
                return u_turn(own[0], self.lanes["backward"][-1], _U_TURN_BEGIN)
            case _:
                return straight_on(own[-1])


# Who comes along an approach: itself, who comes towards it, on whose lanes a right and a left turn end.
_AROUND: dict[Approach, tuple[Approach, Approach, Approach, Approach]] = {
    "forward": ("forward", "backward", "cross backward", "cross forward"),
    "backward": ("backward", "forward", "cross forward", "cross backward"),
    "cross forward": ("cross forward", "cross backward", "forward", "backward"),
    "cross backward": ("cross backward", "cross forward", "backward", "forward"),
}


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def plan_junction(
    plan: RoadPlan, manoeuvre: Manoeuvre, crossing_time: float, duration: float, rng: np.random.Generator
) -> Junction:
    """The lanes with their lights; the ego vehicle has passed the junction (or may start) at `crossing_time`."""
    green = _lights(manoeuvre, crossing_time, duration, rng)
    counts: dict[Approach, int] = {
        "forward": plan.lanes, "backward": plan.lanes, "cross forward": 1, "cross backward": 1,
    }  # fmt: skip
    lanes: dict[Approach, tuple[Lane, ...]] = {}
    for number, (approach, count) in enumerate(counts.items()):
        cross, forward = approach.startswith("cross"), approach.endswith("forward")
        other_half = plan.main_half_width if cross else plan.cross_half_width
        lanes[approach] = tuple(
            Lane(
                10 * number + index,
                plan.cross_lane(forward) if cross else plan.lane(forward, index),
                -(other_half + LINE_BEFORE_CROSS),
                other_half + 5.0,
                green[approach],
            )
            for index in range(count)
        )
    return Junction(lanes)


def _lights(
    manoeuvre: Manoeuvre, crossing_time: float, duration: float, rng: np.random.Generator
) -> dict[Approach, tuple[float, float]]:
    """From when to when each approach has green; in most scenes the lights change once."""
    if manoeuvre == "stop and go":
        main, cross = (crossing_time, np.inf), (-np.inf, crossing_time - _ALL_RED)
        return {"forward": main, "backward": main, "cross forward": cross, "cross backward": cross}
    if manoeuvre in ("turn left", "u-turn"):
        # Those who come towards the ego vehicle wait until it has turned.
        released = (crossing_time + 0.5, np.inf)
        return {"forward": ALWAYS, "backward": released, "cross forward": NEVER, "cross backward": NEVER}
    # In half of the scenes those who come towards the ego vehicle have had to wait for others to turn left.
    wait_over = float(rng.uniform(0.0, 0.4)) * duration if rng.random() < 0.5 else -np.inf
    if rng.random() < 0.3:
        backward = (wait_over, np.inf)
        return {"forward": ALWAYS, "backward": backward, "cross forward": NEVER, "cross backward": NEVER}
    change = max(crossing_time + 0.5, float(rng.uniform(0.2, 0.7)) * duration)
    main, cross = (-np.inf, change), (change + _ALL_RED, np.inf)
    backward = (min(wait_over, change), change)
    return {"forward": main, "backward": backward, "cross forward": cross, "cross backward": cross}
