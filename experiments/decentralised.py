"""Trains a network on every node of a graph; neighbours exchange weights, without a server.

    python -m experiments.decentralised --config=configs/dec_digits.py --workdir=runs/dec-digits

All rounds are one compiled program. The directory of the run gets its config, the records of all
rounds by node (metrics.jsonl), checkpoints, two figures and a summary. The same command goes on
where it stopped, bit for bit. Fields of the section nodes: --config.nodes.graph=barabasi_albert
--config.nodes.placement=zipf --config.nodes.rule="decdiff(norm='global')".
With --table every way to prune nodes of unequal budgets is a row, see experiments.nodes.table.
Several processes train one run together, each started with the same command and its --process_id.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynhp_jax.common import json_files, paths, processes, schema
from dynhp_jax.common.disk import write_json
from dynhp_jax.common.errors import UserError
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from dynhp_jax.training.run import checkpoint
from experiments import commandline, config_sections, joining
from experiments.commandline import Interrupted
from experiments.nodes import figures, pruning, settings, table
from experiments.nodes.progress import Progress, line
from experiments.nodes.scenario import Scenario, scenario_of
from experiments.nodes.settings import Nodes
from experiments.terminal import Interruptions

_FREE = ("nodes.rounds", "data.dir", "data.cache_dir", "compiling.cache_dir", "devices")


_TABLE = ("table", "train a row for each way to prune unequal nodes, a JSON each in --workdir")


def main(argv: Sequence[str]) -> None:
    """Parses the command line and trains."""
    values, path, *others, rows = commandline.parse(
        argv, True, joining.OPTIONS, (*joining.SWITCHES, _TABLE), settings.SECTIONS,
        workdir="directory of the run; empty: runs/NAME-seedSEED",
    )  # fmt: skip
    config, nodes = settings.from_config_dict(values)
    joining.join(*others)
    folder = paths.given(path or f"runs/{config.name}-seed{config.seed}", "--workdir")
    if rows:
        table.make(config, nodes, folder)
    else:
        run(config, nodes, folder)


def run(config: Config, nodes: Nodes, folder: Path) -> list[dict[str, Any]]:
    """Trains in a directory, from where an earlier call left it; gives the records.

    Args:
      config, nodes: of the run.
      folder: where everything goes.

    Raises:
      UserError: for what cannot be trained, or a directory of another run.
      Interrupted: by Ctrl-C, after the last judging was saved.
    """
    described = config_sections.to_dict(config, nodes)
    _check_same(folder, described)
    program_cache.use_cache(config.compiling.cache_dir)
    scenario = scenario_of(config, nodes)
    done = (checkpoint.epochs(folder / "checkpoints") or [0])[-1]
    if processes.leads():
        if done:
            print(f"going on after round {done} of {nodes.rounds}")
        print(_about(nodes, scenario))
    progress, began = Progress(nodes.rounds, done, processes.leads()), []

    def each(record: Mapping[str, Any]) -> None:
        if not began:  # what is refused before the first round leaves no config behind
            write_json(folder / "config.json", described)
            began.append(True)
        progress(record)

    with Interruptions("round") as interruptions:
        try:
            result = scenario.train(
                **scenario.arguments, workdir=folder, callbacks=[each],
                stop=lambda: interruptions.wanted,
            )  # fmt: skip
        finally:
            progress.close()
    records = result.records
    if records[-1]["round"] < nodes.rounds:
        raise Interrupted(
            f"round {records[-1]['round']} of {nodes.rounds} is saved in {folder}; the same"
            " command goes on from there"
        )
    if not processes.leads():
        return records
    write_json(folder / "summary.json", summary(config, nodes, scenario, records))
    figures.draw(records, scenario.graph, folder / "figures")
    print(line(records[-1]))
    print(f"everything is in {folder}")
    return records


def summary(
    config: Config, nodes: Nodes, scenario: Scenario, records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What a run came to, for the table of several."""
    accuracy = records[-1]["test_accuracy"]
    return {
        "name": config.name,
        "seed": config.seed,
        "rounds": nodes.rounds,
        "nodes": nodes.count,
        "edges": int(scenario.graph.sum()) // 2,
        "gain": scenario.gain,
        "examples": [len(part) for part in scenario.parts],
        "accuracy": statistics.fmean(accuracy),
        "accuracy_deviation": float(np.std(accuracy)),
        "accuracy_by_node": accuracy,
        "bytes_sent": int(np.sum([record["bytes_sent"] for record in records])),
        **_of_pruned(records),
        **provenance.present(),
    }


def _of_pruned(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of nodes that prune themselves: the most that each held, what it has left, what is sent."""
    if "bytes_held" not in records[-1]:
        return {}
    held = np.max([record["bytes_held"] for record in records], axis=0)
    shared = np.sum([record["bytes_sent_shared"] for record in records])
    return {
        "bytes_held_by_node": held.tolist(),
        "parameters_by_node": records[-1]["parameters"],
        "bytes_sent_shared": int(shared),
    }


def _about(nodes: Nodes, scenario: Scenario) -> str:
    degrees, sizes = scenario.graph.sum(1), [len(part) for part in scenario.parts]
    gain = "" if scenario.gain is None else f", gain {scenario.gain:.3f}"
    pruned = "" if nodes.units == pruning.ALL else f", units {nodes.units}"
    return (
        f"{nodes.count} nodes, {nodes.graph} with {degrees.min()} to {degrees.max()} neighbours,"
        f" {min(sizes)} to {max(sizes)} examples a node ({nodes.placement}),"
        f" {nodes.rule}{gain}{pruned}"
    )


def _check_same(folder: Path, described: Mapping[str, Any]) -> None:
    """Raises UserError where a run of another config lies, or one of more rounds."""
    try:
        there = json_files.read(
            folder / "config.json", schema.MAPPING, "put it back, or take another --workdir"
        )
    except FileNotFoundError:
        return
    before, now = _flat(there), _flat(described)
    differing = [
        f"config.{name} (there {before.get(name)!r}, here {value!r})"
        for name, value in now.items()
        if name not in _FREE and before.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run of another config; what differs: {', '.join(differing)}; take"
            " another --workdir, or remove this one"
        )
    if before.get("nodes.rounds", 0) > now["nodes.rounds"]:
        raise UserError(
            f"{folder} holds a run of {before['nodes.rounds']} rounds, here are only"
            f" {now['nodes.rounds']}; take another --workdir"
        )


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = list(value) if isinstance(value, tuple) else value
    return found


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
