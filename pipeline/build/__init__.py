"""From settings to a dataset directory: the stages, one after another."""
