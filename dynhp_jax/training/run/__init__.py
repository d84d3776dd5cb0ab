"""A run from epoch to epoch: what the host decides, and what a checkpoint holds."""
