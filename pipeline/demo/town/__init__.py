"""The demo town as a plan and a map."""
