"""Where samples lie: producers of footprints, which of them are built, and in which shard."""
