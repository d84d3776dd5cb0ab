"""The parts of `python -m experiments.reproduce`."""
