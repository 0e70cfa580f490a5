"""nuScenes v1.0 in and out: tables, sensor files, frames, results, the official metric."""
