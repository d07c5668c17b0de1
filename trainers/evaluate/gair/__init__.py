"""GAIR on held-out ground: retrieval, localisation, shifted queries, sampling, locations, probes (docs/gair.md)."""
