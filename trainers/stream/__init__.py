"""From a dataset directory to batches: order, index, read, decode, augment, batch."""
