"""Trained weights in the forms that other software reads."""
