"""Everything that is wrong with a nuScenes dataroot, told in one pass (`bevel data check`)."""
