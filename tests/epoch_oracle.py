"""An epoch in NumPy, float64, formulas written down by hand."""

import jax
import numpy as np
from small_runs import copy


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Oracle:
    """A 64-12-7-10 perceptron with gates on the inputs of every layer, trained by Adam."""

    def __init__(self, state, settings, examples, per_example):
        f64 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), copy(state))
        layers = f64.variables["params"]
        self.w = [layers[name]["kernel"] for name in ("hidden_1", "hidden_2", "output")]
        self.b = [layers[name]["bias"] for name in ("hidden_1", "hidden_2", "output")]
        self.a = [f64.gates[name] for name in ("input", "hidden_1", "hidden_2")]
        self.first = [np.zeros_like(p) for p in self.parameters]
        self.second = [np.zeros_like(p) for p in self.parameters]
        self.settings, self.examples, self.per_example = settings, examples, per_example
        self.steps = 0
        self.means = np.zeros(4)

    @property
    def parameters(self):
        return [*self.w, *self.b, *self.a]

    def step(self, x, y, z):
        """One update; z: gates of the three layers, [units] or [batch, units]."""
        batch = len(y)
        inputs, before = [x], []
        for layer in range(3):
            before.append(inputs[-1] * z[layer] @ self.w[layer] + self.b[layer])
            inputs.append(np.maximum(before[-1], 0))
        logits = before[-1] - before[-1].max(1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        cross_entropy = -np.log(p[np.arange(batch), y]).mean()
        open_ = [sigmoid(a - 2 / 3 * np.log(0.1 / 1.1)) for a in self.a]
        fan_out = [w.shape[1] for w in self.w]
        lam = self.settings.penalty.lam / self.examples
        rho = self.settings.penalty.l2 / self.examples
        penalty = lam * sum(n * o.sum() for n, o in zip(fan_out, open_, strict=True))
        penalty += (
            rho
            / 2
            * sum(
                (o[:, None] * w**2).sum() + (b**2).sum()
                for o, w, b in zip(open_, self.w, self.b, strict=True)
            )
        )

        delta = p.copy()  # [batch, out], of each example's own loss
        delta[np.arange(batch), y] -= 1
        gw, gb, ga, squares = [None] * 3, [None] * 3, [None] * 3, 0.0
        for layer in (2, 1, 0):
            gated = inputs[layer] * z[layer]
            each = gated[:, :, None] * delta[:, None, :]  # [batch, in, out]
            gw[layer], gb[layer] = each.mean(0), delta.mean(0)
            squares += (each.var(0)).sum() + delta.var(0).sum()
            back = delta @ self.w[layer].T  # with respect to the gated input
            gz = back * inputs[layer]  # [batch, in]
            slope = self.slope(z[layer])
            ga[layer] = (gz * slope).mean(0) if self.per_example else gz.mean(0) * slope
            delta = back * z[layer] * (inputs[layer] > 0)
        for layer in range(3):
            o, w = open_[layer], self.w[layer]
            slope = o * (1 - o)
            ga[layer] += lam * fan_out[layer] * slope + rho / 2 * (w**2).sum(1) * slope
            gw[layer] += rho * o[:, None] * w
            gb[layer] += rho * self.b[layer]

        self.steps += 1
        rate = self.settings.optimizer.learning_rate
        for k, (value, g) in enumerate(zip(self.parameters, [*gw, *gb, *ga], strict=True)):
            self.first[k] = 0.9 * self.first[k] + 0.1 * g
            self.second[k] = 0.999 * self.second[k] + 0.001 * g**2
            m = self.first[k] / (1 - 0.9**self.steps)
            v = self.second[k] / (1 - 0.999**self.steps)
            value -= rate * m / (np.sqrt(v) + 1e-8)
        for a in self.a:
            np.clip(a, np.log(0.01), np.log(100), out=a)
        seen = np.array([1.0, squares, cross_entropy + penalty, cross_entropy])
        self.means = 0.95 * self.means + 0.05 * seen
        return cross_entropy, penalty

    def slope(self, z):
        """d z / d log_alpha, from the value of z: s(1-s)/beta x 1.2 between the ends."""
        s = (z + 0.1) / 1.2
        return np.where((z > 0) & (z < 1), s * (1 - s) / (2 / 3) * 1.2, 0.0)
