"""The small synthetic world that tests share: two scenes (one of each official mini split) of three keyframes."""

from datasets.synthetic.config import WorldConfig

SMALL_WORLD = WorldConfig(scenes=2, keyframes=3, image_width=160, seed=7)
