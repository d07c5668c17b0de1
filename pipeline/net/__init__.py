"""Everything that comes over HTTP: one client with retries and limits, and resumable downloads into the cache."""
