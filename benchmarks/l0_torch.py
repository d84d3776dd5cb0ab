"""Training with the gate layer of Louizos et al. in PyTorch: the peer of benchmarks/gates_torch.py.

    python -m benchmarks.l0_torch DATA.npz SETTINGS

SETTINGS is JSON: hidden, batch, lam, learning_rate, per_example, seed, compile. A turn is an epoch
(benchmarks/turns.py). Written from the paper's equations for speed: the gates of all layers are one
parameter and one draw, the data is one tensor, nothing is read back within an epoch. What remains a
choice (how gates enter, whether the step is compiled, which Adam) is tried out for some steps each
before the first turn, and the fastest is taken.
"""

import argparse
import itertools
import json
import math
import os
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import turns

TEMPERATURE, LOW, HIGH, EPS = 2 / 3, -0.1, 1.1, 1e-6
CLOSED = TEMPERATURE * math.log(-LOW / HIGH)  # log odds of a gate at exactly 0
TRIAL_STEPS, TRIAL_ROUNDS = 100, 3


class GatedMLP(nn.Module):
    """An MLP with a hard-concrete gate on every input of every layer.

    Args:
      widths: input features, hidden units, outputs.
      per_example: whether gates are drawn for every example or for the mini-batch.
      on_weights: whether the gates of a mini-batch multiply rows of the kernels, not activations.
    """

    def __init__(self, widths: list[int], per_example: bool, on_weights: bool):
        super().__init__()
        self.per_example, self.on_weights = per_example, on_weights
        self.sizes = widths[:-1]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.kernels = nn.ParameterList(torch.randn(i, o) * math.sqrt(2 / i) for i, o in pairs)
        self.biases = nn.ParameterList(torch.zeros(o) for _, o in pairs)
        centres = [torch.full((n,), math.log(4.0) if k == 0 else 0.0)  # drop rates 0.2 and 0.5
                   for k, n in enumerate(self.sizes)]  # fmt: skip
        self.log_alpha = nn.Parameter(torch.cat(centres) + 0.01 * torch.randn(sum(self.sizes)))
        prices = [torch.full((i,), float(o)) for i, o in pairs]
        self.register_buffer("prices", torch.cat(prices))
        self.register_buffer("mask", torch.ones(sum(self.sizes)))
        self.register_buffer("counts", torch.zeros(sum(self.sizes), dtype=torch.int32))

    def draw(self, batch: int) -> torch.Tensor:
        """Gates [batch or 1, all units], 0 for those of dead units."""
        u = torch.empty(batch if self.per_example else 1, len(self.mask)).uniform_(EPS, 1 - EPS)
        s = torch.sigmoid((torch.logit(u) + self.log_alpha) / TEMPERATURE)
        return torch.clamp(s * (HIGH - LOW) + LOW, 0, 1) * self.mask

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Logits."""
        parts = torch.split(z, self.sizes, dim=1)
        for k, (kernel, bias, gate) in enumerate(
            zip(self.kernels, self.biases, parts, strict=True)
        ):
            x = torch.relu(x) if k else x
            if self.on_weights:
                x = torch.addmm(bias, x, kernel * gate.T)
            else:
                x = torch.addmm(bias, x * gate, kernel)
        return x

    def losses(self, x: torch.Tensor, y: torch.Tensor, scale: float):
        """(cross-entropy, penalty, in how many of the draws each gate was open)."""
        z = self.draw(len(x))
        opened = torch.clamp(torch.sigmoid(self.log_alpha - CLOSED), EPS, 1 - EPS) * self.mask
        penalty = scale * torch.dot(opened, self.prices)
        seen = (z.detach() > 0).sum(0, dtype=torch.int32)
        return functional.cross_entropy(self(x, z), y), penalty, seen

    @torch.no_grad()
    def error(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Percent of examples that the deterministic gates get wrong."""
        z = torch.clamp(torch.sigmoid(self.log_alpha) * (HIGH - LOW) + LOW, 0, 1) * self.mask
        return 100 * (self(x, z[None]).argmax(1) != y).float().mean().item()


