"""Pruning and fine-tuning in one budget of bytes, beside each of them alone in the same bytes.

    python -m benchmarks.finetune_pruned

Runs of configs/finetune_pruned.py, all of one pretrained network and of one `memory.budget`, which
every program that they execute is held to: rows of an adapted network that becomes smaller, rows of
one that does not, and an adapted network that becomes smaller and of which everything is trained
(its mini-batch is what there is room for; what has no room at all is said). Of each the JSON has
the error, the size, the bytes of the largest step, and epoch by epoch how many numbers were
trained. It is written after every run, and a run that is there already is not run again.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import record
from configs import finetune_pruned
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import origin
from dynhp_jax.training.files.workdir import Workdir
from experiments import train
from experiments.finetuning import pretraining, settings

BOTH = "pruned and adapted in one run"
CHANGES = {
    BOTH: {},
    "adapted alone": {"method": "dense"},
    "pruned alone, all trained": {"extension": "full()"},
}


def row(kind: str, seed: int, base: Config, workdirs: Path) -> dict[str, Any]:
    """What a run came to."""
    config = dataclasses.replace(base, seed=seed, **CHANGES[kind])
    workdir = Workdir(workdirs / f"{list(CHANGES).index(kind)}-seed{seed}")
    known = {"run": kind, "seed": seed, "commit": origin.commit()}
    try:
        trainer, _, records = train.one_of_many(config, workdir)
    except ConfigError as error:
        if error.field != "memory.budget":
            raise
        return {**known, "does not fit": str(error)}
    last = records[-1]
    return {
        **known,
        "test error": last["test_error"],
        "units": last["units"],
        "parameters": last["parameters"],
        "model_kib": last["model_kib"],
        "batch": [records[0]["batch_size"], last["batch_size"]],
        "budget": trainer.budget.bytes,
        "largest step": max(sum(each["allocated"]["training"].values()) for each in records),
        "trained": _turns([_trained(each) for each in records]),
        "of": _turns([each["materialised"] for each in records]),
        "compilations": last["compilations"],
        "seconds": round(sum(each["seconds"] + each["compile_seconds"] for each in records), 1),
    }


def _trained(record: dict[str, Any]) -> int:
    """Rows by the papers' count; or parameters, where rows are not chosen."""
    return int(record.get("extension_numbers", record.get("extension_parameters", 0)))


def _turns(numbers: Sequence[int]) -> list[list[int]]:
    """[first epoch, number], of every epoch in which it is another than before."""
    before = [None, *numbers]
    return [[k + 1, now] for k, now in enumerate(numbers) if now != before[k]]


def main() -> None:
    """Runs what is missing and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="with commas between them")
    parser.add_argument("--workdir", type=Path, default=Path("runs/finetune_pruned-beside"))
    parser.add_argument("--out", type=Path, default=Path("results/finetune/pruned.json"))
    flags = parser.parse_args()
    base, first = settings.from_config_dict(finetune_pruned.get_config())
    program_cache.use_cache(base.compiling.cache_dir)
    base = pretraining.begun(base, first, flags.workdir / "pretraining")
    rows = json.loads(flags.out.read_text())["rows"] if flags.out.exists() else []
    done = {(each["run"], each["seed"]) for each in rows}
    for seed in map(int, flags.seeds.split(",")):
        for kind in CHANGES:
            if (kind, seed) not in done:
                rows.append(row(kind, seed, base, flags.workdir))
                print(json.dumps(rows[-1]), flush=True)
                asked = "" if flags.seeds == "0,1,2" else f" --seeds={flags.seeds}"
                head = record.head(f"python -m benchmarks.finetune_pruned{asked}", _device())
                record.write(flags.out, {**head, "rows": rows})


def _device() -> str:
    return jax.devices()[0].device_kind


if __name__ == "__main__":
    main()
