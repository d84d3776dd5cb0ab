"""Eight nodes on a ring that prune themselves: whole, half and a quarter of the bytes.

    python -m experiments.decentralised --config=configs/dec_pruned.py --workdir=runs/dec-pruned

Each node runs DynHP on its own digits inside a budget of its own; neighbours average the
weights and gates that they both have. Variants, each in a workdir of its own:

    gates that nobody else hears of: --config.nodes.units=own
    HeteroFL's widths:               --config.nodes.units=prefix
    FedRolex's windows:              --config.nodes.units=rolling
    units by the norm of weights:    --config.nodes.units=scored
    missing numbers as zeros:        --config.nodes.rule=zero_filled
"""

from configs import dec_digits


def get_config():
    config = dec_digits.get_config()
    config.name = "dec-pruned"
    config.model.hidden = (64, 32)
    config.gates.inputs = False
    config.gates.open_hidden = 0.9
    config.nodes.count = 8
    config.nodes.rule = "coverage"
    config.nodes.units = "agreed"
    config.nodes.budgets = ("none", "50%", "25%", "25%")
    config.nodes.meter = "paper"
    config.batch.size = 16
    config.nodes.rounds = 10
    return config
