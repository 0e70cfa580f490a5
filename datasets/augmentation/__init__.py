"""Augmentation of training samples: everything about one place moves together."""
