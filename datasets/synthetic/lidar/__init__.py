"""What the LiDAR measures, and the labels of its points."""