class Training:
    """A network, its optimizer, and the data.

    Args:
      settings: see the top of the file.
      data: x_train, y_train, x_test, y_test.
      on_weights, compiled, adam: what is tried out; `adam` is 'fused' or 'foreach'.
    """

    def __init__(self, settings: dict, data: dict, on_weights: bool, compiled: bool, adam: str):
        torch.manual_seed(settings["seed"])
        self.data, self.batch = data, settings["batch"]
        x, classes = data["x_train"], int(data["y_train"].max()) + 1
        self.scale = settings["lam"] / len(x)
        widths = [x.shape[1], *settings["hidden"], classes]
        self.model = GatedMLP(widths, settings["per_example"], on_weights)
        self.losses = torch.compile(self.model.losses) if compiled else self.model.losses
        rate = settings["learning_rate"]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate, **{adam: True})

    def train(self, steps: int) -> tuple[float, float]:
        """Mean cross-entropy and penalty of so many steps of an epoch."""
        model, x, y = self.model, self.data["x_train"], self.data["y_train"]
        order, sums = torch.randperm(len(x)), torch.zeros(2)
        for rows in order[: steps * self.batch].split(self.batch):
            cross_entropy, penalty, seen = self.losses(
                x.index_select(0, rows), y.index_select(0, rows), self.scale
            )
            self.optimizer.zero_grad(set_to_none=True)
            (cross_entropy + penalty).backward()
            self.optimizer.step()
            with torch.no_grad():
                model.log_alpha.clamp_(math.log(0.01), math.log(100))
                model.counts += seen
                sums += torch.stack([cross_entropy.detach(), penalty.detach()])
        return tuple((sums / steps).tolist())

    def epoch(self) -> turns.Answer:
        """One pass over the training set, timed; evaluation after it, not timed."""
        steps = len(self.data["x_train"]) // self.batch
        self.model.counts.zero_()
        began = time.perf_counter()
        cross_entropy, penalty = self.train(steps)
        wall = time.perf_counter() - began
        observations = steps * (self.batch if self.model.per_example else 1)
        return {
            "wall": wall,
            "cross_entropy": cross_entropy,
            "penalty": penalty,
            "active": self.model.counts.sum().item() / observations,
            "test_error": self.model.error(self.data["x_test"], self.data["y_test"]),
        }


def choices(settings: dict) -> list[dict]:
    """What is tried out; gates of their own for each example cannot multiply kernels."""
    found = itertools.product(
        (False,) if settings["per_example"] else (False, True),
        (False, True) if settings["compile"] else (False,),
        ("fused", "foreach"),
    )
    return [dict(zip(("on_weights", "compiled", "adam"), each, strict=True)) for each in found]


def trial(settings: dict, data: dict, choice: dict) -> float:
    """Milliseconds of a step in the fastest round, once warm; infinite if it does not run."""
    try:
        training = Training(settings, data, **choice)
        steps = max(1, min(TRIAL_STEPS, len(data["x_train"]) // training.batch))
        training.train(min(10, steps))
        seconds = []
        for _ in range(TRIAL_ROUNDS):
            began = time.perf_counter()
            training.train(steps)
            seconds.append(time.perf_counter() - began)
    except Exception as error:  # no compiler on this machine, an Adam that this version lacks
        print(f"{choice} does not run: {type(error).__name__}", file=sys.stderr)
        return math.inf
    return 1000 * min(seconds) / steps


def main() -> None:
    """Tries the choices out, prepares the fastest, and serves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("settings", type=json.loads)
    flags = parser.parse_args()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads)
    with np.load(flags.data) as arrays:
        data = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tried = [{**each, "ms": trial(flags.settings, data, each)} for each in choices(flags.settings)]
    best = min(tried, key=lambda each: each["ms"])
    training = Training(
        flags.settings, data, **{name: value for name, value in best.items() if name != "ms"}
    )
    training.train(1)  # compiles
    tried = [each | {"ms": round(each["ms"], 3)} for each in tried if each["ms"] < math.inf]
    ready = {"tried": tried, "taken": best}
    turns.serve(ready | {"torch": torch.__version__, "threads": threads}, training.epoch)


if __name__ == "__main__":
    main()
