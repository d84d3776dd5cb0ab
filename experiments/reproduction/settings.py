"""Protocols: what the paper's text leaves open, for each table, and how it was chosen.

The one place to change them. Results of a protocol lie in a directory of its own (`directory`).
"""

import dataclasses
from pathlib import Path

# What Table 3 trains with in the first protocol; the variants 'sgd' and 'l2' mean these, too.
SGD_RATE, SGD_GATES_RATE = 0.1, 2.0
RHO = 30.0  # a weight decay of 5e-4, as it is divided by 60,000 examples
ADAM_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the paper's text leaves open, per table.

    Attributes:
      lam: strength of the L0 penalty, in the convention below.
      alphas: of our own DynHP rows, beside those that the paper prints.
      chosen: how the two were chosen.
      convention: what lam multiplies (`penalty.convention`).
      optimizer: of weights and gates (`optimizer.name`).
      learning_rate: of the weights.
      gates_learning_rate: of the gates; 0: the same.
      l2: rho of the penalty, divided by the training set's size like lam (`penalty.l2`).
      gamma: the paper's threshold.
      ema: epochs that the mean of the weights goes back, which is what is evaluated; the code of
        Louizos et al. evaluates one of about a thousand steps.
      decay: of the running means of S and F that the rule for the mini-batch reads; 0: it reads
        those of the epoch's last mini-batch.
    """

    lam: float
    alphas: tuple[float, ...]
    chosen: str
    convention: str = "amlab"
    optimizer: str = "adam"
    learning_rate: float = ADAM_RATE
    gates_learning_rate: float = 0.0
    l2: float = 0.0
    gamma: float = 0.5
    ema: float = 1.5
    decay: float = 0.95


_SLOW = {"optimizer": "sgd", "learning_rate": SGD_RATE, "gates_learning_rate": 0.4, "decay": 0.0}
_AS_DRAWN = (
    "SGD at a fixed rate is what the paper's text speaks of; the gates' step size and lambda are"
    " such that a network that starts with 16 examples drops by a half where Figure 7 has it, and"
    " HP within the training memory of its row; S and F of the epoch's last mini-batch, because"
    " means over steps leave most rows at 16 examples or take all to the budget. Looked for on a"
    " tenth of the training set held out (seed 0), by sizes and mini-batches, errors second"
)

SLOW_GATES = {
    2: Settings(lam=0.12, alphas=(), chosen=_AS_DRAWN, **_SLOW),
    3: Settings(lam=0.15, alphas=(), chosen=_AS_DRAWN, **_SLOW),
}

# Fashion-MNIST's network drops where Figure 7 has it, and to a size nearer to the paper's.
LATE_DROP = {
    2: SLOW_GATES[2],
    3: Settings(
        lam=0.3,
        alphas=(),
        chosen="SGD at a fixed rate is what the paper's text speaks of; the gates' step size is"
        " such that 0.988's network drops up to epoch 100, as in Figure 7, lambda such that it then"
        " comes near the paper's size, the weights' step size such that its mini-batch does not run"
        " to the budget; S and F of the epoch's last mini-batch. Looked for on a tenth of the"
        " training set held out (seed 0), by sizes and mini-batches, errors second",
        optimizer="sgd",
        learning_rate=0.2,
        gates_learning_rate=0.075,
        decay=0.0,
    ),
}

# Gates close within 10 to 30 epochs, and the mini-batch goes to the budget for every alpha printed.
FAST_GATES = {
    2: Settings(
        lam=0.07,
        alphas=(0.985, 0.99),
        chosen="L2 and the mean of the weights were chosen by errors on a tenth of the training set"
        " held out (one seed), lambda so that DynHP's size there comes near the paper's; our alphas"
        " are about what --calibrate proposed, from a run on that part, for the paper's 316 and 101"
        " examples: by epoch 400 there were 432 to 512 and 304",
        l2=10.0,
    ),
    3: Settings(
        lam=0.14,
        alphas=(0.9916, 0.9975),
        chosen="the optimizer, its step sizes and L2 were chosen by errors on a tenth of the"
        " training set held out (one seed; Adam with L2, which was run later, is as good there"
        " within the noise), lambda so that HP's size there comes near the paper's; our first alpha"
        " is what --calibrate proposed for a large mini-batch from a run on that part; with it, as"
        " with the second (and with 0.994), the mini-batch stays at 16",
        optimizer="sgd",
        learning_rate=SGD_RATE,
        gates_learning_rate=SGD_GATES_RATE,
        l2=RHO,
    ),
}

PROTOCOLS = {"late-drop": LATE_DROP, "slow-gates": SLOW_GATES, "fast-gates": FAST_GATES}
PRESENT = "late-drop"
SETTINGS = PROTOCOLS[PRESENT]


def directory(results: Path, protocol: str) -> Path:
    """Where the results of a protocol lie below the directory of all."""
    return results if protocol == PRESENT else results / protocol
