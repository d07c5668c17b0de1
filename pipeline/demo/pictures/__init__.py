"""Pictures of the demo town."""
