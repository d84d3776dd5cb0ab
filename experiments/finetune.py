"""Fine-tunes a trained network, which is pretrained first where no file has its weights.

    python -m experiments.finetune --config=configs/finetune_digits.py
    python -m experiments.finetune --config=configs/finetune_mbv2.py --config.seed=1

Two runs as those of `experiments.train`, with the same flags, errors and files: the pretraining of
the section `pretraining`, which all fine-tunings of a config share, and then the config itself with
a new head on the weights. How it is fine-tuned says `config.extension`:
--config.extension="trady(budget=3000)". The same command goes on where it stopped.
"""

import sys
from collections.abc import Sequence

from dynhp_jax.common import paths
from dynhp_jax.training.files.followed import claimed
from experiments import commandline, joining, train
from experiments.finetuning import pretraining, settings

_OPTIONS = (
    (
        "pretraining",
        "",
        "directory of the pretraining; empty: runs/NAME-pretraining",
    ),
)


def main(argv: Sequence[str]) -> None:
    """Parses the command line, pretrains where there are no weights, and fine-tunes."""
    values, path, before, *others = commandline.parse(
        argv,
        True,
        (*_OPTIONS, *joining.OPTIONS),
        joining.SWITCHES,
        settings.SECTIONS,
        workdir="directory of the fine-tuning; empty: runs/NAME-METHOD-seedSEED",
    )
    base, first = settings.from_config_dict(values)
    joining.join(*others)
    directory = paths.given(before or f"runs/{base.name}-pretraining", "--pretraining")
    config = pretraining.begun(base, first, directory)
    path = path or f"runs/{config.name}-{config.method}-seed{config.seed}"
    with claimed(path, config) as workdir:
        train.train(config, workdir)


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
