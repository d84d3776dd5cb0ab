"""lambda and alpha of each table, and how they were chosen: the one place to change them."""

import dataclasses

# What Table 3 trains with; the variants 'sgd' and 'l2' mean these, too.
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


SETTINGS = {
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
