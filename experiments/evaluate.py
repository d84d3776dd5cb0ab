"""Loads the network that a run ended with and says how good and how large it is.

python -m experiments.evaluate --workdir=runs/digits

A member of a sweep is loaded from the sweep's checkpoint: --workdir=runs/digits-dynhp-sweep/seed0.
It takes one device, however many the run had. Directories of the run's config that do not exist
here, as on another machine, give way to the defaults (TFDS_DATA_DIR, DYNHP_CACHE). A run may come
from anybody: no code is run that its files name. A run of a model, data or loss of your own needs
--run_own_code, and their modules where the program is started.
"""

import sys
from collections.abc import Sequence

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.notices import warn
from dynhp_jax.export import runs
from dynhp_jax.training.files import summary
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import loop
from dynhp_jax.training.step.evaluation import CONFUSION
from dynhp_jax.writers import screen
from experiments import commandline, reports

_OWN_CODE = (runs.OWN_CODE, "run the code that the config of the run names as module:object")


def main(argv: Sequence[str]) -> None:
    """Parses the command line, evaluates on the test set and prints."""
    _, path, own = commandline.parse(argv, with_config=False, switches=[_OWN_CODE])
    if not path:
        raise UserError("--workdir is missing: the directory of a run, such as runs/digits")
    trainer, run = runs.reopened(path, own=own, tell=warn)
    config, workdir = trainer.config, Workdir(path)
    _say_if_earlier(workdir, run.epoch)
    result = loop.evaluate(trainer, run.network, run.state, run.splits["test"], "test", run.chunk)
    dense, size = summary.dense_numbers(trainer), loop.size_of(trainer, run)

    print(f"{config.name}, {config.method}, {config.data.name}, after epoch {run.epoch}")
    task = trainer.whole.task
    loss = f"{task.called.replace('_', '-')} {result[task.called]:.4f}"
    print(f"test {screen.judged(result, task, '')}, {loss}")
    for group, units in size["units"].items():
        print(f"units of {group}: {units} of {dense['units'][group]}")
    print(f"parameters: {size['parameters']:,} of {dense['parameters']:,}")
    print(f"model size: {size['model_kib']:.1f} KiB of {dense['model_kib']:.1f} KiB")
    if CONFUSION in result:
        print("confusion (rows: labels, columns: predictions)")
        print(reports.confusion_table(result[CONFUSION]))


def _say_if_earlier(workdir: Workdir, epoch: int) -> None:
    """Says so where the network is not that of the last epoch: its checkpoint is not there."""
    try:
        records = workdir.records()
    except UserError:
        return  # nothing here is read from them
    if records and records[-1]["epoch"] > epoch:
        warn(
            f"{workdir.metrics_file} has epoch {records[-1]['epoch']}; the network is that of the"
            f" newest checkpoint, of epoch {epoch}"
        )


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
