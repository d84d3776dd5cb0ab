"""The same tasks with Torch-Pruning on the same network in PyTorch; see benchmarks/analysis.py.

`find_groups` is building the dependency graph and listing its groups. `cut` is removing the second
half of the channels of every group, as Torch-Pruning lists them, one group after the other.
"""

import argparse
import copy
import json
import platform
from importlib import metadata

import torch
import torch_pruning as tp
from torch import nn

from benchmarks.analysis import timed


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        outputs = 4 * filters
        self.conv1 = nn.Conv2d(inputs, filters, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.conv3 = nn.Conv2d(filters, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        return torch.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for block in range(count):
                filters, stride = 64 * 2**stage, 2 if stage and not block else 1
                blocks.append(Bottleneck(inputs, filters, stride))
                inputs = 4 * filters
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(inputs, 1000)

    def forward(self, x):
        x = self.blocks(self.pool(torch.relu(self.norm(self.stem(x)))))
        return self.output(x.mean((2, 3)))


def analyse(model: nn.Module, image: torch.Tensor) -> tuple:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=image)
    return graph, list(graph.get_all_groups(ignored_layers=[model.output]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--calls", type=int, default=5)
    calls = parser.parse_args().calls
    model, image = ResNet50().eval(), torch.zeros(1, 3, 224, 224)
    found = timed(lambda: analyse(model, image), calls)
    prepared = [analyse(small, image) for small in (copy.deepcopy(model) for _ in range(calls + 1))]
    smaller = []

    def cut() -> None:
        graph, groups = prepared[len(smaller)]
        for group in groups:
            root, prune = group[0].dep.target.module, group[0].dep.handler
            channels = root.out_channels
            graph.get_pruning_group(root, prune, range(channels // 2, channels)).prune()
        smaller.append(graph.model)

    cuts = timed(cut, calls)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, smaller[0])]
    print(
        json.dumps(
            {
                "seconds": {"find_groups": found, "cut": cuts},
                "groups": len(prepared[0][1]),
                "parameters": counts,
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "torch-pruning": metadata.version("torch-pruning"),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
