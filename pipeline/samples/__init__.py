"""Planned footprints in, one tar and its index rows out."""
