"""Formats on the wire and on disk: protocol buffers, OSM PBF, vector tiles, tar. Bytes in, arrays out."""
