"""The parts of `experiments.frontier`: error against bytes, by every method's own recipe."""
