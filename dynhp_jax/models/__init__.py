"""Models shipped: Flax Linen modules, each rebuilt from a frozen spec of its widths."""
