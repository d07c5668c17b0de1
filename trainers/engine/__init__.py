"""The training engine: settings, loop, checkpoints, reports, command line. Knows no model by name."""
