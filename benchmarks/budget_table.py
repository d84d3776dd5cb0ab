"""Short runs of four models under budgets: what was asked, what the largest step took, the slack.

    python -m benchmarks.budget_table --out=results/memory/budgets.json

Every combination of a model, a budget and a batch rule is a run of two epochs on the first 512
training examples of real data. Budgets are multiples of what the whole network takes with a
mini-batch of 32; with very few examples, one more is a large part of the budget. Convolutional
networks are narrow and the ResNet is the smallest, so that two cores compile them in reasonable
time; the bytes of larger ones are found the same way. With --cache programs are compiled once for
all combinations, and their seconds are of the first one that needed them.

The JSON is written after every combination, and one that is there already is not run again.
"""

import argparse
import json
from pathlib import Path

import jax

from benchmarks import record
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled import budget, program_cache
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer
from experiments import reports

EXAMPLES, EPOCHS = 512, 2
MODELS = {
    "mlp": ("fashion_mnist", config.Model(name="mlp", hidden=(300, 100))),
    "lenet": ("fashion_mnist", config.Model(name="lenet")),
    "vgg-11": ("cifar10", config.Model(name="vgg", depth=11, width=0.125)),
    "resnet-8": ("cifar10", config.Model(name="resnet", depth=8, width=0.25)),
}
FACTORS = (1.1, 1.6, 2.5)
RULES = {
    "dynhp": config.Batch(size=64, rule="dynhp", alpha=0.0),
    "fixed": config.Batch(size=256, rule="fixed"),
}


def settings(model: str, rule: str, limit: str) -> config.Config:
    """The config of one combination."""
    name, network = MODELS[model]
    return config.Config(
        name="budget_table",
        epochs=EPOCHS,
        data=config.Data(name=name, examples=EXAMPLES),
        model=network,
        gates=config.Gates(inputs=model == "mlp"),
        batch=RULES[rule],
        memory=config.Memory("xla", limit),
    )


def run(model: str, rule: str, limit: int, programs: Programs) -> dict:
    """Trains and says what its largest step took."""
    asked = settings(model, rule, f"{limit}")
    trainer = Trainer(asked, build.dataset_of(asked), programs)
    state, largest, bound = trainer.start(), 0, 0
    if state.batch < trainer.config.batching.size:
        bound = trainer.budget.step_bytes(state.network, state.batch_in_use)
    batches = []
    while state.epoch < EPOCHS:
        state, record = loop.advance(trainer, state)
        largest = max(largest, round(1024 * record["allocated_kib"]))
        batches.append(record["batch_size"])
        if record["wanted_batch"] > record["next_batch"]:
            # What the next epoch is going to take: the program is compiled and metered.
            bound = max(bound, trainer.budget.step_bytes(state.network, state.batch_in_use))
    largest = max(largest, bound)
    return {
        "model": model,
        "rule": rule,
        "budget": limit,
        "largest_step": largest,
        "slack_percent": 100 * (limit - largest) / limit,
        "rule_asked_for_more": bool(bound),
        "batches": [*batches, state.batch_in_use],
        "compilations": programs.compilations,
        "compile_seconds": programs.seconds,
    }


def usual(model: str) -> int:
    """Bytes of a step of the whole network with 32 examples, in the form that a budget chooses."""
    free = settings(model, "fixed", f"{2**60}")  # a budget in which all fits
    trainer = Trainer(free, build.dataset_of(free), Programs())
    held: budget.Budget = trainer.budget
    return held.step_bytes(trainer.whole, 32)


def main() -> None:
    """Runs what is not in the JSON yet, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/memory/budgets.json"))
    parser.add_argument("--models", default=",".join(MODELS), help="which, with commas")
    parser.add_argument("--cache", default="", help="where XLA keeps compiled programs")
    flags = parser.parse_args()
    if flags.cache:
        program_cache.use_cache(flags.cache)
    rows = json.loads(flags.out.read_text())["rows"] if flags.out.exists() else []
    done = {(row["model"], row["rule"], row["factor"]) for row in rows}
    for model in flags.models.split(","):
        base = usual(model)
        for factor in FACTORS:
            for rule in RULES:
                if (model, rule, factor) in done:
                    continue
                row = run(model, rule, round(factor * base), Programs())
                rows.append({**row, "factor": factor})
                device = jax.devices()[0].device_kind
                head = record.head("python -m benchmarks.budget_table", device)
                record.write(flags.out, {**head, "rows": rows})
                print(f"{model} {rule} x{factor}: slack {row['slack_percent']:.2f} %", flush=True)
    cells = [("model", "rule", "budget, KiB", "largest step, KiB", "slack, %", "asked for more")]
    for row in rows:
        cells.append(
            (
                row["model"],
                row["rule"],
                f"{row['budget'] / 1024:,.1f}",
                f"{row['largest_step'] / 1024:,.1f}",
                f"{row['slack_percent']:.2f}",
                "yes" if row["rule_asked_for_more"] else "no",
            )
        )
    print("\n".join(reports.columns(cells)))


if __name__ == "__main__":
    main()
