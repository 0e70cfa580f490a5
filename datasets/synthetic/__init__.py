"""A synthetic driving world, ray-cast by the nuScenes rig and written to disk as a nuScenes v1.0 dataset.

World coordinates: metres, z up, the origin near the scene's junction, the ground at z = 0; `global` in the tables is
the world moved by `World.global_offset` so that map masks start at (0, 0). Time: seconds since the scene's first
keyframe. Arrays are NumPy here: everything in this folder stands at a door (open3d, OpenCV, files).

`scenery` is what a scene looks like, `traffic` who moves through it, `world` puts both together; `pictures`, `lidar`,
`radar` and `can_bus` are what the vehicle's sensors make of it; `writing` brings it to disk.
"""
