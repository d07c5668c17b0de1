"""What consumes shards: the stream, the models, the training engine and their entry points."""
