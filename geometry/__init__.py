"""Pure numpy on packed vertices: patch cover, anchors, painting. Used by the pipeline and by the stream alike.

Coordinates are pixels of a footprint unless a docstring says otherwise: x right, y down.
"""
