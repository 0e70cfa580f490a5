"""What one evaluation can tell beyond its figures: how sure they are, for which boxes they hold, and which is better."""
