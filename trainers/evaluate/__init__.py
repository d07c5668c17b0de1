"""What a model has learned: losses, retrieval, probes and downstream heads on held-out ground."""
