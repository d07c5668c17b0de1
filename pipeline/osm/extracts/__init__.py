"""OSM extracts to feature tables: each object whole and once."""
