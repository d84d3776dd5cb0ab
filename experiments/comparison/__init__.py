"""The parts of experiments/compare.py: criteria beside each other, at equal sizes and epochs."""
