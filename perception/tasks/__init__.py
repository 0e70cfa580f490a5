"""What the network can learn beside boxes, and how much each task weighs."""
