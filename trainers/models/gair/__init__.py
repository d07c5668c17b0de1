"""GAIR: its model, its encoders, how a place is read from an image, and what its losses are between."""
