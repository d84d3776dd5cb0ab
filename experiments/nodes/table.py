"""The headline table: ways to train nodes of unequal budgets, a row each, from one config."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynhp_jax.common import schema
from dynhp_jax.common.disk import write_json
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from experiments import config_sections, result_files
from experiments.nodes.scenario import scenario_of
from experiments.nodes.settings import Nodes

BUDGETS = ("100%", "50%", "25%")
ROWS: dict[str, dict[str, Any]] = {
    "DecAvg, nobody cut": {"units": "prefix", "budgets": ("none",)},
    "all as small as the smallest": {"units": "prefix", "budgets": (BUDGETS[-1],)},
    "HeteroFL, prefix": {"units": "prefix", "budgets": BUDGETS},
    "FedRolex, rolling": {"units": "rolling", "budgets": BUDGETS},
    "DynHP, coverage": {"units": "own", "budgets": BUDGETS},
    "DynHP, agreed keeps": {"units": "agreed", "budgets": BUDGETS},
}
_RESULT = schema.fields({"made_of": schema.MAPPING, "accuracy": schema.MAPPING})


def make(config: Config, nodes: Nodes, folder: Path) -> dict[str, dict[str, Any]]:
    """Trains the rows that are missing, a file each; gives all of them.

    Args:
      config, nodes: what all rows have in common.
      folder: of the files; the same call goes on with the first row that is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, (name, fields) in enumerate(ROWS.items()):
        mine = dataclasses.replace(nodes, rule="coverage", **fields)
        path = folder / f"row{number}-seed{config.seed}.json"
        made_of = config_sections.to_dict(config, mine)
        result = result_files.read(path, _RESULT)
        if result is None or not config_sections.agrees(result["made_of"], made_of, Nodes):
            result = {"row": name, "made_of": made_of, **_trained(config, mine)}
            write_json(path, {**result, **provenance.present()})
        found[name] = result
        print(_line(name, result), flush=True)
    return found


def _trained(config: Config, nodes: Nodes) -> dict[str, Any]:
    scenario, began = scenario_of(config, nodes), time.process_time()
    result = scenario.train(**scenario.arguments)
    seconds = time.process_time() - began
    records, last = result.records, result.records[-1]
    # Classes of nodes are those of BUDGETS in every row, so that columns compare the same nodes.
    by_class = {
        budget: list(range(place, nodes.count, len(BUDGETS)))
        for place, budget in enumerate(BUDGETS)
    }

    def means(values: Any) -> dict[str, float]:
        return {name: float(np.mean(np.array(values)[some])) for name, some in by_class.items()}

    held = np.max([record["bytes_held"] for record in records], axis=0)
    return {
        "accuracy": means(last["test_accuracy"]),
        "parameters": means(last["parameters"]),
        "peak_bytes_held": {name: int(held[some].max()) for name, some in by_class.items()},
        "bytes_sent": int(np.sum([record["bytes_sent"] for record in records])),
        "bytes_sent_shared": int(np.sum([record["bytes_sent_shared"] for record in records])),
        "cpu_seconds": seconds,
        "compilations": result.compilations,
    }


def _line(name: str, result: Mapping[str, Any]) -> str:
    accuracy = ", ".join(f"{each:.1f}" for each in result["accuracy"].values())
    return (
        f"{name}: accuracy {accuracy} % ({', '.join(BUDGETS)}),"
        f" sent {result['bytes_sent']:,} bytes,"
        f" {result['cpu_seconds']:.0f} CPU-s"
    )
