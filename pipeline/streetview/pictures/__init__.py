"""Pixels of photos: opened, turned, cut from panoramas, encoded."""
