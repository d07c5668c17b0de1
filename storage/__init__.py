"""Where data lies: URLs and paths, atomic puts, locks, retries, the cache, byte ranges, the dataset directory."""
