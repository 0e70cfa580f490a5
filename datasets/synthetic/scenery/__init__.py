"""What a scene looks like: surfaces, shapes, roads, and what stands beside them."""
