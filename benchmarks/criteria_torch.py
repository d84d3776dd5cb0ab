"""Do the library and Torch-Pruning choose the same units of the same weights?

    python -m benchmarks.criteria_torch --torch-python=VENV/bin/python

(VENV holds requirements-bench.txt.) A LeNet-5 and a ResNet-8 with random weights, batch
normalisations included, in both frameworks; L1, L2 and the batch-norm scale; the same share of
every group, and the lowest of all groups together. Torch-Pruning's side is
benchmarks/torch_pruning_peer.py. Before choices are compared, both networks have to compute the
same outputs. Where the two define a score differently, one side is set to the other's definition:

    l1               the mean over all kernels that make or read a unit; Torch-Pruning without its
                     batch normalisations, ours with members='both', scale='none'
    l2, squared      the same of the sums of squares, which Torch-Pruning calls L2 (`Squares` below)
    l2, one kernel   the norm of the one kernel that makes a unit (members='made'); Torch-Pruning
                     with the reduction 'first' and a root as its normaliser; groups with several
                     makers are left out, and in the global scope only LeNet-5 is compared
    batch_norm       the mean of |gamma| over a group's normalisations: both by default
    defaults         Torch-Pruning's and our L2 as they come, to say how often that differs

Where all units of a group are among the lowest of the network, we keep its best one and
Torch-Pruning leaves the whole group as it is; such choices are counted (`emptied`), not compared.

Written to results/compare/torch_pruning.json; the benchmark fails if equal definitions differ.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record, turns
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import leaf_paths
from dynhp_jax.models.registry import build
from dynhp_jax.pruning.criteria import registry, score
from dynhp_jax.pruning.criteria.evidence import Evidence
from dynhp_jax.pruning.criteria.kernels import Coupled
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.pruning.targets import Units
from dynhp_jax.training.network import Network, whole_network
from experiments import commandline

RATIOS = (0.25, 0.5, 0.75)
COUNTS = ("groups", "same_groups", "units", "same_units", "emptied")
NETWORKS = {
    "LeNet-5": build("lenet", (28, 28, 1), 10),
    "ResNet-8": build("resnet", (32, 32, 3), 10, depth=8),
}


@dataclasses.dataclass(frozen=True)
class Squares(Coupled):
    """The sum of squares of a unit's weights."""

    def of_kernel(self, weights: jax.Array) -> jax.Array:
        """[units, numbers] -> [units]."""
        return jnp.sum(weights**2, axis=1)


OURS = {
    "l1": registry.get_criterion("l1", members="both", scale="none"),
    "l2, squared": Squares(members="both", scale="none"),
    "l2, one kernel": registry.get_criterion("l2", scale="none"),
    "batch_norm": registry.get_criterion("batch_norm"),
    "defaults": registry.get_criterion("l2"),
}


def drawn(network: Network, seed: int) -> dict[str, Any]:
    """Variables whose every number is random; scales and variances around 1."""
    generator = np.random.default_rng(seed)
    shapes = network.model.shapes()
    leaves = []
    for path, leaf in zip(leaf_paths(shapes), jax.tree.leaves(shapes), strict=True):
        values = generator.normal(size=leaf.shape).astype(np.float32)
        if path.endswith(("scale", "var")):
            values = np.exp(0.3 * values)
        elif leaf.ndim > 1:
            values *= np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        leaves.append(values)
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def to_torch(variables: Mapping[str, Any], channels: int) -> dict[str, np.ndarray]:
    """PyTorch's parameters by name.

    Args:
      variables: of a LeNet-5 or a ResNet.
      channels: those that the flattening in front of `hidden_1` interleaves.

    Returns:
      Kernels with the outputs first. PyTorch flattens channel by channel, Flax position by
      position, so the rows of `hidden_1` come in another order.
    """
    names = {"kernel": "weight", "scale": "weight", "bias": "bias",
             "mean": "running_mean", "var": "running_var"}  # fmt: skip
    found = {}
    for path, leaf in zip(leaf_paths(variables), jax.tree.leaves(variables), strict=True):
        _, *layer, last = path.split("/")
        leaf = np.asarray(leaf)
        if last == "kernel" and layer == ["hidden_1"]:
            by_position = leaf.reshape(-1, channels, leaf.shape[1])
            leaf = by_position.transpose(1, 0, 2).reshape(leaf.shape)
        if last == "kernel":
            leaf = leaf.T if leaf.ndim == 2 else leaf.transpose(3, 2, 0, 1)
        found[".".join((*layer, names[last]))] = np.ascontiguousarray(leaf)
    return found


def makers(network: Network, name: str) -> str:
    """The layers that make the units of a group, as the peer names groups."""
    paths = {m.path for m in network.groups[name].members if m.role == "out"}
    return " ".join(sorted(path.split("/", 1)[1].rsplit("/", 1)[0].replace("/", ".")
                           for path in paths))  # fmt: skip


