"""How the loss goes on: expected, and as it is not exceeded with high probability."""
