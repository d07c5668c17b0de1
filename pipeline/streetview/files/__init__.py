"""Photos of folders and tables."""
