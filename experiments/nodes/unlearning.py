"""FedQUIT: one client is forgotten by the loss of a teacher without its examples, then recovery.

Federated averaging is the complete graph. Beside the clients there is a relay without examples: it
counts for nothing, and holds after each exchange the clients' average, the global network.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from dynhp_jax import decentralised
from dynhp_jax.decentralised import graphs, scenarios


@dataclasses.dataclass(frozen=True, eq=False)
class Federation:
    """Clients that average, and who is to be forgotten.

    Attributes:
      model, variables: of a client; the variables are {'params': ..., and other collections}.
      train, test: (inputs, targets).
      parts: of every client.
      options: of `decentralised.train`: optimizer, mini-batch, local epochs, seed.
      gone: the number of the client that leaves.
    """

    model: Any
    variables: Any
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    parts: list[np.ndarray]
    options: dict[str, Any]
    gone: int = 0

    def average(
        self, variables: Any, rounds: int, without: bool = False, seed: int = 0
    ) -> "Global":
        """Rounds of federated averaging.

        Args:
          variables: of the global network before them.
          rounds: how many.
          without: whether the client that leaves has left.
          seed: of what is drawn in them.
        """
        parts = [part for number, part in enumerate(self.parts)
                 if not (without and number == self.gone)]  # fmt: skip
        relay, parts = len(parts), [*parts, np.zeros(0, int)]
        sizes = list(map(len, parts))
        there = scenarios.lose_data(scenarios.everybody(rounds + 1, relay + 1), [relay], at=0)
        result = decentralised.train(
            self.model, variables, train=self.train, test=self.test, parts=parts,
            mixing=decentralised.mixing_matrix(graphs.complete(relay + 1), sizes),
            rounds=rounds + 1, presence=there, metrics={"accuracy": "accuracy"},
            judged=len(self.test[1]), **self.options | {"seed": seed},
        )  # fmt: skip
        # After an exchange the relay holds what the clients had learnt in the round before.
        curve = [record["test_accuracy"][relay] for record in result.records[1:]]
        return Global(result.apply, result.node(relay), curve)

    def forget(self, found: "Global", form: str, epochs: int, rate: float) -> "Global":
        """The global network after the client that leaves has learnt to forget its examples."""
        mine = self.parts[self.gone]
        inputs, labels = self.train[0][mine], self.train[1][mine]
        targets = decentralised.forgetting_targets(
            found.apply(found.variables, inputs), labels, form
        )
        own = inputs, np.asarray(targets)
        result = decentralised.train(
            self.model, found.variables, train=own, test=own, parts=[np.arange(len(mine))],
            mixing=[[1.0]], rounds=1, loss=decentralised.forgetting, tx=optax.adam(rate), batch=32,
            local_epochs=epochs, metrics={},
        )  # fmt: skip
        return Global(result.apply, result.node(0), [])

    def judged(self, found: "Global") -> dict[str, float]:
        """Accuracy in percent, on test examples and on those that are to be forgotten."""
        mine = self.parts[self.gone]
        forgotten = self.train[0][mine], self.train[1][mine]
        return {"test": found.accuracy(*self.test), "forget": found.accuracy(*forgotten)}


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """A global network.

    Attributes:
      apply, variables: of it.
      curve: its test accuracy in percent after each round that led to it.
    """

    apply: Any
    variables: Any
    curve: list[float]

    def accuracy(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        """In percent."""
        outputs = jax.jit(self.apply)(self.variables, inputs)
        return 100 * float(np.mean(np.argmax(outputs, -1) == labels))


def compared(
    federation: Federation, rounds: int, recovery: int, form: str, epochs: int, rate: float,
    margin: float, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Forgetting and recovery beside retraining without the client, and beside going on without it.

    Args:
      federation: the clients.
      rounds: of the first training, and of retraining.
      recovery: rounds after forgetting, at most.
      form, epochs, rate: of forgetting.
      margin: points of test accuracy below retraining's at which it counts as recovered.
      seed: of the federation.

    Returns:
      Accuracies of every network, and rounds until each has what retraining ends with.
    """
    start = federation.variables
    whole = federation.average(start, rounds, seed=seed)
    retrained = federation.average(start, rounds, without=True, seed=seed + 1000)
    forgot = federation.forget(whole, form, epochs, rate)
    wanted = retrained.curve[-1] - margin
    again = federation.average(forgot.variables, recovery, without=True, seed=seed + 2000)
    needed = _first(again.curve, wanted)
    # A shorter run of the same seed has the same rounds, and ends where recovery would.
    recovered = federation.average(
        forgot.variables, needed or recovery, without=True, seed=seed + 2000
    )
    onward = federation.average(whole.variables, needed or recovery, without=True, seed=seed + 2000)
    networks = {"trained": whole, "forgot": forgot, "recovered": recovered,
                "went on": onward, "retrained": retrained}  # fmt: skip
    return {
        "accuracy": {name: federation.judged(each) for name, each in networks.items()},
        "rounds_of_recovery": needed,
        "rounds_of_retraining": _first(retrained.curve, wanted),
        "curves": {"retrained": retrained.curve, "recovery": again.curve},
    }


def _first(curve: list[float], wanted: float) -> int | None:
    """The first round that has an accuracy, from 1; None if none has."""
    return next((k for k, value in enumerate(curve, 1) if value >= wanted), None)
