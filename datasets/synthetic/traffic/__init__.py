"""Who moves through a scene, and how."""
