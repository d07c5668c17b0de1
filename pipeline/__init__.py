"""What makes shards: regions, OSM features, imagery, street view, tokens, shards, catalog. Never imports torch."""
