"""What each class looks like and how large it is: sizes drawn around the means of nuScenes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.synthetic import furniture, people, vehicles
from datasets.synthetic.materials import CLOTHES, PAINTS, Material
from datasets.synthetic.meshes import Mesh

Kind = Literal[
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
]

CATEGORY_OF_KIND: dict[Kind, str] = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
}

# Mean width, length, height (metres) of the class in nuScenes, and the relative spread drawn around it.
_MEAN_WLH: dict[Kind, tuple[float, float, float]] = {
    "car": (1.95, 4.62, 1.73),
    "truck": (2.51, 6.93, 2.84),
    "construction_vehicle": (2.73, 6.37, 3.19),
    "bus": (2.94, 11.1, 3.47),
    "trailer": (2.90, 12.3, 3.87),
    "barrier": (2.53, 0.50, 0.98),
    "motorcycle": (0.77, 2.11, 1.47),
    "bicycle": (0.60, 1.70, 1.28),
    "pedestrian": (0.67, 0.73, 1.77),
    "traffic_cone": (0.41, 0.41, 1.07),
}
_SPREAD: dict[Kind, float] = {"car": 0.07, "truck": 0.14, "barrier": 0.04, "pedestrian": 0.06, "bus": 0.05}


@dataclass(frozen=True)
class RadarLook:
    """How strongly a kind reflects a radar, dBsm.

    `front`, `rear` and `side` are the flashes that two metres of a face throw back when they are seen squarely;
    `outline` is each place of the outline (a corner, a wheel housing) that reflects over a wide angle.
    """

    front: float
    rear: float
    side: float
    outline: float


# Vehicles behave like plates and trihedrals, motorcycles like cylinders (Suzuki, 7th ITS World Congress 2000), people
# are the weakest (77 GHz: Fortuny-Guasch and Chareau, JRC report EUR 25762, 2013). The levels are set so that the
# strongest return in a box has the RCS it has in the boxes of nuScenes keyframes (docs/synthetic-world.md).
RADAR_LOOKS: dict[Kind, RadarLook] = {
    "car": RadarLook(front=13.0, rear=15.0, side=16.0, outline=1.0),
    "truck": RadarLook(front=22.0, rear=26.0, side=24.0, outline=7.0),
    "construction_vehicle": RadarLook(front=16.0, rear=18.0, side=17.0, outline=7.0),
    "bus": RadarLook(front=22.0, rear=25.0, side=24.0, outline=6.0),
    "trailer": RadarLook(front=23.0, rear=26.0, side=24.0, outline=7.0),
    "barrier": RadarLook(front=0.0, rear=0.0, side=-8.0, outline=-8.0),
    "motorcycle": RadarLook(front=0.0, rear=2.0, side=7.0, outline=-2.0),
    "bicycle": RadarLook(front=-4.0, rear=-3.0, side=3.0, outline=-5.0),
    "pedestrian": RadarLook(front=-1.0, rear=-1.0, side=-3.0, outline=-8.0),
    "traffic_cone": RadarLook(front=-9.0, rear=-9.0, side=-9.0, outline=-15.0),
}

# Annotated boxes stand a little off the surface, as hand-drawn ones do; the bottom stays on the ground.
BOX_MARGIN = 0.03


@dataclass(frozen=True)
class Body:
    """One object's mesh (centred on the ground under its middle, looking along x) and its annotated size.

    `with_rider` is None for what cannot be ridden.
    """

    kind: Kind
    size_wlh: tuple[float, float, float]
    mesh: Mesh
    with_rider: bool | None


def draw_body(kind: Kind, rng: np.random.Generator, *, rider: bool = False, walking: bool = False) -> Body:
    """A random body of this kind. `rider` matters for cycles, `walking` for pedestrians."""
    common = 1.0 + 0.6 * _SPREAD.get(kind, 0.08) * float(rng.standard_normal())
    own = 1.0 + 0.6 * _SPREAD.get(kind, 0.08) * rng.standard_normal(3)
    width, length, height = (
        float(mean * np.clip(common * factor, 0.75, 1.3)) for mean, factor in zip(_MEAN_WLH[kind], own, strict=True)
    )
    if kind in ("motorcycle", "bicycle"):
        height *= 1.15 if rider else 0.82
    mesh = _draw_mesh(kind, (width, length, height), rng, rider, walking)
    fitted = mesh.fitted(length - 2 * BOX_MARGIN, width - 2 * BOX_MARGIN, height - BOX_MARGIN)
    with_rider = rider if kind in ("motorcycle", "bicycle") else None
    return Body(kind, (round(width, 3), round(length, 3), round(height, 3)), fitted, with_rider)


def _draw_mesh(
    kind: Kind, size_wlh: tuple[float, float, float], rng: np.random.Generator, rider: bool, walking: bool
) -> Mesh:
    width, length, height = size_wlh
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    shirt, trousers = (CLOTHES[int(i)] for i in rng.integers(len(CLOTHES), size=2))
    bright = (Material.PAINT_WHITE, Material.PAINT_SILVER, Material.PAINT_BLUE, Material.PAINT_BEIGE)
    cargo = bright[int(rng.integers(len(bright)))]
    rider_shirt = shirt if rider else None
    match kind:
        case "car":
            return vehicles.car(length, width, height, paint)
        case "truck":
            return vehicles.truck(length, width, height, paint, cargo)
        case "bus":
            return vehicles.bus(length, width, height, paint)
        case "trailer":
            return vehicles.trailer(length, width, height, cargo)
        case "construction_vehicle":
            return vehicles.construction_vehicle(length, width, height)
        case "motorcycle":
            return people.motorcycle(length, width, paint, rider_shirt)
        case "bicycle":
            return people.bicycle(length, width, paint, rider_shirt)
        case "pedestrian":
            return people.pedestrian(height, shirt, trousers, float(rng.uniform(0.35, 0.6)) if walking else 0.0)
        case "barrier":
            return furniture.barrier(width, length, height)
        case "traffic_cone":
            return furniture.traffic_cone(width, height)
