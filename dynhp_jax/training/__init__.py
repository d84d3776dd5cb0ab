"""Training with pruning: the engine, from a config to a smaller network."""
