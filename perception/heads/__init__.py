"""From the fused BEV to 3D boxes and other answers: what is asked of it, how it learns, how boxes are read from it."""
