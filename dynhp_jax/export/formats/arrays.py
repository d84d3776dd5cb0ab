"""The arrays alone, for a program that has the model: NumPy's archive, and safetensors.

A leaf has its path as its name ('params/hidden_1/kernel'); beside the leaves are `gates/GROUP`, of
gates that are no part of the weights, and `inputs/0:1`, the positions that are read of an input's
axis. The sizes of a shipped model are there as JSON, by the name `spec`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.export.formats.format import Format, Source, outputs_of
from dynhp_jax.export.network import Finished


def arrays_of(network: Finished) -> dict[str, np.ndarray]:
    """All arrays of a network by name."""
    found = {path_name(path): np.asarray(leaf)
             for path, leaf in jax.tree_util.tree_leaves_with_path(network.variables)}  # fmt: skip
    found |= {f"gates/{name}": np.asarray(gate) for name, gate in network.gates.items()}
    return found | {
        f"{path}:{axis}": np.asarray(kept, np.int32)
        for (path, axis), kept in network.inputs.items()
    }


def spec_of(network: Finished) -> str:
    """The sizes of a shipped model as JSON; '' of another one."""
    return "" if network.spec is None else json.dumps(network.spec.to_dict())


class _Arrays(Format):
    def load(self, path: Path) -> dict[str, np.ndarray]:
        """The arrays of a file, by name."""
        raise NotImplementedError

    def open(self, files: Sequence[Path], source: Source) -> Any:
        network, held = source.network, self.load(files[0])
        variables = jax.tree_util.tree_map_with_path(
            lambda path, leaf: held[path_name(path)], network.variables
        )
        for name, array in arrays_of(network).items():
            np.testing.assert_array_equal(held[name], array)
        apply = jax.jit(network.apply)
        return lambda inputs: outputs_of(apply(variables, inputs))


class Npz(_Arrays):
    """NumPy's archive, compressed."""

    name = "npz"

    def write(self, source: Source, folder: Path) -> list[Path]:
        path = folder / f"{source.name}.npz"
        spec = spec_of(source.network)
        also = {"spec": np.array(spec)} if spec else {}
        np.savez_compressed(path, **arrays_of(source.network), **also)
        return [path]

    def load(self, path: Path) -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


class Safetensors(_Arrays):
    """Hugging Face's format, which holds no code."""

    name = "safetensors"
    packages = ("safetensors",)

    def write(self, source: Source, folder: Path) -> list[Path]:
        from safetensors.numpy import save_file

        path = folder / f"{source.name}.safetensors"
        spec = spec_of(source.network)
        arrays = {name: np.ascontiguousarray(x) for name, x in arrays_of(source.network).items()}
        save_file(arrays, path, metadata={"spec": spec} if spec else None)
        return [path]

    def load(self, path: Path) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return load_file(path)
