"""Second opinions: the method's equations in plain NumPy float64, written without dynhp_jax.

Every function here is a loop or a line over numbers, slow and obvious. Nothing in it may import the
package it judges.
"""

import math

import numpy as np

TEMPERATURE, LOW, HIGH, EPS = 2 / 3, -0.1, 1.1, 1e-6


# Gates


def gate(u, log_alpha):
    """The drawn gate for uniforms u."""
    u, log_alpha = np.asarray(u, np.float64), np.asarray(log_alpha, np.float64)
    logistic = np.log(u) - np.log1p(-u)
    s = 1 / (1 + np.exp(-(logistic + log_alpha) / TEMPERATURE))
    return np.minimum(1.0, np.maximum(0.0, s * (HIGH - LOW) + LOW))


def gate_cdf(x, log_alpha):
    """P(gate <= x) for 0 <= x < 1, by solving the chain of transformations for the uniform."""
    s = (np.asarray(x, np.float64) - LOW) / (HIGH - LOW)
    return 1 / (1 + np.exp(-(TEMPERATURE * (np.log(s) - np.log1p(-s)) - log_alpha)))


def prob_open(log_alpha):
    """P(gate > 0), clipped as the code of Louizos et al. does."""
    return np.clip(1 - gate_cdf(0.0, np.asarray(log_alpha, np.float64)), EPS, 1 - EPS)


def mean_gate(log_alpha):
    """The gate used at evaluation."""
    s = 1 / (1 + np.exp(-np.asarray(log_alpha, np.float64)))
    return np.minimum(1.0, np.maximum(0.0, s * (HIGH - LOW) + LOW))


# Penalty, weight by weight


def penalty(log_alpha, weights, masks, lam, num_examples, convention, l2=0.0, biases=()):
    """The price of a multilayer perceptron whose kernels are gated on their input axis.

    `log_alpha`, `masks`: lists of vectors, one per kernel; `weights`: list of kernels [in, out].
    A weight survives if its input unit and its output unit do (outputs of the last do).
    """
    total = squares = 0.0
    for layer, kernel in enumerate(weights):
        probabilities = prob_open(log_alpha[layer])
        for j in range(kernel.shape[0]):
            if convention == "per_gate":
                total += probabilities[j] * masks[layer][j]
            for k in range(kernel.shape[1]):
                reader = masks[layer + 1][k] if layer + 1 < len(weights) else 1
                alive = masks[layer][j] * reader
                squares += alive * probabilities[j] * kernel[j, k] ** 2
                if convention in ("amlab", "literal"):
                    total += alive * probabilities[j]
                if convention == "parameters":
                    total += alive * probabilities[j]
                    if layer + 1 < len(weights):
                        total += alive * prob_open(log_alpha[layer + 1])[k]
    if convention == "parameters":  # the bias of a hidden unit goes with it
        for open_, mask in zip(log_alpha[1:], masks[1:], strict=True):
            total += float(np.sum(prob_open(open_) * mask))
    squares += sum(float(np.sum(np.asarray(b, np.float64) ** 2)) for b in biases)
    scale = lam / num_examples if convention in ("amlab", "parameters") else lam
    return scale * total + l2 * squares / (2 * num_examples)


# Hard pruning


def activation_rates(draws):
    """Eq. 6: share of the draws [observations, units] in which each gate was above 0."""
    draws = np.asarray(draws)
    return np.array([sum(z > 0 for z in column) / len(column) for column in draws.T.tolist()])


def prune(mask, rate, gamma):
    """Eq. 7 with the guard: the living unit with the highest rate stays if none reaches gamma."""
    new = [float(m == 1 and a >= gamma) for m, a in zip(mask, rate, strict=True)]
    if not any(new):
        living = [j for j, m in enumerate(mask) if m == 1]
        new[max(living, key=lambda j: (rate[j], -j))] = 1.0
    return np.array(new)


# Batch size


def dynhp_batch(batch, grad_variance, loss, alpha, budget, network_bytes, example_bytes):
    """Eq. 8 to 10, with the budget's room counted in whole examples."""
    candidate = batch + math.floor((1 - alpha) * grad_variance / loss)
    return min(candidate, (budget - network_bytes) // example_bytes)


def cabs_batch(grad_variance, loss, eta, low, high):
    """Balles et al.: proportional to the learning rate and to the relative variance."""
    return min(max(round(eta * grad_variance / loss), low), high)


# The paper's memory metric


def memory_kib(weights, biases, batch, features):
    """Network and mini-batch in KiB, from the arrays themselves: nonzero weights, all biases."""
    numbers = sum(int(np.count_nonzero(w)) for w in weights) + sum(b.size for b in biases)
    return 4 * (numbers + features * batch) / 1024
