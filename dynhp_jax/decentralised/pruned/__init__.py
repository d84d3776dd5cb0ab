"""Nodes that prune themselves, each inside a byte budget of its own, and exchange what is left."""
