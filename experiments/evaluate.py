"""Loads the network that a run ended with and says how good and how large it is.

python -m experiments.evaluate --workdir=runs/digits
"""

import sys
from collections.abc import Sequence

from dynhp_jax import checkpoint, compiling, loop, named, runs
from dynhp_jax.errors import UserError
from experiments import commandline, reports
from experiments.commandline import say
from experiments.workdir import Workdir


def main(argv: Sequence[str]) -> None:
    """Parses the command line, evaluates on the test set and prints."""
    _, path = commandline.parse(argv, with_config=False)
    if not path:
        raise UserError("--workdir is missing: the directory of a run, such as runs/digits")
    workdir = Workdir(path)
    config = workdir.config()
    dataset = named.dataset_of(config)
    compiling.use_cache(config.compiling.cache_dir)
    trainer = runs.Trainer(config, dataset, compiling.Programs())
    found = checkpoint.restore(
        workdir.checkpoints, trainer.state_shapes, lambda message: say(f"warning: {message}")
    )
    if found is None:
        raise UserError(f"{workdir.path} has no checkpoint yet; train in it first")
    run = trainer.resume(found)
    result = loop.evaluate(trainer, run.network, run.state, run.splits["test"], "test", run.chunk)
    dense, size = reports.dense_numbers(trainer), loop.size_of(trainer, run)

    print(f"{config.name}, {config.method}, {config.data.name}, after epoch {run.epoch}")
    print(f"test error {result['error']:.2f} %, cross-entropy {result['cross_entropy']:.4f}")
    for group, units in size["units"].items():
        print(f"units of {group}: {units} of {dense['units'][group]}")
    print(f"parameters: {size['parameters']:,} of {dense['parameters']:,}")
    print(f"model size: {size['model_kib']:.1f} KiB of {dense['model_kib']:.1f} KiB")
    print("confusion (rows: labels, columns: predictions)")
    print(reports.confusion_table(result["confusion"]))


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
