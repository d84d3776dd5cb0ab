"""Figures of a decentralised run: accuracy over rounds, and the graph coloured by accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection

from dynhp_jax.training.files.figures import COLORS, panels_of

_MAJORISATIONS = 300  # of the layout's stress


def draw(records: Sequence[Mapping[str, Any]], graph: np.ndarray, folder: Path) -> None:
    """Writes accuracy.png and graph.png; of nodes that prune themselves bytes.png, too.

    Args:
      records: lines of metrics.jsonl.
      graph: bool[nodes, nodes].
      folder: made if missing, in one that exists.
    """
    folder.mkdir(exist_ok=True)
    judged = [record for record in records if "test_accuracy" in record]
    rounds = [record["round"] for record in judged]
    accuracy = np.array([record["test_accuracy"] for record in judged])
    with panels_of(folder / "accuracy.png", size=(6.0, 3.6), over="round") as (panel,):
        low, first, third, high = np.percentile(accuracy, (0, 25, 75, 100), axis=1)
        panel.fill_between(rounds, low, high, color=COLORS[0], alpha=0.15, label="all nodes")
        panel.fill_between(rounds, first, third, color=COLORS[0], alpha=0.3, label="half of them")
        panel.plot(rounds, accuracy.mean(1), color=COLORS[0], label="mean")
        panel.set_ylabel("test accuracy (%)")
        panel.legend(frameon=False, loc="lower right")
    _graph(graph, accuracy[-1], judged[-1]["alive"], folder / "graph.png")
    if "bytes_held" in records[-1]:
        _bytes(records, folder / "bytes.png")


def _bytes(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What every node holds and sends, round by round: a line for each node."""
    rounds = [record["round"] for record in records]
    names = (("bytes_held", "held (KiB)"), ("bytes_sent", "sent: own arrays (KiB)"),
             ("bytes_sent_shared", "sent: what is shared (KiB)"))  # fmt: skip
    with panels_of(path, len(names), 1, size=(6.0, 2.2), over="round") as panels:
        for panel, (name, label) in zip(panels, names, strict=True):
            values = np.array([record[name] for record in records]) / 1024
            order = np.argsort(np.argsort(values[-1], kind="stable"))
            for node, place in enumerate(order / max(1, len(order) - 1)):
                panel.plot(rounds, values[:, node], color=plt.cm.viridis(place), linewidth=0.9)
            panel.set_ylabel(label)
            panel.set_ylim(bottom=0)


def _graph(graph: np.ndarray, accuracy: np.ndarray, alive: Sequence[int], path: Path) -> None:
    places, alive = layout(graph), np.array(alive, bool)
    figure, panel = plt.subplots(figsize=(6.0, 5.0))
    edges = np.argwhere(np.triu(graph))
    panel.add_collection(LineCollection(places[edges], colors="0.75", linewidths=0.8, zorder=1))
    limits = {"vmin": accuracy.min(), "vmax": max(accuracy.max(), accuracy.min() + 0.1)}
    sizes = 40 + 160 * graph.sum(1) / max(1, graph.sum(1).max())
    for there, marker in ((alive, "o"), (~alive, "X")):
        points = panel.scatter(
            *places[there].T, c=accuracy[there], s=sizes[there], marker=marker, cmap="viridis",
            edgecolors="black", linewidths=0.6, zorder=2, **limits,
        )  # fmt: skip
    figure.colorbar(points, label="test accuracy (%)")
    panel.set_title("larger: more neighbours" + ("" if alive.all() else "; crosses: not there"))
    panel.set_aspect("equal")
    panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def layout(graph: np.ndarray) -> np.ndarray:
    """Places f64[nodes, 2] whose distances are near those along the edges.

    Stress is majorised from nodes on a circle (Gansner, Koren and North 2004, without weights), so
    the same graph is drawn alike every time.
    """
    nodes = len(graph)
    turn = 2 * np.pi * np.arange(nodes) / nodes
    places = np.stack([np.cos(turn), np.sin(turn)], 1) * max(1, nodes) / (2 * np.pi)
    wanted = _distances(graph)
    for _ in range(_MAJORISATIONS):
        apart = places[:, None] - places
        far = np.sqrt((apart**2).sum(-1))
        share = np.divide(wanted, far, out=np.zeros_like(far), where=far > 1e-9)
        places = (share[:, :, None] * apart).sum(1) / nodes
    return places


def _distances(graph: np.ndarray) -> np.ndarray:
    """Edges of the shortest ways; where there is none, one more than the longest."""
    nodes = len(graph)
    found, reached = np.full((nodes, nodes), np.inf), np.eye(nodes, dtype=bool)
    fresh, length = reached, 0
    while fresh.any():
        found[fresh] = length
        fresh = (fresh.astype(np.float32) @ graph.astype(np.float32) > 0) & ~reached
        reached = reached | fresh
        length += 1
    return np.where(np.isinf(found), length, found)