def kept(
    network: Network, variables: Any, importance: str, scope: str, ratio: float
) -> dict[str, np.ndarray]:
    """Our choice: {makers: units that stay}."""
    seen = Evidence(network.evaluate, network.groups, variables, names=tuple(network.groups))
    scores = score.score(OURS[importance], seen)
    sizes = [group.size for group in network.groups.values()]
    if scope == "global":
        most = int(sum(sizes) * (1 - ratio))
    else:
        most = sum(int(size * (1 - ratio)) for size in sizes)
    pruned = prune_to(scores, network.groups, Units(most), scope=scope)
    return {makers(network, name): keep for name, keep in pruned.keeps.items()}


def settings_of(network: Network) -> dict[str, Any]:
    """What the peer builds its model from."""
    spec, ratios = network.model, list(RATIOS)
    if spec.model == "lenet":
        return {"model": "lenet", "convs": spec.convs, "hidden": spec.hidden[0], "ratios": ratios}
    return {"model": "resnet", "streams": spec.streams, "inner": spec.inner, "ratios": ratios}


def compared(network: Network, variables: Any, theirs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for every importance, scope and ratio: groups, and units, with the same decision."""
    whole = {makers(network, name): group.size for name, group in network.groups.items()}
    single = {name for name in whole if " " not in name}
    lines = []
    for each in theirs["choices"]:
        names = set(whole)
        if each["importance"] == "l2, one kernel" and names != single:
            if each["scope"] == "global":
                continue
            names = single
        asked = (each["importance"], each["scope"], each["ratio"])
        about = {key: each[key] for key in ("importance", "scope", "ratio")}
        if not names <= each["kept"].keys():
            lines.append(about | dict.fromkeys(COUNTS, 0) | {"emptied": 1})
            continue
        ours, same, units = kept(network, variables, *asked), 0, 0
        for name in names:
            left = set(each["kept"][name])
            differing = left.symmetric_difference(ours[name].tolist())
            same += not differing
            units += whole[name] - len(differing)
        counts = (len(names), same, sum(whole[name] for name in names), units, 0)
        lines.append(about | dict(zip(COUNTS, counts, strict=True)))
    return lines


def ask(network: Network, variables: Any, x: np.ndarray, python: str) -> dict[str, Any]:
    """Torch-Pruning's logits and choices."""
    last = network.model.convs[-1] if network.model.model == "lenet" else 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.npz")
        np.savez(path, x=x.transpose(0, 3, 1, 2), **to_torch(variables, last))
        command = [python, "-m", "benchmarks.torch_pruning_peer", str(path),
                   json.dumps(settings_of(network))]  # fmt: skip
        done = subprocess.run(command, cwd=turns.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def main(argv: Sequence[str]) -> None:
    """Compares, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--draws", type=int, default=5, help="of weights, for each network")
    parser.add_argument("--out", type=Path, default=Path("results/compare/torch_pruning.json"))
    flags = parser.parse_args(argv[1:])
    result = record.head(
        f"python -m benchmarks.criteria_torch --draws={flags.draws} --torch-python=VENV/bin/python"
    )
    different = []
    for title, spec in NETWORKS.items():
        network, lines, apart = whole_network(spec, (), inputs=False), [], 0.0
        for seed in range(flags.draws):
            variables = drawn(network, seed)
            x = np.random.default_rng(seed).normal(size=(4, *spec.input_shape)).astype(np.float32)
            theirs = ask(network, variables, x, flags.torch_python)
            logits = np.asarray(network.evaluate(variables, x))
            gap = np.abs(logits - np.asarray(theirs["logits"])).max() / np.abs(logits).max()
            apart = max(apart, float(gap))
            lines += compared(network, variables, theirs)
        if apart > 1e-4:
            raise UserError(f"{title}: the outputs of the two frameworks are {apart:.1e} apart")
        sums: dict[tuple, dict[str, int]] = {}
        for line in lines:
            key = (line["importance"], line["scope"])
            total = sums.setdefault(key, dict.fromkeys(COUNTS, 0))
            for name in total:
                total[name] += line[name]
        result["torch_side"] = theirs["versions"]
        result[title] = {
            "largest_relative_difference_of_outputs": apart,
            "agreement": [
                {"importance": importance, "scope": scope, **total,
                 "share_of_groups": total["same_groups"] / total["groups"],
                 "share_of_units": total["same_units"] / total["units"]}
                for (importance, scope), total in sums.items()
            ],
        }  # fmt: skip
        for line in result[title]["agreement"]:
            print(title, line["importance"], line["scope"], f"{line['share_of_groups']:.4f}",
                  f"{line['share_of_units']:.4f}")  # fmt: skip
            if line["importance"] != "defaults" and line["share_of_groups"] < 1:
                different.append(f"{title}, {line['importance']}, {line['scope']}")
    record.write(flags.out, result)
    if different:
        raise UserError(f"of equal definitions, these choices differ: {'; '.join(different)}")


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
