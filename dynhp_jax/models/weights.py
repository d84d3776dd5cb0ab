"""Weights in a file, and how a network starts from them: NumPy archives that need no pickle.

An archive has an array for each variable, by its path (`params/stem/kernel`), as `write` makes it
of any variables; or it has the 8-bit weights of `models.folded`.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.disk import write_bytes
from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path as Name
from dynhp_jax.common.tree_paths import below, leaf_paths
from dynhp_jax.models import folded as folded_nets
from dynhp_jax.models.spec import Spec

EPSILON = 1e-5  # of `layers.batch_norm`
STATISTICS = "batch_stats"


def write(path: Path, variables: Mapping[str, Any]) -> None:
    """Writes all variables or nothing.

    Args:
      path: of the file, whose folder is there.
      variables: {'params': ..., and maybe other collections}.
    """
    arrays = map(np.asarray, jax.tree.leaves(variables))
    content = io.BytesIO()
    np.savez(content, **dict(zip(leaf_paths(variables), arrays, strict=True)))
    write_bytes(path, content.getvalue())


def read(path: str | Path) -> dict[Name, np.ndarray]:
    """The variables of a file by their paths, float32; no code in it is run.

    Raises:
      UserError: there is no such file, or it is no archive of weights.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "description" in archive.files:
                variables = folded_nets.load(path)[1]
                leaves = map(np.asarray, jax.tree.leaves(variables))
                return dict(zip(leaf_paths(variables), leaves, strict=True))
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(
            f"there is no file {str(path)!r}; set config.start.weights to the archive (.npz) of the"
            " weights, or to '' for random ones"
        ) from None
    except (ValueError, TypeError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{str(path)!r} is no archive of weights ({type(error).__name__}: {error}); allowed:"
            " an .npz of arrays by the paths of variables, without pickles"
        ) from None
    wrong = [n for n, array in arrays.items() if array.dtype.kind != "f" or "/" not in n]
    if wrong or not arrays:
        raise UserError(
            f"{str(path)!r} has {shown(wrong[0]) if wrong else 'nothing'}; allowed: arrays of"
            " floats by the paths of variables, such as 'params/stem/kernel'"
        )
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def folded(leaves: Mapping[Name, np.ndarray]) -> dict[Name, np.ndarray]:
    """The same network with every BatchNorm folded into the convolution before it.

    A BatchNorm `bn1` or `stem_bn` follows the convolution `conv1` or `stem`, whose bias takes what
    is left of it.

    Args:
      leaves: by path, with the stored statistics.

    Raises:
      UserError: a BatchNorm follows no convolution of such a name.
    """
    found = {name: leaf for name, leaf in leaves.items() if not name.startswith(STATISTICS)}
    for name in [name for name in leaves if re.fullmatch(rf"{STATISTICS}/.*/mean", name)]:
        norm = name.removeprefix(f"{STATISTICS}/").removesuffix("/mean")
        before = re.sub(r"bn(\d*)$", r"conv\1", norm).removesuffix("_conv")
        kernel = f"params/{before}/kernel"
        if kernel not in found or f"params/{norm}/scale" not in found:
            raise UserError(f"BatchNorm {norm!r} follows no convolution {before!r} to fold into")
        scale, shift = (found.pop(f"params/{norm}/{part}") for part in ("scale", "bias"))
        deviation = np.sqrt(leaves[f"{STATISTICS}/{norm}/var"] + np.float32(EPSILON))
        factor = scale / deviation
        found[kernel] = found[kernel] * factor
        found[f"params/{before}/bias"] = shift - leaves[name] * factor
    return found


def starting(spec: Spec, leaves: Mapping[Name, np.ndarray], seed: int, source: str) -> Any:
    """Variables of a network that starts from others, with a head of its own.

    Args:
      spec: of the network.
      leaves: by path; with a BatchNorm that the network has not, it is folded.
      seed: of the new head, which is drawn as in a network that starts at random.
      source: of the leaves, for messages.

    Raises:
      UserError: a leaf is missing, is one too many, or has another shape.
    """
    shapes, of_head = spec.shapes(), below(f"params/{spec.head}")
    names = leaf_paths(shapes)
    if STATISTICS not in shapes and any(name.startswith(STATISTICS) for name in leaves):
        leaves = folded(leaves)

    def new(key: jax.Array) -> dict[Name, jax.Array]:
        leaves = zip(names, jax.tree.leaves(spec.init(key)), strict=True)
        return {name: leaf for name, leaf in leaves if of_head(name)}

    head = jax.jit(new)(jax.random.key(seed))  # in which nothing else is drawn
    known = [name for name in names if not of_head(name)]
    for name in known:
        if name not in leaves:
            raise UserError(f"{source} has no {name!r}, which model {spec.model!r} needs; {_MODEL}")
    for name in leaves:
        if name not in known and not of_head(name):
            raise UserError(f"{source} has {name!r}, which model {spec.model!r} has not; {_MODEL}")

    def leaf(name: Name, own: jax.ShapeDtypeStruct) -> jax.Array:
        if name in head:
            return head[name]
        if leaves[name].shape != own.shape:
            raise UserError(
                f"{source} has {name!r} of shape {leaves[name].shape}, model {spec.model!r} of"
                f" {own.shape}; {_MODEL}"
            )
        return jnp.asarray(leaves[name])

    pairs = zip(names, jax.tree.leaves(shapes), strict=True)
    return jax.tree.structure(shapes).unflatten([leaf(*pair) for pair in pairs])


_MODEL = "give the model that the weights are of: config.model.name, width, depth or hidden"
