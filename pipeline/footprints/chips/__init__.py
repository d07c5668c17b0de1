"""Image chips that lie in a folder, as footprints."""
