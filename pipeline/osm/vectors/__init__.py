"""OSM objects from vector files beside image chips."""
