"""What a nuScenes dataset is like in numbers: its sensors' returns, its boxes, its clocks."""
