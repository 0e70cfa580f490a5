"""From sensor files to tensors: sweeps, pictures, points in boxes."""
