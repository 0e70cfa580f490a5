"""The labels of nuScenes-lidarseg: what each LiDAR point of a keyframe is."""

import numpy as np
from jaxtyping import Int32, UInt8

from datasets.arrays import Array
from datasets.synthetic.lidar.sweep import DROPLETS, OWN_VEHICLE, Sweep
from datasets.synthetic.rays import BACKGROUND
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.world import World

# In the order of their indices; the 23 that boxes can have are those of nuScenes itself.
CATEGORIES: tuple[str, ...] = (
    "noise", "animal",
    "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility", "human.pedestrian.police_officer", "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier", "movable_object.debris", "movable_object.pushable_pullable",
    "movable_object.trafficcone", "static_object.bicycle_rack",
    "vehicle.bicycle", "vehicle.bus.bendy", "vehicle.bus.rigid", "vehicle.car", "vehicle.construction",
    "vehicle.emergency.ambulance", "vehicle.emergency.police", "vehicle.motorcycle", "vehicle.trailer", "vehicle.truck",
    "flat.driveable_surface", "flat.other", "flat.sidewalk", "flat.terrain",
    "static.manmade", "static.other", "static.vegetation",
    "vehicle.ego",
)  # fmt: skip

# What stands and is none of these is made by man. The rules name curbs only beside grass, where they belong to it;
# ours all bound sidewalks.
_OF_MATERIAL: dict[Material, str] = {
    Material.ASPHALT: "flat.driveable_surface",
    Material.MARKING_WHITE: "flat.driveable_surface",
    Material.MARKING_YELLOW: "flat.driveable_surface",
    Material.SIDEWALK: "flat.sidewalk",
    Material.CURB: "flat.sidewalk",
    Material.GRASS: "flat.terrain",
    Material.GROUND: "flat.other",
    Material.BARK: "static.vegetation",
    Material.LEAVES: "static.vegetation",
    Material.LEAVES_DARK: "static.vegetation",
}
_LABELS: UInt8[Array, "K"] = np.array(
    [CATEGORIES.index(_OF_MATERIAL.get(material, "static.manmade")) for material in Material], np.uint8
)


def labels_file(version: str, sample_data_token: str) -> str:
    """Where the labels of a LiDAR keyframe are stored, relative to the dataset's root."""
    return f"lidarseg/{version}/{sample_data_token}_lidarseg.bin"


def labels_of(world: World, sweep: Sweep) -> UInt8[Array, "P"]:
    """The index in CATEGORIES of each point of a sweep.

    Points on the own vehicle are `vehicle.ego`, and so are those of beams that nothing answered: in the real labels
    too (nuscenes-devkit, issue 845). Drops of rain and fog are `noise`.
    """
    labels: UInt8[Array, P] = _LABELS[np.maximum(sweep.materials, 0)]
    users: Int32[Array, U] = np.array([CATEGORIES.index(user.category) for user in world.users], np.int32)
    owned = sweep.owners > BACKGROUND
    labels[owned] = users[sweep.owners[owned]]
    labels[sweep.owners == OWN_VEHICLE] = CATEGORIES.index("vehicle.ego")
    labels[sweep.owners == DROPLETS] = CATEGORIES.index("noise")
    return labels
