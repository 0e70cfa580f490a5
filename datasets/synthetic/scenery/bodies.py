"""What each class looks like and how large it is: sizes drawn around the means of nuScenes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.synthetic.scenery import furniture, people, vehicles
from datasets.synthetic.scenery.materials import CLOTHES, PAINTS, Material
from datasets.synthetic.scenery.meshes import Mesh

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
Person = Literal["adult", "child", "construction_worker"]
# What the object is doing for the whole scene, as far as its mesh shows it.
Posture = Literal["resting", "ridden", "walking"]

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

# Mean width, length, height (metres) of the class over nuScenes' training scenes (the anchors of PointPillars for
# nuScenes in OpenPCDet and mmdetection3d).
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
# Standard deviation of width, length, height as a share of the mean, over the objects (not their annotations) of
# v1.0-mini's validation scenes and scene-0061; of what these lack, like a similar class.
_SPREAD_WLH: dict[Kind, tuple[float, float, float]] = {
    "car": (0.08, 0.085, 0.115),
    "truck": (0.12, 0.24, 0.20),
    "construction_vehicle": (0.12, 0.20, 0.15),
    "bus": (0.03, 0.12, 0.05),
    "trailer": (0.06, 0.20, 0.10),
    "barrier": (0.033, 0.074, 0.07),
    "motorcycle": (0.11, 0.13, 0.07),
    "bicycle": (0.15, 0.09, 0.08),
    "pedestrian": (0.17, 0.20, 0.06),
    "traffic_cone": (0.18, 0.15, 0.24),
}
# Width, length and height of an object vary together: their logarithms correlate by about this in all classes.
_CORRELATION = 0.45
_CHILD_HEIGHT = (0.62, 0.85)


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
# strongest return in a box has the RCS it has in the boxes of nuScenes keyframes.
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
# A walking cycle is two steps; a bicycle's gear carries it this far with each turn of the cranks (metres).
_GAIT_PHASES, _STEP_PER_HEIGHT, _PER_CRANK_TURN = 8, 0.41, 4.2


@dataclass(frozen=True)
class Body:
    """One object's mesh (centred on the ground under its middle, looking along x) and its annotated size.

    `with_rider` is None for what cannot be ridden. `postures` holds the meshes of one cycle of steps or pedal turns,
    evenly spaced over `gait_length` metres of way, all with the same triangles; what is rigid has one.
    """

    kind: Kind
    category: str
    size_wlh: tuple[float, float, float]
    postures: tuple[Mesh, ...]
    with_rider: bool | None
    gait_length: float = 1.0

    @property
    def mesh(self) -> Mesh:
        """In its first posture."""
        return self.postures[0]

    def posture(self, travelled: float) -> int:
        """The number of the posture after so many metres of way."""
        return int(travelled / self.gait_length * len(self.postures)) % len(self.postures)


def draw_body(kind: Kind, rng: np.random.Generator, posture: Posture = "resting", person: Person | None = None) -> Body:
    """A random body of this kind; of people, one in eight is a child where it is not said who it is."""
    if kind == "pedestrian" and person is None:
        person = "child" if rng.random() < 0.12 else "adult"
    width, length, height = _draw_size(kind, rng)
    if kind in ("motorcycle", "bicycle"):
        height *= 1.15 if posture == "ridden" else 0.82
    if person == "child":
        smaller = float(rng.uniform(*_CHILD_HEIGHT))
        width, length, height = width * smaller, length * smaller, height * smaller
    size_wlh = (round(width, 3), round(length, 3), round(height, 3))
    meshes = _draw_meshes(kind, size_wlh, rng, posture, person)
    inside = (size_wlh[1] - 2 * BOX_MARGIN, size_wlh[0] - 2 * BOX_MARGIN, size_wlh[2] - BOX_MARGIN)
    fitted = tuple(mesh.fitted(*inside, reference=meshes[0]) for mesh in meshes)
    return Body(
        kind,
        CATEGORY_OF_KIND[kind] if person is None else f"human.pedestrian.{person}",
        size_wlh,
        fitted,
        posture == "ridden" if kind in ("motorcycle", "bicycle") else None,
        2 * _STEP_PER_HEIGHT * height if kind == "pedestrian" else _PER_CRANK_TURN,
    )


def _draw_size(kind: Kind, rng: np.random.Generator) -> tuple[float, float, float]:
    shared, own = float(rng.standard_normal()), rng.standard_normal(3)
    deviations = np.sqrt(_CORRELATION) * shared + np.sqrt(1 - _CORRELATION) * own
    factors = np.exp(np.clip(deviations, -2.2, 2.2) * np.array(_SPREAD_WLH[kind]))
    width, length, height = (float(v) for v in np.array(_MEAN_WLH[kind]) * factors)
    return width, length, height


def _draw_meshes(
    kind: Kind, size_wlh: tuple[float, float, float], rng: np.random.Generator, posture: Posture, person: Person | None
) -> list[Mesh]:
    """The mesh, or those of a whole gait; the first one reaches furthest."""
    width, length, height = size_wlh
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    shirt, trousers = (CLOTHES[int(i)] for i in rng.integers(len(CLOTHES), size=2))
    clothes = people.Clothes(shirt, trousers)
    if person == "construction_worker":
        clothes = people.Clothes(Material.VEST, trousers, Material.MACHINE_YELLOW)
    bright = (Material.PAINT_WHITE, Material.PAINT_SILVER, Material.PAINT_BLUE, Material.PAINT_BEIGE)
    cargo = bright[int(rng.integers(len(bright)))]
    rider = clothes if posture == "ridden" else None
    match kind:
        case "pedestrian":
            if posture != "walking":
                return [people.pedestrian(height, clothes, 0.0)]
            step = _STEP_PER_HEIGHT * height
            return _gait(*(people.pedestrian(height, clothes, stride) for stride in (step, 0.0, -step)))
        case "bicycle":
            if rider is None:
                return [people.bicycle(length, width, paint, None)]
            return _gait(*(people.bicycle(length, width, paint, rider, angle) for angle in (0.0, np.pi / 2, np.pi)))
        case "motorcycle":
            return [people.motorcycle(length, width, paint, rider)]
        case "car":
            return [vehicles.car(length, width, height, paint)]
        case "truck":
            return [vehicles.truck(length, width, height, paint, cargo)]
        case "bus":
            return [vehicles.bus(length, width, height, paint)]
        case "trailer":
            return [vehicles.trailer(length, width, height, cargo)]
        case "construction_vehicle":
            return [vehicles.construction_vehicle(length, width, height)]
        case "barrier":
            return [furniture.barrier(width, length, height)]
        case "traffic_cone":
            return [furniture.traffic_cone(width, height)]


def _gait(foremost: Mesh, between: Mesh, rearmost: Mesh) -> list[Mesh]:
    """A cycle through three postures a quarter apart, and back: feet go around, or to and fro."""
    middle, swing = (foremost.vertices + rearmost.vertices) / 2, (foremost.vertices - rearmost.vertices) / 2
    angles = 2 * np.pi * np.arange(_GAIT_PHASES) / _GAIT_PHASES
    return [
        Mesh(
            (middle + np.cos(a) * swing + np.sin(a) * (between.vertices - middle)).astype(np.float32),
            foremost.triangles,
            foremost.materials,
        )
        for a in angles
    ]
