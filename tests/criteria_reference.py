"""Second opinions on importance scores: NumPy float64, loops and lines, without dynhp_jax.

A network here is a multilayer perceptron with ReLU: `layers` is a list of (kernel [in, out], bias).
Scores are lists, one vector per layer's inputs: input features first, then every hidden layer.
"""

import numpy as np


def forward(layers, x):
    """(what each layer reads, logits)."""
    read = []
    for k, (kernel, bias) in enumerate(layers):
        read.append(x)
        x = x @ kernel + bias
        if k + 1 < len(layers):
            x = np.maximum(x, 0)
    return read, x


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def losses(logits, labels):
    return -np.log(softmax(logits)[np.arange(len(labels)), labels])


def backward(layers, x, labels):
    """Derivatives of every example's cross-entropy by what each layer makes: [batch, out]."""
    read, logits = forward(layers, x)
    delta = softmax(logits)
    delta[np.arange(len(labels)), labels] -= 1
    deltas = [delta]
    for k in range(len(layers) - 1, 0, -1):
        delta = (delta @ layers[k][0].T) * (read[k] > 0)
        deltas.insert(0, delta)
    return read, deltas


def gate_gradients(layers, x, labels):
    """[batch, units] per layer: a dL/da of every unit where it is read."""
    read, deltas = backward(layers, x, labels)
    return [a * (d @ kernel.T) for a, d, (kernel, _) in zip(read, deltas, layers, strict=True)]


def taylor(layers, x, labels):
    return [abs(g.mean(0)) for g in gate_gradients(layers, x, labels)]


def taylor_by_example(layers, x, labels):
    return [abs(g).mean(0) for g in gate_gradients(layers, x, labels)]


def fisher(layers, x, labels):
    return [(g**2).sum(0) / (2 * len(x)) for g in gate_gradients(layers, x, labels)]


def gradient_norm(layers, x, labels):
    """RGN: a dense layer's unit costs its row of weights and one activation."""
    read, deltas = backward(layers, x, labels)
    grads = [a.T @ d / len(x) for a, d in zip(read, deltas, strict=True)]
    return [np.sqrt((grad**2).sum(1)) / (grad.shape[1] + 1) for grad in grads]


def mean_absolute(layers, x):
    return [abs(a).mean(0) for a in forward(layers, x)[0]]


def nonzero(layers, x):
    return [1 - (a == 0).mean(0) for a in forward(layers, x)[0]]


def relevances(layers, x, rule, epsilon):
    """LRP from the predicted logit: relevance [batch, units] of what each layer reads."""
    read, logits = forward(layers, x)
    relevance = np.where(logits == logits.max(1, keepdims=True), logits, 0)
    found = []
    for a, (kernel, bias) in reversed(list(zip(read, layers, strict=True))):
        handed = np.zeros_like(a)
        for i in range(len(a)):
            for j in range(kernel.shape[1]):
                parts = a[i] * kernel[:, j]
                if rule == "z+":
                    parts = np.maximum(parts, 0)
                    total = parts.sum() + epsilon
                else:  # the bias takes its part of the total
                    total = parts.sum() + bias[j]
                    total += epsilon if total >= 0 else -epsilon
                handed[i] += parts / total * relevance[i, j]
        found.insert(0, handed)
        relevance = handed
    return found


def to_unit_interval(score):
    return (score - score.min()) / (score.max() - score.min())


def flexrel(layers, x, delta, epsilon):
    """Magnitude of the kernel that makes a unit (that reads it, for the inputs) and relevance."""
    kernels = [layers[0][0].T] + [kernel for kernel, _ in layers[:-1]]
    parts = zip(kernels, relevances(layers, x, "z+", epsilon), strict=True)
    return [
        (1 - delta) * to_unit_interval(abs(kernel).mean(0))
        + delta * to_unit_interval(relevance.mean(0))
        for kernel, relevance in parts
    ]


def velocity(epochs, x, mu, rule):
    """NEq on the networks of several epochs, the oldest first."""
    outputs = [forward(layers, x)[0] for layers in epochs]
    phis = []
    for old, new in zip(outputs, outputs[1:], strict=False):
        phi = []
        for a, b in zip(old, new, strict=True):
            cosine = np.sign(a) * np.sign(b)  # of numbers, not vectors: -1, 0 or 1
            phi.append(np.where((a == 0) & (b == 0), 1, cosine).mean(0))
        phis.append(phi)
    found = []
    for layer in range(len(outputs[0])):
        v = change = 0
        for old, new in zip(phis, phis[1:], strict=False):
            last, change = change, new[layer] - old[layer]
            v = change - mu * v if rule == "paper" else change - last + mu * v
        found.append(abs(v))
    return found


def per_filter(kernel, axis, score):
    """`score` of every filter of a kernel along an axis."""
    return np.array([score(np.take(kernel, j, axis)) for j in range(kernel.shape[axis])])


def distances(kernel, axis):
    """FPGM: sums of the distances to all filters."""
    filters = [np.take(kernel, j, axis).ravel() for j in range(kernel.shape[axis])]
    return np.array([sum(np.sqrt(((f - g) ** 2).sum()) for g in filters) for f in filters])


def ranks(values):
    return np.argsort(np.argsort(values)).astype(float)


def rank_correlation(a, b):
    """Spearman's, without ties."""
    return np.corrcoef(ranks(a), ranks(b))[0, 1]
