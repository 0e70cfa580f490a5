"""Where everything is: frames, transforms, cameras, ego motion, GPS.

The frames of the whole project, and the only place where they are defined:

| frame | axes | origin |
|---|---|---|
| `global` | the map's x, y; z up; metres | the log's map |
| `ego` | x forward, y left, z up | rear axle, on the ground |
| `cam` | x right, y down, z forward | optical centre |
| `lidar` | as mounted (nuScenes LIDAR_TOP: x right, y forward, z up) | the sensor |
| `radar` | x forward, y left, z up | the sensor |
| `img` | u right, v down, pixels | (0, 0) is the middle of the top left pixel |
| `bev` | row along ego y, column along ego x; cells | the grid's corner |

A transform is called `a_from_b`: coordinates in b go in, coordinates in a come out, and in a chain neighbours
match: `cam_from_lidar = invert(ego_from_cam) @ ego_from_lidar`. Time is a frame too: `ego_from_past_ego`.
Points carry their frame in their name (`points_ego`). Units are SI (metres, seconds, radians, m/s) unless the name
says otherwise (`timestamp_us`, `latitude` in degrees). Velocities are over ground. Yaw turns from x towards y.
Quaternions (w, x, y, z) appear only where files are read or written. Poses and calibration are float64.
"""
