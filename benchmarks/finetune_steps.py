"""Bytes and seconds of a fine-tuning step: what is trained, what is kept, what runs in parts.

    python -m benchmarks.finetune_steps --network=convolutions
    python -m benchmarks.finetune_steps --network=mbv2-w0.35 --weights=../shared/data/weights

Two networks: six 3x3 convolutions with BatchNorm in evaluation mode and ReLU on 32 images of 32x32,
and the papers' MobileNetV2-w0.35 on 32 images of 64x64, with random weights where there is no file
of pretrained ones. Each step is compiled without the fusion of a CPU's convolutions, whose memory
XLA does not count, and that executable is timed: in turn with the others, the least of each. Bytes
are XLA's temporaries; parameters are donated, and what is aliased is checked to be all of them.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import record
from dynhp_jax import finetune
from dynhp_jax.common.tree_paths import leaf_paths
from dynhp_jax.finetune.policies import convolutions
from dynhp_jax.memory.fusion import FUSION
from dynhp_jax.models import folded

BATCH, RATE = 32, 0.05
WIDTHS, STRIDES = (32, 32, 64, 64, 128, 128), (1, 1, 2, 1, 2, 1)
COMPILED = {FUSION: ""}


class Step(NamedTuple):
    """A training step: `function(variables, *more, x, labels) -> (variables, *state, loss)`."""

    function: Callable
    more: tuple
    numbers: dict[str, Any]


def loss_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    return -jnp.mean(chosen)


def trained(apply: Callable, keep: Callable[[str], bool], mask: Any = None) -> Step:
    """SGD on the leaves that `keep` tells by path, with gradients times a mask, if there is one."""

    def function(variables: Any, x: jax.Array, labels: jax.Array) -> tuple:
        names = leaf_paths(variables)
        leaves, structure = jax.tree.flatten(variables)
        some = [leaf for name, leaf in zip(names, leaves, strict=True) if keep(name)]

        def loss(some: list) -> jax.Array:
            own = iter(some)
            given = [
                next(own) if keep(name) else leaf for name, leaf in zip(names, leaves, strict=True)
            ]
            return loss_of(apply(structure.unflatten(given), x), labels)

        value, gradients = jax.value_and_grad(loss)(some)
        own = iter(gradients)
        new = []
        for name, leaf in zip(names, leaves, strict=True):
            gradient = next(own) if keep(name) else None
            if gradient is not None and mask is not None and name in mask:
                gradient = gradient * mask[name]
            new.append(leaf if gradient is None else leaf - RATE * gradient)
        return structure.unflatten(new), value

    return Step(function, (), {})


def in_rows(apply: Callable, rows: Any, head: Callable[[str], bool], ranks: Any = None) -> Step:
    """SGD on chosen rows and on the head, perhaps of compressed data."""
    how, ranks, factors = ranks or ("hosvd", {}, {})
    narrowed = finetune.selected(apply, rows)
    function_of = finetune.compressed(narrowed, ranks, how) if ranks else None

    def function(variables: Any, rows: Any, factors: Any, x: jax.Array, labels: jax.Array) -> tuple:
        names = leaf_paths(variables)
        leaves, structure = jax.tree.flatten(variables)
        probes = finetune.zero_probes(variables, rows)
        some = [leaf for name, leaf in zip(names, leaves, strict=True) if head(name)]

        def loss(some: list, probes: Any) -> tuple:
            own = iter(some)
            given = structure.unflatten(
                next(own) if head(name) else leaf for name, leaf in zip(names, leaves, strict=True)
            )
            if function_of is None:
                return loss_of(narrowed(given, rows, probes, x), labels), factors
            logits, after = function_of(given, factors, rows, probes, x)
            return loss_of(logits, labels), after

        gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
        (value, after), (of_head, of_rows) = gradient(some, probes)
        own = iter(of_head)
        new = structure.unflatten(
            leaf - RATE * next(own) if head(name) else leaf
            for name, leaf in zip(names, leaves, strict=True)
        )
        updates = jax.tree.map(lambda g: -RATE * g, of_rows)
        return finetune.apply_rows(new, rows, updates), after, value

    count = sum(each.capacity for each in rows.values())
    return Step(function, (rows, factors), {"rows": count})


# -- six convolutions -----------------------------------------------------------------------------


def six_convolutions(batch: int = BATCH) -> tuple[Callable, Any, Any]:
    """(apply, variables, mini-batch) of the first network."""
    rng, read, params = np.random.default_rng(0), 3, {}
    for k, width in enumerate(WIDTHS):
        params[f"conv{k}"] = {
            "kernel": rng.normal(size=(3, 3, read, width)) * np.sqrt(2 / (9 * read)),
            "scale": np.ones(width),
            "bias": np.zeros(width),
            "mean": 0.1 * rng.normal(size=width),
            "var": rng.uniform(0.5, 1.5, width),
        }
        read = width
    params["head"] = {"kernel": 0.1 * rng.normal(size=(read, 10)), "bias": np.zeros(10)}

    def apply(variables: Any, x: jax.Array) -> jax.Array:
        for k, stride in enumerate(STRIDES):
            p = variables["params"][f"conv{k}"]
            x = lax.conv_general_dilated(
                x, p["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = (x - p["mean"]) * lax.rsqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]
            x = jax.nn.relu(x)
        head = variables["params"]["head"]
        return x.mean((1, 2)) @ head["kernel"] + head["bias"]

    examples = rng.normal(size=(batch, 32, 32, 3)), rng.integers(0, 10, batch)
    return apply, {"params": jax.tree.map(_array, params)}, tuple(map(_array, examples))


def steps_of_convolutions(apply: Callable, variables: Any, x: Any) -> Iterator[tuple[str, Any]]:
    """Name and step, in the order of the specification."""
    costs = finetune.channel_costs(apply, variables, x)
    kernels = convolutions(costs)
    bits = finetune.bit_activations(apply)

    def head(name: str) -> bool:
        return name.startswith("params/head")

    def frozen(name: str) -> bool:
        return name.endswith("kernel") or head(name)

    def affine(name: str) -> bool:
        return frozen(name) or name.endswith(("scale", "bias"))

    def rows(share: int, paths: list[str]) -> Any:
        counts = {path: max(1, costs[path].channels // share) for path in paths}
        some = {path: finetune.Quota(count, costs[path]) for path, count in counts.items()}
        return finetune.draw(jax.random.key(0), some)

    mask = {path: np.zeros(costs[path].layout.shape, "f4") for path in kernels}
    for path, each in rows(8, kernels).items():
        mask[path][..., np.asarray(each.index), :] = 1
    yield "forward only: the floor", Step(lambda v, x, y: (v, loss_of(apply(v, x), y)), (), {})
    yield "full, BN affine trained", trained(apply, affine)
    yield "full, BN frozen", trained(apply, frozen)
    yield "full kernels, bits", trained(bits, frozen)
    yield "whole gradient times a mask of 1/8", trained(apply, frozen, mask)
    yield "head", trained(apply, head)
    for last in (1, 2):
        paths = kernels[-last:]
        keep = lambda name, paths=paths: name in paths or head(name)  # noqa: E731
        yield f"head and last {last}", trained(apply, keep)
    yield "jax.checkpoint of all", trained(jax.checkpoint(apply), frozen)
    for share in (4, 8):
        yield f"1/{share} of all rows", in_rows(apply, rows(share, kernels), head)
        yield f"1/{share} of all rows, bits", in_rows(bits, rows(share, kernels), head)
    yield "1/4 of the last 3", in_rows(apply, rows(4, kernels[-3:]), head)


# -- MobileNetV2 ----------------------------------------------------------------------------------


def mobilenet(weights: Path | None) -> tuple[Callable, Any, Any]:
    """(apply, variables, mini-batch) of the second network."""
    name, rng = "mbv2-w0.35", np.random.default_rng(0)
    file = None if weights is None else weights / f"{name}.npz"
    if file is None:
        net = folded.FoldedNet(folded.MOBILENETV2.blocks, num_classes=10)
        variables = net.init(jax.random.key(0))
    else:
        net, variables = folded.load(file, num_classes=10)
    batch = rng.uniform(size=(BATCH, 64, 64, 3)), rng.integers(0, 10, BATCH)
    return net.apply, variables, tuple(map(_array, batch))


def steps_of_mobilenet(apply: Callable, variables: Any, x: Any) -> Iterator[tuple[str, Any]]:
    """Name and step."""
    costs = finetune.channel_costs(apply, variables, x)
    last = convolutions(costs)[-35:]
    rows = finetune.draw(jax.random.key(0), finetune.quotas(costs, last, 27_946))
    bits = finetune.bit_activations(apply)
    lowest = next(path for path in costs if path in rows)

    def head(name: str) -> bool:
        return name.startswith("params/classifier")

    def parts(function: Callable) -> Callable:
        return finetune.chunked_prefix(function, lowest, 4)

    yield "full", trained(apply, lambda name: True)
    yield "selected, bits, prefix in parts of 4", in_rows(parts(bits), rows, head)
    yield "selected, bits", in_rows(bits, rows, head)
    yield "selected, prefix in parts of 4", in_rows(parts(apply), rows, head)
    yield "head", trained(apply, head)
    in_fours = finetune.chunked_prefix(apply, "params/classifier/kernel", 4)
    yield "head, in parts of 4", trained(in_fours, head)
    points = [path for path in last if "pointwise" in path][-4:]
    for how in ("hosvd", "asi"):
        ranks, factors = finetune.calibrate(apply, variables, x, paths=points, how=how)
        yield f"last 4 pointwise, {how}", decomposed(apply, points, ranks, factors, how, head)
    yield "last 4 pointwise", trained(apply, lambda name: name in points or head(name))


def decomposed(
    apply: Callable, paths: list, ranks: Any, factors: Any, how: str, head: Callable
) -> Step:
    """SGD on whole kernels, of compressed data."""
    function_of = finetune.compressed(apply, ranks, how)

    def keep(name: str) -> bool:
        return name in paths or head(name)

    def function(variables: Any, factors: Any, x: jax.Array, labels: jax.Array) -> tuple:
        after: list = []

        def of(variables: Any, x: jax.Array) -> jax.Array:
            logits, found = function_of(variables, factors, x)
            after.append(lax.stop_gradient(found))
            return logits

        def loss(variables: Any) -> tuple:
            value = loss_of(of(variables, x), labels)
            return value, after.pop()

        gradient, found = jax.grad(loss, has_aux=True)(variables)
        names = iter(leaf_paths(variables))
        step = lambda p, g: p - RATE * g if keep(next(names)) else p  # noqa: E731
        return jax.tree.map(step, variables, gradient), found

    return Step(function, (factors,), {"ranks": ranks})


# -- measuring ------------------------------------------------------------------------------------


def measured(steps: Iterator, variables: Any, batch: tuple, rounds: int, only: str) -> list[dict]:
    """Compiles every step, then runs them in turn; a row each."""
    compiled, rows = {}, []
    for name, step in steps:
        if only and not any(part in name for part in only.split("|")):
            continue
        start = time.perf_counter()
        program = jax.jit(step.function, donate_argnums=0)
        compiled[name] = program.lower(variables, *step.more, *batch).compile(COMPILED), step
        memory = compiled[name][0].memory_analysis()
        parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
        rows.append(
            {
                "step": name,
                "MiB": memory.temp_size_in_bytes / 2**20,
                "aliased, all of the parameters": memory.alias_size_in_bytes >= parameters,
                "compile_seconds": time.perf_counter() - start,
                **step.numbers,
            }
        )
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "ranks"}), flush=True)
    least = dict.fromkeys(compiled, float("inf"))
    for _ in range(rounds):
        for name, (program, step) in compiled.items():
            own = jax.block_until_ready(jax.tree.map(jnp.copy, variables))
            start = time.perf_counter()
            jax.block_until_ready(program(own, *step.more, *batch))
            least[name] = min(least[name], time.perf_counter() - start)
    for row in rows:
        row["seconds"] = least[row["step"]] if rounds else None
    return rows


def _array(leaf: Any) -> jax.Array:
    leaf = np.asarray(leaf)
    return jnp.asarray(leaf, jnp.int32 if leaf.dtype.kind == "i" else jnp.float32)


NETWORKS = {
    "convolutions": (lambda weights: six_convolutions(), steps_of_convolutions),
    "mbv2-w0.35": (mobilenet, steps_of_mobilenet),
}


def main() -> None:
    """Measures one network and writes its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="convolutions")
    parser.add_argument("--weights", type=Path, help="folder of the pretrained weights")
    parser.add_argument("--rounds", type=int, default=5, help="0: bytes alone")
    parser.add_argument("--only", default="", help="parts of the names of steps, with | between")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    make, steps = NETWORKS[flags.network]
    apply, variables, batch = make(flags.weights)
    found = measured(steps(apply, variables, batch[0]), variables, batch, flags.rounds, flags.only)
    weights = "" if flags.weights is None else " --weights=../shared/data/weights"
    command = f"python -m benchmarks.finetune_steps --network={flags.network}{weights}"
    if flags.rounds != 5:
        command += f" --rounds={flags.rounds}"
    head = record.head(command, jax.devices()[0].device_kind)
    out = flags.out or Path("results/finetune") / f"steps_{flags.network}.json"
    record.write(out, {**head, "batch": BATCH, "rows": found})


if __name__ == "__main__":
    main()
