"""Members of samples: read by offset, decoded."""
