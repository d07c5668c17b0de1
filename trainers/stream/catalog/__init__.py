"""The index of a dataset: opened, selected, put in order."""
