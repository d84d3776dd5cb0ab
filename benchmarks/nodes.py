"""How the cost of a decentralised round grows with the nodes, in processor seconds of all threads.

    python -m benchmarks.nodes --network=tiny --out=results/decentralised/growth_tiny.json

A Barabasi-Albert graph (two neighbours for each new node), MNIST's shape with random numbers, 640
examples a node, mini-batches of 32, one local epoch: 20 steps and an exchange. --network=mlp is
784-512-256-128-10, tiny is 784-10-20-10-10. Rounds are one program, compiled once for each number
of nodes, and measured after one that is not counted.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import optax

from benchmarks import record
from dynhp_jax.decentralised import DecAvg, drawn, graphs, mixing_matrix
from dynhp_jax.decentralised.calls import Calls
from dynhp_jax.decentralised.local_training import Learning
from dynhp_jax.decentralised.rounds import Rounds, nodes_at_once
from dynhp_jax.decentralised.setting import setting_of

NETWORKS = {"tiny": (784, 10, 20, 10, 10), "mlp": (784, 512, 256, 128, 10)}
EXAMPLES, ITEMS, BATCH, TEST = 60_000, 640, 32, 100


def apply(params, x):
    """Of a multilayer perceptron, logits."""
    for k in range(len(params)):
        x = (x if k == 0 else jax.nn.relu(x)) @ params[str(k)]["kernel"] + params[str(k)]["bias"]
    return x


def measure(widths: tuple[int, ...], nodes: int, rounds: int) -> dict:
    """Costs of some rounds of so many nodes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, widths[0])).astype("f4")
    y = rng.integers(0, widths[-1], EXAMPLES).astype("i4")
    shapes = {str(k): {"kernel": np.zeros(pair, "f4"), "bias": np.zeros(pair[1], "f4")}
              for k, pair in enumerate(zip(widths, widths[1:], strict=False))}  # fmt: skip
    params = drawn(shapes, jax.random.key(0))
    parts = [rng.integers(0, EXAMPLES, ITEMS) for _ in range(nodes)]
    mixing = mixing_matrix(graphs.barabasi_albert(nodes, 2, seed=0))
    setting = setting_of(
        apply, params, (x, y), (x[:TEST], y[:TEST]), parts, mixing, rounds + 2, DecAvg(),
        "cross_entropy", None, None, None, 0,
    )  # fmt: skip
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    learning = Learning(
        setting.source.functions, setting.task, optax.sgd(1e-3, momentum=0.5), BATCH, 1, TEST
    )
    program = Rounds(learning, DecAvg(), at_once=nodes_at_once(8 * parameters))
    calls = Calls(setting, program, 0, None, rounds + 2, TEST, slots=1)
    began = time.process_time()
    calls.advance(0, 1)
    first = time.process_time() - began
    seconds = []
    for done in range(1, rounds + 1):
        began = time.process_time()
        calls.advance(done, done + 1)
        seconds.append(time.process_time() - began)
    median = statistics.median(seconds)
    return {
        "nodes": nodes,
        "parameters": parameters,
        "cpu_seconds_a_round": record.spread(seconds),
        "node_rounds_per_cpu_second": nodes / median,
        "cpu_seconds_of_the_first_round_with_compiling": first,
        "at_once": program.at_once,
        # Of the process so far: numbers of nodes come in rising order.
        "peak_resident_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def main() -> None:
    """Measures, and writes after every number of nodes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="tiny")
    parser.add_argument("--nodes", default="16,64,256,1024", help="numbers of nodes, with commas")
    parser.add_argument("--rounds", type=int, default=5, help="that are measured")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    command = f"python -m benchmarks.nodes --network={given.network} --nodes={given.nodes}"
    result = record.head(f"{command} --rounds={given.rounds}", jax.devices()[0].device_kind)
    result |= {"widths": NETWORKS[given.network], "growth": []}
    for nodes in sorted(map(int, given.nodes.split(","))):
        found = measure(NETWORKS[given.network], nodes, given.rounds)
        result["growth"].append(found)
        record.write(given.out, result)
        print(f"{nodes} nodes: {found['node_rounds_per_cpu_second']:.1f} node-rounds a CPU-second")


if __name__ == "__main__":
    main()
