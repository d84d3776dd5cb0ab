"""Torch-Pruning's choices for given weights: the peer of benchmarks/criteria_torch.py.

    python -m benchmarks.torch_pruning_peer WEIGHTS.npz SETTINGS

SETTINGS is JSON: model ('lenet' or 'resnet'), its sizes, ratios. WEIGHTS.npz holds PyTorch's
parameters by name, and inputs `x`. Prints JSON: the logits of x, and for every importance, scope
and ratio the units that Torch-Pruning leaves in each of its groups, which is named by the layers
that make its units.
"""

import argparse
import json
import sys
from importlib import metadata

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


class LeNet(nn.Module):
    """Two 5x5 convolutions with 2x2 max pooling, a hidden layer, the output."""

    def __init__(self, convs: list[int], hidden: int, features: int):
        super().__init__()
        self.conv_1 = nn.Conv2d(1, convs[0], 5)
        self.conv_2 = nn.Conv2d(convs[0], convs[1], 5)
        self.hidden_1 = nn.Linear(features, hidden)
        self.output = nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv_1, self.conv_2):
            x = functional.max_pool2d(functional.relu(conv(x)), 2)
        return self.output(functional.relu(self.hidden_1(torch.flatten(x, 1))))


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the shortcut."""

    def __init__(self, before: int, inner: int, stream: int, stride: int, project: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(before, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, stream, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(stream)
        if project:
            self.shortcut = nn.Conv2d(before, stream, 1, stride, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(stream)
        self.project = project

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.project:
            x = self.shortcut_bn(self.shortcut(x))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """A stem, stages of blocks, the mean over positions, the output."""

    def __init__(self, streams: list[int], inner: list[list[int]]):
        super().__init__()
        self.stem = nn.Conv2d(3, streams[0], 3, 1, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(streams[0])
        self.blocks, before = [], streams[0]
        for s, (stream, stage) in enumerate(zip(streams, inner, strict=True), start=1):
            for b, width in enumerate(stage, start=1):
                first = s > 1 and b == 1
                name = f"stage{s}_block{b}"
                self.add_module(name, Block(before, width, stream, 2 if first else 1, first))
                self.blocks.append(name)
                before = stream
        self.output = nn.Linear(before, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem_bn(self.stem(x)))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.output(x.mean((2, 3)))


def built(settings: dict, arrays: dict) -> nn.Module:
    """The model with its weights, for evaluation."""
    if settings["model"] == "lenet":
        features = arrays["hidden_1.weight"].shape[1]
        model = LeNet(settings["convs"], settings["hidden"], features)
    else:
        model = ResNet(settings["streams"], settings["inner"])
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    missing = model.load_state_dict(state, strict=False)
    if missing.unexpected_keys or any("tracked" not in key for key in missing.missing_keys):
        raise SystemExit(f"the weights do not fit: {missing}")
    return model.eval()


def importances() -> dict:
    """By the name that benchmarks/criteria_torch.py gives the definition."""
    kernels = [_ConvNd, nn.Linear]

    def rooted(squares: torch.Tensor) -> torch.Tensor:
        norms = squares.sqrt()
        return norms / norms.mean()

    magnitude = tp.importance.GroupMagnitudeImportance
    return {
        "l1": magnitude(p=1, target_types=kernels),
        "l2, squared": magnitude(p=2, target_types=kernels),
        "l2, one kernel": magnitude(
            p=2, group_reduction="first", normalizer=rooted, target_types=kernels
        ),
        "batch_norm": tp.importance.BNScaleImportance(),
        "defaults": magnitude(),
    }


def choice(settings: dict, arrays: dict, x: torch.Tensor, importance, scope: str, ratio: float):
    """{layers that make the units: those that stay}, by group."""
    model = built(settings, arrays)
    names = {module: name for name, module in model.named_modules()}
    sizes = {name: m.weight.shape[0] for name, m in model.named_modules() if hasattr(m, "weight")}
    pruner = tp.pruner.MetaPruner(
        model,
        x[:1],
        importance=importance,
        global_pruning=scope == "global",
        pruning_ratio=ratio,
        ignored_layers=[model.output],
    )
    found = {}
    for group in pruner.step(interactive=True):
        makers = [
            names[dep.layer]
            for dep, _ in group
            if dep.pruning_fn in (tp.prune_conv_out_channels, tp.prune_linear_out_channels)
        ]
        gone = {int(unit) for unit in group[0].root_idxs}
        kept = [unit for unit in range(sizes[makers[0]]) if unit not in gone]
        found[" ".join(sorted(set(makers)))] = kept
    return found


def main() -> None:
    """Prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("settings", type=json.loads)
    flags = parser.parse_args()
    with np.load(flags.weights) as file:
        arrays = dict(file)
    x = torch.from_numpy(arrays.pop("x"))
    model = built(flags.settings, arrays)
    with torch.no_grad():
        logits = model(x).tolist()
    normalised = any(isinstance(module, _BatchNorm) for module in model.modules())
    choices = [
        {
            "importance": name,
            "scope": scope,
            "ratio": ratio,
            "kept": choice(flags.settings, arrays, x, importance, scope, ratio),
        }
        for name, importance in importances().items()
        if normalised or name != "batch_norm"
        for scope in ("group", "global")
        for ratio in flags.settings["ratios"]
    ]
    versions = {name: metadata.version(name) for name in ("torch", "torch-pruning")}
    json.dump({"logits": logits, "choices": choices, "versions": versions}, sys.stdout)


if __name__ == "__main__":
    main()
