"""Planned steps of fine-tuning: their metered bytes, and those of the resident set (Linux).

    python -m benchmarks.finetune_plan --weights=../shared/data/weights

For each network and budget `finetune.plan` finds a step. Its executable is then run on zeros in a
process of its own, and by how much that raises the resident set is set beside what is metered of
it between its arguments and results. What the process says is rounded up, by a tenth at the most.
The JSON is written after every step, and one that is there already is not planned again.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import finetune_steps, record
from dynhp_jax import finetune
from dynhp_jax.memory import trials
from dynhp_jax.models.vit import ViTSpec

BUDGETS = {"convolutions": ("24MiB", "40MiB"), "vit": ("16MiB", "28MiB"), "mbv2-w0.35": ("16MiB",)}


def vit(weights: Path | None) -> tuple[Callable, Any, Any]:
    """(apply, variables, mini-batch) of a vision transformer of two blocks, with random weights."""
    spec, rng, batch = ViTSpec.cifar(depth=2), np.random.default_rng(0), finetune_steps.BATCH
    x = jnp.asarray(rng.normal(size=(batch, *spec.input_shape)), jnp.float32)
    module = spec.module()
    variables = module.init(jax.random.key(0), x[:1])
    return module.apply, variables, (x, jnp.asarray(rng.integers(0, 10, batch), jnp.int32))


NETWORKS = {
    "convolutions": lambda weights: finetune_steps.six_convolutions(),
    "vit": vit,
    "mbv2-w0.35": finetune_steps.mobilenet,
}


def row(network: str, budget: str, weights: Path | None) -> dict[str, Any]:
    """A planned step: its bytes by what holds them, and those of the resident set."""
    apply, variables, (x, labels) = NETWORKS[network](weights)
    loss = finetune_steps.loss_of
    plan = finetune.plan(apply, variables, x, labels, loss=loss, budget=budget)
    print(f"{network}\n{plan}", flush=True)
    trial = trials.tried(plan.step, plan.function.compiled)
    return {
        "network": network,
        "asked": budget,
        "rows": sum(quota.rows for quota in plan.quotas.values()),
        "kernels": len(plan.quotas),
        "numbers": plan.numbers,
        "setting": str(plan.setting),
        "share of the norm": plan.norm,
        "norm": plan.of,
        "bytes": dict(plan.bytes),
        "total": plan.total,
        "budget": plan.budget,
        "between": plan.temporaries,
        "resident": None if trial is None else trial.bytes,
        "compiled": [list(look) for look in plan.looks],
    }


def main() -> None:
    """Plans, runs and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS), help="with commas between them")
    parser.add_argument("--weights", type=Path, help="folder of the pretrained weights")
    parser.add_argument("--out", type=Path, default=Path("results/finetune/plan.json"))
    flags = parser.parse_args()
    rows = json.loads(flags.out.read_text())["rows"] if flags.out.exists() else []
    done = {(each["network"], each["asked"]) for each in rows}
    weights = "" if flags.weights is None else " --weights=../shared/data/weights"
    for network in flags.networks.split(","):
        for budget in BUDGETS[network]:
            if (network, budget) not in done:
                rows.append(row(network, budget, flags.weights))
                command = f"python -m benchmarks.finetune_plan{weights}"
                head = record.head(command, jax.devices()[0].device_kind)
                batch = finetune_steps.BATCH
                record.write(flags.out, {**head, "batch": batch, "rows": rows})


if __name__ == "__main__":
    main()
