"""Detections of one moment after another become tracks."""
