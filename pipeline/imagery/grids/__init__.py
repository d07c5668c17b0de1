"""Where a raster lies on a round earth."""
