"""Which images a footprint has: files become scenes, scenes stand in an order, and a plan says what comes of it."""
