"""What one evaluation tells beyond its figures: how sure they are, for which boxes they hold, which one is better."""
