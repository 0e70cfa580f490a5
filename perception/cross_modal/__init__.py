"""Sensors that see the same place should say the same of it: losses between their BEVs."""
