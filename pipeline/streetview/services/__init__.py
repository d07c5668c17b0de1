"""Photo services of the web."""
