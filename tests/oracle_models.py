"""The shipped models in NumPy: (spec, variables, x, train) -> logits, updated batch statistics."""

import math

import numpy as np

erf = np.vectorize(math.erf)


class Net:
    """Layers by name on the arrays of `variables`; collects what BatchNorm would store."""

    def __init__(self, variables, train):
        self.params = variables["params"]
        self.stats = variables.get("batch_stats", {})
        self.train = train
        self.updated = {}

    def leaves(self, name, tree=None):
        tree = self.params if tree is None else tree
        for part in name.split("/"):
            tree = tree[part]
        return tree

    def dense(self, x, name):
        p = self.leaves(name)
        return x @ p["kernel"] + p["bias"]

    def conv(self, x, name, stride=1, pad=0, depthwise=False):
        p = self.leaves(name)
        kernel = p["kernel"]
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
        windows = windows[:, ::stride, ::stride]  # [batch, h, w, channels, kernel h, kernel w]
        if depthwise:
            y = np.einsum("bhwcij,ijc->bhwc", windows, kernel[:, :, 0])
        else:
            y = np.einsum("bhwcij,ijco->bhwo", windows, kernel)
        return y + p.get("bias", 0)

    def bn(self, x, name):
        p, old = self.leaves(name), self.leaves(name, self.stats)
        mean, var = old["mean"], old["var"]
        if self.train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            node = self.updated
            for part in name.split("/"):
                node = node.setdefault(part, {})
            node["mean"] = 0.9 * old["mean"] + 0.1 * mean
            node["var"] = 0.9 * old["var"] + 0.1 * var
        return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]

    def layer_norm(self, x, name):
        p = self.leaves(name)
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def result(self, logits):
        return logits, {"batch_stats": self.updated}


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def pool(x):
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)]
    return np.max(corners, axis=0)


def head(net, x, hidden):
    x = x.reshape(len(x), -1)
    for i in range(len(hidden)):
        x = relu(net.dense(x, f"hidden_{i + 1}"))
    return net.result(net.dense(x, "output"))


def mlp(spec, variables, x, train):
    return head(Net(variables, train), x, spec.widths[1:-1])


def lenet(spec, variables, x, train):
    net = Net(variables, train)
    for i in range(len(spec.convs)):
        x = pool(relu(net.conv(x, f"conv_{i + 1}")))
    return head(net, x, spec.hidden)


def vgg(spec, variables, x, train):
    net, layer = Net(variables, train), 0
    for stage in spec.stages:
        for _ in stage:
            layer += 1
            x = relu(net.bn(net.conv(x, f"conv_{layer}", pad=1), f"bn_{layer}"))
        x = pool(x)
    return head(net, x, spec.hidden)


def resnet(spec, variables, x, train):
    net = Net(variables, train)
    x = relu(net.bn(net.conv(x, "stem", pad=1), "stem_bn"))
    for s, stage in enumerate(spec.inner, start=1):
        for b in range(1, len(stage) + 1):
            at = f"stage{s}_block{b}/"
            changes = s > 1 and b == 1
            stride = 2 if changes else 1
            y = relu(net.bn(net.conv(x, at + "conv1", stride, pad=1), at + "bn1"))
            y = net.bn(net.conv(y, at + "conv2", pad=1), at + "bn2")
            if changes:
                x = net.bn(net.conv(x, at + "shortcut", stride), at + "shortcut_bn")
            x = relu(x + y)
    return net.result(net.dense(x.mean((1, 2)), "output"))


def wide_resnet(spec, variables, x, train):
    net = Net(variables, train)
    x = net.conv(x, "stem", pad=1)
    for s, stage in enumerate(spec.inner, start=1):
        for b in range(1, len(stage) + 1):
            at = f"stage{s}_block{b}/"
            stride = 2 if s > 1 and b == 1 else 1
            active = relu(net.bn(x, at + "bn1"))
            y = relu(net.bn(net.conv(active, at + "conv1", stride, pad=1), at + "bn2"))
            y = net.conv(y, at + "conv2", pad=1)
            x = y + (net.conv(active, at + "shortcut", stride) if b == 1 else x)
    return net.result(net.dense(relu(net.bn(x, "bn")).mean((1, 2)), "output"))


def mobilenet(spec, variables, x, train):
    net = Net(variables, train)
    x = relu6(net.bn(net.conv(x, "stem", pad=1), "stem_bn"))
    for s, stage in enumerate(((None,), *spec.inner), start=1):
        for b in range(1, len(stage) + 1):
            at = f"stage{s}_block{b}/"
            stride = spec.strides[s - 1] if b == 1 else 1
            y = x if s == 1 else relu6(net.bn(net.conv(x, at + "expand"), at + "expand_bn"))
            y = net.conv(y, at + "depthwise", stride, pad=1, depthwise=True)
            y = relu6(net.bn(y, at + "depthwise_bn"))
            y = net.bn(net.conv(y, at + "project"), at + "project_bn")
            x = y if b == 1 else x + y
    x = relu6(net.bn(net.conv(x, "head"), "head_bn"))
    return net.result(net.dense(x.mean((1, 2)), "output"))


def vit(spec, variables, x, train):
    net = Net(variables, train)
    x = net.conv(x, "patches")[:, :: spec.patch, :: spec.patch]
    x = x.reshape(len(x), -1, spec.embed) + net.params["positions"]
    for i, heads in enumerate(spec.heads, start=1):
        block = net.params[f"block{i}"]
        y = net.layer_norm(x, f"block{i}/norm_1")
        for h in range(heads):
            q, k, v = (
                y @ block[name]["kernel"][:, h] + block[name]["bias"][h]
                for name in ("query", "key", "value")
            )
            weights = np.exp(spec.scale * q @ k.transpose(0, 2, 1))  # [batch, query, key]
            mixed = weights / weights.sum(-1, keepdims=True) @ v
            x = x + mixed @ block["merge"]["kernel"][h]
        x = x + block["merge"]["bias"]
        y = net.dense(net.layer_norm(x, f"block{i}/norm_2"), f"block{i}/mlp_1")
        y = y * (1 + erf(y / math.sqrt(2))) / 2
        x = x + net.dense(y, f"block{i}/mlp_2")
    return net.result(net.dense(net.layer_norm(x, "norm").mean(1), "output"))


ORACLES = {
    "mlp": mlp,
    "lenet": lenet,
    "vgg": vgg,
    "resnet": resnet,
    "wide_resnet": wide_resnet,
    "mobilenet": mobilenet,
    "vit": vit,
}
