"""What the engine needs to know of each trainer: ``NAME.py`` holds the task ``NAME``, sizes and recipes beside it."""
