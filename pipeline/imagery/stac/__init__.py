"""Scenes of STAC catalogs and APIs."""
