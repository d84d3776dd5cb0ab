"""The leaves of pytrees by name: '/'-joined key paths, and those of a function's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Path = str


class InputPath(str):
    """The path of a leaf of the inputs: `inputs/0`.

    A type of its own, since no name is safe: variables may be called `inputs/w`, or anything else.
    """

    __slots__ = ()


def leaf_paths(tree: Any) -> list[Path]:
    """'/'-joined key path of every leaf, in the order of `jax.tree.leaves`."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def path_name(path: Sequence[Any]) -> Path:
    """A key path as text: `params/Dense_0/kernel`."""
    return "/".join(_key(entry) for entry in path)


def below(prefix: str) -> Callable[[Path], bool]:
    """Tells the paths of leaves below a prefix, or at it; of all but the inputs if it is empty."""
    start = prefix + "/" if prefix else ""

    def is_below(path: Path) -> bool:
        return (path == prefix or path.startswith(start)) and not isinstance(path, InputPath)

    return is_below


def of_variables(by_path: Mapping[Path, Any]) -> dict[Path, Any]:
    """The entries for leaves of the variables, without the inputs."""
    return {path: entry for path, entry in by_path.items() if not isinstance(path, InputPath)}


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
