"""Features cut to cells, merged, and read back near a footprint."""
