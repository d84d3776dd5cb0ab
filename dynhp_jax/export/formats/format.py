"""What a file format is to the programs: how it is written, and how what was written is run."""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.export.graph import Graph
from dynhp_jax.export.network import Finished
from dynhp_jax.export.reading import Missing, graph_of


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What is written.

    Attributes:
      network: the finished one.
      calibration: some inputs [examples, ...], for formats that choose ranges by them, or None.
      name: of the network, an identifier: files and functions have it.
    """

    network: Finished
    calibration: Any = None
    name: str = "network"

    @functools.cached_property
    def graph(self) -> Graph:
        """Its operations.

        Raises:
          Missing: it computes something that no operation stands for.
        """
        return graph_of(self.network, self.network.example)


class Format(abc.ABC):
    """A kind of file. A new one is a file of this folder, and a line in `registry.FORMATS`.

    Attributes:
      name: on the command line.
      packages: what has to be importable to write it and to run it.
      tolerance: of the difference from the network that it was made of, by the largest output.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[float] = 1e-4

    def check(self, source: Source) -> None:
        """Raises UserError where the format cannot be written, before anything is."""
        lost = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if lost:
            raise UserError(
                f"format {self.name!r} needs {', '.join(lost)}, which is not installed; run"
                " pip install -e '.[export]', or leave the format out"
            )
        self.check_network(source)

    def check_network(self, source: Source) -> None:
        """Raises UserError for a network that the format cannot hold."""
        del source  # what holds arrays or a compiled program takes every network

    @abc.abstractmethod
    def write(self, source: Source, folder: Path) -> list[Path]:
        """Writes the files; the first one is what `run` loads."""

    @abc.abstractmethod
    def open(self, files: Sequence[Path], source: Source) -> Any:
        """What was written, as a function of whole inputs [examples, ...] that gives NumPy arrays.

        It may have more attributes, numbers that a table shows: `ram`, the bytes of memory that it
        takes for one example. Raises `Unrunnable` where that cannot be done here.
        """


class Unrunnable(Exception):
    """What was written cannot be run on this machine; the text says why."""


def check_kinds(source: Source, format_name: str, kinds: Sequence[str]) -> None:
    """Raises Missing for operations that are not among those of a format."""
    lost = [
        kind for kind in source.graph.kinds() if kind not in kinds and kind.split()[0] not in kinds
    ]
    if lost:
        raise Missing(
            f"format {format_name!r} has nothing for {', '.join(map(repr, lost))}, which this"
            " network computes; leave the format out"
        )


def outputs_of(found: Any) -> np.ndarray | list[np.ndarray]:
    """Outputs as NumPy arrays: one, or a list."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(found)]
    return leaves[0] if len(leaves) == 1 else leaves
