"""Says, without training, what a config's steps take and what budgets allow.

    python -m experiments.memory --config=configs/digits.py --budgets=300KiB,1MiB

The first table has the bytes of a training step by what they hold, for the whole network and for
parts of it (--widths: that share of the units of every group), at several mini-batches (--batches).
The second one has the largest mini-batch that each of the budgets allows. Both come from XLA's
buffer assignment of the steps as a run would compile them; nothing is allocated. Each entry takes a
compilation, and each budget some more.
"""

import dataclasses
import sys
from collections.abc import Sequence

from dynhp_jax.common import byte_sizes
from dynhp_jax.common.errors import ArgumentError, ConfigError, UserError, shown
from dynhp_jax.common.fields import LARGEST_WHOLE
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled import budget, program_cache, step_bytes
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from experiments import commandline, reports
from experiments.values import each_once, numbers

_OPTIONS = (
    ("budgets", "", "such as 1MiB,4MiB; empty: the config's own"),
    ("widths", "1,0.5,0.25", "shares of every group's units"),
    ("batches", "16,128", "mini-batches"),
)


def main(argv: Sequence[str]) -> None:
    """Parses the command line and prints the two tables."""
    values, _, budgets, widths, batches = commandline.parse(argv, True, _OPTIONS, workdir="")
    config = configuration.from_config_dict(values)
    shares = numbers("widths", widths, float, 1e-6, 1)
    sizes = numbers("batches", batches, int, 1, LARGEST_WHOLE)
    limits = _limits(budgets)
    program_cache.use_cache(config.compiling.cache_dir)
    print("\n".join(plan(config, shares, sizes, limits)))


def _limits(budgets: str) -> dict[str, int]:
    """Bytes by the text that names them."""
    parts = list(filter(None, budgets.split(",")))
    try:
        found = [byte_sizes.parse_bytes(part) for part in parts]
    except ArgumentError as error:
        raise UserError(f"--budgets: {shown(budgets)} is not allowed; {error.allowed}") from None
    return dict(zip(parts, each_once("budgets", budgets, found), strict=True))


def plan(
    config: Config, shares: Sequence[float], batches: Sequence[int], limits: dict[str, int]
) -> list[str]:
    """The lines of both tables; limits are {text: bytes}, {} for the config's own budget."""
    dataset = build.dataset_of(config)
    counts = {name: len(dataset.splits[name]) for name in ("train", "test")}
    if max(batches) > counts["train"]:
        raise UserError(f"--batches: {max(batches)} is above the {counts['train']} examples")
    whole = build.network_of(config, dataset)
    networks = {share: whole.share(share) for share in shares}
    programs = Programs()

    def holding(limit: str) -> budget.Budget:
        section = dataclasses.replace(config.memory, meter="xla", budget=limit)
        asked = dataclasses.replace(config, memory=section)
        return budget.Budget(Steps(asked, whole, programs, counts))

    free = holding(f"{2**60}")  # any step fits, and programs are those that run under a budget
    rows = [("units", "batch", *step_bytes.PARTS, "sum, KiB")]
    for network in networks.values():
        for batch in batches:
            parts = free.steps.training_bytes(network, batch)
            kib = [f"{parts[part] / 1024:,.1f}" for part in step_bytes.PARTS]
            kib.append(f"{step_bytes.total(parts) / 1024:,.1f}")
            rows.append((_units(network), f"{batch}", *kib))
    lines = ["A training step, in KiB:", *reports.columns(rows), "", "The largest mini-batch:"]
    rows, refused = [("budget", "units", "batch", "takes, KiB", "by doing")], []
    for text in limits or [config.memory.budget]:
        try:
            held = holding(text)
        except ConfigError as error:
            rows.append((text, _units(whole), "none", "", ""))
            refused.append(f"{error}")
            continue
        for network in networks.values():
            batch, _ = held.meter.fit(network, counts["train"])
            taken = f"{held.step_bytes(network, batch) / 1024:,.1f}"
            rows.append(
                (text, _units(network), f"{batch}", taken, ", ".join(held.steps.used.names))
            )
    return [*lines, *reports.columns(rows), *refused]


def _units(network: Network) -> str:
    return "-".join(str(group.size) for group in network.groups.values()) or "all"


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
