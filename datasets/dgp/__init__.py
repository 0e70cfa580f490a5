"""From a dataset in DGP format to LogFrames (github.com/TRI-ML/dgp: DDAD and others; synchronized scenes, version 1).

What is converted at this door, and how:

- ego: DGP's vehicle frame as it is: x forward, y left, z up, origin below the rear axle. That it lies on the ground
  is not promised; in the test scene the road is 0.0 to 0.2 m below it.
- cam: DGP's camera frame as it is: x right, y down, z forward. `extrinsics` are ego_from_sensor.
- A datum's `pose` is global_from_sensor at its own time: global_from_ego = pose @ invert(ego_from_sensor).
- LiDAR points are in the LiDAR's frame. Intensity 0..1 becomes 0..255; DGP has no beam numbers: ring is -1.
- A box's pose is lidar_from_box, x along its length, y along its width: that is how Bevel counts yaw, too. Velocities
  are differences along an instance's track, by the rule of nuScenes' `box_velocity`.
- Cameras get the names of the cameras of nuScenes that look the same way (CHANNELS). DGP has no radar.
"""
