"""Data sets as device-ready arrays: embedded digits, MNIST, Fashion-MNIST, CIFAR-10."""

from dynhp_jax.data.loading import NAMES, Dataset, load

__all__ = ["NAMES", "Dataset", "load"]
